"""Curation of the digits: what is written, that it is whole, and that it is written once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from streaming import LocalDataset

from florence.config.run import CurateRun
from florence.data.curate import curate, split_pairs, write_shards
from florence.data.importers.digits import CLASS_NAMES
from florence.data.labels import TextTable, text_key
from florence.data.schema import Pair, data_fingerprint, read_index
from florence.data.transforms import decode_image
from florence.util.errors import UserError


def curate_run(output: Path, **changes: object) -> CurateRun:
    return CurateRun.model_validate({"name": "digits", "output": str(output), **changes})


@pytest.fixture(scope="module")
def train(digits: Path) -> Sequence[dict]:
    return LocalDataset(str(digits / "train"))


def test_images_are_files_of_the_given_size(digits: Path) -> None:
    captions = (digits / "source" / "captions.jsonl").read_text().splitlines()
    assert len(captions) == 1797
    first = json.loads(captions[0])
    image = decode_image((digits / "source" / first["image"]).read_bytes(), name="x")
    assert image.shape == (3, 32, 32)
    assert image.min() == 0
    assert image.max() > 200


def test_no_image_is_in_both_splits(train: Sequence[dict], digits: Path) -> None:
    val = LocalDataset(str(digits / "val"))
    uids = [sample["uid"] for part in (train, val) for sample in part]
    assert len(uids) == len(set(uids)) == 1797
    in_val = Counter(sample["class_id"] for sample in val)
    in_train = Counter(sample["class_id"] for sample in train)
    for class_id in range(10):
        held_out = in_val[class_id] / (in_val[class_id] + in_train[class_id])
        assert 0.19 < held_out < 0.21


def test_label_is_the_key_of_the_text(train: Sequence[dict]) -> None:
    assert all(sample["label"] == text_key(sample["text"]) for sample in train)


def test_captions_name_their_class_in_words_phrases_and_sentences(train: Sequence[dict]) -> None:
    kinds: Counter[str] = Counter()
    for sample in train:
        text = sample["text"]
        assert CLASS_NAMES[sample["class_id"]] in text
        kinds["word" if " " not in text else "sentence" if text.endswith(".") else "phrase"] += 1
    assert all(count > 400 for count in kinds.values()), kinds


def test_shards_have_hashes_and_what_belongs_beside_them(digits: Path) -> None:
    for name in ("train", "val"):
        for shard in read_index(digits / name, field="x"):
            assert shard["raw_data"]["hashes"]["xxh64"]
        assert {"tokenizer.json", "classes.json"} <= {p.name for p in (digits / name).iterdir()}


def test_same_settings_give_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    summary = curate(curate_run(tmp_path / "again", name="another-name"))
    for path in digits.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(digits)).read_bytes() == path.read_bytes()
    assert summary["train_pairs"] + summary["val_pairs"] == 1797
    assert summary["train_fingerprint"] == data_fingerprint(digits / "train")
    assert list(tmp_path.iterdir()) == [tmp_path / "again"]


def test_existing_output_is_kept(digits: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.rglob("*")}
    curate(curate_run(digits))
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*")} == before


def test_other_settings_and_other_folders_are_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output = .* does not come from this run's settings"):
        curate(curate_run(digits, seed=1))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="remove it or name another folder"):
        curate(curate_run(tmp_path))


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab_size = 10"):
        curate(curate_run(tmp_path / "new", vocab_size=10))
    assert not list(tmp_path.iterdir())


def test_split_ignores_the_order_and_follows_the_seed() -> None:
    pairs = [Pair(uid=str(i), image=b"", text="x", class_id=i % 2) for i in range(50)]
    train, val = split_pairs(pairs, val_fraction=0.2, seed=0)
    assert Counter(pair.class_id for pair in val) == {0: 5, 1: 5}
    assert split_pairs(reversed(pairs), val_fraction=0.2, seed=0) == (train, val)
    assert split_pairs(pairs, val_fraction=0.2, seed=1)[1] != val


def test_pairs_without_classes(tmp_path: Path) -> None:
    write_shards(tmp_path / "web", [Pair("a", b"1", "one")], table=TextTable(), class_names=None)
    (sample,) = LocalDataset(str(tmp_path / "web"))
    assert sample == {"uid": "a", "image": b"1", "text": "one", "label": text_key("one")}
    assert not (tmp_path / "web" / "classes.json").exists()
