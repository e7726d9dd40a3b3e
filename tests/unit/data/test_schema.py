"""Folders that are no shards are refused by name; the fingerprint follows the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from florence.data.schema import data_fingerprint, read_class_names, read_index
from florence.util.errors import UserError


def test_index_lists_the_shards(digits: Path) -> None:
    assert sum(shard["samples"] for shard in read_index(digits / "val", field="x")) == 359


def test_missing_folder_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.train = '/no/such' is not a folder"):
        read_index("/no/such", field="data.train")


def test_parent_folder_points_to_the_shards(digits: Path) -> None:
    with pytest.raises(UserError, match=r"has no index\.json.*did you mean .*digits/train'"):
        read_index(digits, field="data.train")


@pytest.mark.parametrize("content", ["", "[]", '{"shards": []}', '{"shards": 3}'])
def test_broken_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match=r"data\.train: .*index\.json is not an index"):
        read_index(tmp_path, field="data.train")


def test_foreign_columns_are_named(digits: Path, tmp_path: Path) -> None:
    index = json.loads((digits / "val" / "index.json").read_text())
    index["shards"][0]["column_names"] = ["image", "caption"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        UserError, match=r"\['caption', 'image'\], without \['label', 'text', 'uid'"
    ):
        read_index(tmp_path, field="data.train")


def test_fingerprint_is_that_of_the_content(digits: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits / "val", tmp_path / "copy")
    assert data_fingerprint(copy) == data_fingerprint(digits / "val")
    assert data_fingerprint(copy) != data_fingerprint(digits / "train")
    index = (copy / "index.json").read_text()
    digest = json.loads(index)["shards"][0]["raw_data"]["hashes"]["xxh64"]
    (copy / "index.json").write_text(index.replace(digest, digest[::-1]))
    assert data_fingerprint(copy) != data_fingerprint(digits / "val")


def test_class_names(digits: Path, tmp_path: Path) -> None:
    assert read_class_names(digits / "val")[7] == "seven"
    with pytest.raises(UserError, match=r"has no classes\.json"):
        read_class_names(tmp_path)
