"""What a run says about where it comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from florence import __version__
from florence.config.run import CurateRun
from florence.tracking import lineage, names


def test_flatten_spells_values_as_the_job_file_does() -> None:
    values = {
        "name": "demo",
        "optim": {"lr": 0.0005, "betas": [0.9, 0.98]},
        "evaluation": [{"path": "a"}, {"path": "b"}],
        "model": {"preset": None, "text": {"causal": True}},
        "empty": [],
    }
    assert lineage.flatten(values) == {
        "name": "demo",
        "optim.lr": "0.0005",
        "optim.betas": "[0.9, 0.98]",
        "evaluation.0.path": "a",
        "evaluation.1.path": "b",
        "model.preset": "null",
        "model.text.causal": "true",
        "empty": "[]",
    }


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package inside a git repository, taken for this one."""
    package = tmp_path / "repo" / "florence"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package.parent / "README.md").write_text("")
    git(package.parent, "init", "--quiet")
    monkeypatch.setattr(lineage, "_PACKAGE", package)
    return package


def git_tags() -> dict[str, str]:
    run = CurateRun(name="x", output="y")
    tags = lineage.lineage_tags(run, data_fingerprints={})
    assert tags[names.VERSION] == __version__
    return {key: value for key, value in tags.items() if "git" in key}


def test_the_commit_is_recorded_and_whether_the_code_was_changed(package: Path) -> None:
    git(package.parent, "add", ".")
    git(package.parent, "commit", "--quiet", "-m", "x")
    commit = git(package.parent, "rev-parse", "HEAD")
    assert git_tags() == {names.GIT_COMMIT: commit, names.GIT_DIRTY: "false"}
    (package.parent / "README.md").write_text("no code")
    assert git_tags()[names.GIT_DIRTY] == "false"
    (package / "new.py").write_text("code")
    assert git_tags()[names.GIT_DIRTY] == "true"


def test_somebody_elses_repository_is_not_taken_for_ours(package: Path) -> None:
    git(package.parent, "add", "README.md")  # as a site-packages folder inside a work tree is not
    git(package.parent, "commit", "--quiet", "-m", "x")
    assert git_tags() == {}


def test_no_git_is_no_error(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(package))
    assert git_tags() == {}
