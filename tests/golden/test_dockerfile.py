"""The Dockerfile: pinned, complete, and ending as the user the pods run as."""

from __future__ import annotations

import re
from pathlib import Path

import florence
from florence.config.cluster import ClusterConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_every_stage_starts_from_one_pinned_base() -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
    sources = re.findall(r"^FROM (\S+) AS", TEXT, re.MULTILINE)
    assert set(sources) <= {"${PYTHON_IMAGE}", *STAGES}


def test_packages_are_pinned() -> None:
    for stage in STAGES.values():
        for command in re.findall(r"uv pip install(?:[^\n]*\\\n)*[^\n]*", stage):
            assert "--constraints constraints.txt" in command or "--no-deps" in command, command
    for line in (ROOT / "mlruns_config/requirements.txt").read_text().splitlines():
        assert line.startswith("#") or "==" in line, line


def test_images_run_as_the_user_of_the_pods() -> None:
    for name in ("mlflow", "train"):
        assert re.findall(r"^USER (\S+)$", STAGES[name], re.MULTILINE) == ["1000:1000"]
    # Only the exec form hands signals on: a shell in between would swallow the SIGTERM.
    assert re.findall(r"^(?:ENTRYPOINT|CMD) (.)", TEXT, re.MULTILINE) == ["["] * 3


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE)
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert {file for files in copied for file in files.split()} == set(allowed)


def test_jobs_and_the_build_command_name_the_same_image() -> None:
    assert ClusterConfig().image == f"florence:{florence.__version__}"
    assert f"--tag {ClusterConfig().image} ." in TEXT
