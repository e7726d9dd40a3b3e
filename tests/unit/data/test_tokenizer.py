"""Own and CLIP vocabularies: tokens, truncation, padding, and what is refused."""

from __future__ import annotations

import gzip
import itertools
import random
import re
import shutil
from pathlib import Path

import pytest
import torch

from florence.config.data import DataConfig
from florence.config.model import TextEncoderConfig
from florence.data.tokenizer import (
    CLIP_MERGES,
    Tokenizer,
    load_tokenizer,
    tokenizer_path,
    train_tokenizer,
)
from florence.util.errors import UserError

TEXTS = ["a handwritten seven", "the digit nine", "seven", "This is the digit seven."]


def small(**changes: int) -> TextEncoderConfig:
    return TextEncoderConfig(**{"vocab_size": 300, "context_length": 8, **changes})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    train_tokenizer(TEXTS, vocab_size=300).save(str(path))
    return path


def test_training_is_deterministic() -> None:
    first, second = (train_tokenizer(TEXTS, vocab_size=300).to_str() for _ in range(2))
    assert first == second


def test_tokens_are_framed_cut_and_padded(own: Path) -> None:
    tokenizer = load_tokenizer(own, text=small())
    tokens = tokenizer(["seven", "a handwritten seven " * 9, ""])
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (3, 8)
    assert tokens.input_ids.dtype == tokens.attention_mask.dtype == torch.int64
    lengths = tokens.attention_mask.sum(dim=1)
    assert lengths[1:].tolist() == [8, 2]
    for ids, mask, length in zip(*tokens, lengths.tolist(), strict=True):
        assert mask.tolist() == [1] * length + [0] * (8 - length)
        assert ids[0] == tokenizer.bos_id
        assert ids[length - 1] == tokenizer.eos_id
        assert (ids[length:] == tokenizer.pad_id).all()


def test_any_text_comes_back_in_lower_case(own: Path) -> None:
    tokenizer = load_tokenizer(own, text=small(context_length=99))
    ids = tokenizer(["Zürich 日本 🎉 <b>"]).input_ids[0].tolist()
    assert tokenizer._core.decode(ids) == " zürich 日本 🎉 <b>"


def test_a_word_is_the_same_token_at_the_start_and_inside(own: Path) -> None:
    tokenizer = load_tokenizer(own, text=small())
    alone, inside = tokenizer(["seven", "a handwritten seven"]).input_ids.tolist()
    assert alone[1] == inside[inside.index(tokenizer.eos_id) - 1]


def test_saving_keeps_every_token(own: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(own, text=small())
    tokenizer.save(tmp_path / "again.json")
    again = load_tokenizer(tmp_path / "again.json", text=small())
    assert torch.equal(again(TEXTS).input_ids, tokenizer(TEXTS).input_ids)


def test_vocabulary_must_fit_the_model(own: Path) -> None:
    with pytest.raises(UserError, match=r"model\.text\.vocab_size = 200 is less than the 2"):
        load_tokenizer(own, text=small(vocab_size=200))


def test_vocabulary_needs_all_bytes() -> None:
    with pytest.raises(UserError, match="vocab_size = 258 is below 259"):
        train_tokenizer(TEXTS, vocab_size=258)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"{}"), ("b.txt", b"header\na b\n"), ("c.gz", b"no gzip"), ("d.txt", b"\n\xff")],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"data\.tokenizer: .*{name}'"):
        load_tokenizer(path, text=small())


def test_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.tokenizer: '/no/such' does not exist"):
        load_tokenizer("/no/such", text=small())


def test_tokenizer_of_a_run(digits: Path, tmp_path: Path) -> None:
    beside = tokenizer_path(DataConfig(train=str(digits / "train")))
    assert beside == digits / "train" / "tokenizer.json"
    assert tokenizer_path(DataConfig(train="x", tokenizer="y.json")) == Path("y.json")
    with pytest.raises(UserError, match=r"data\.train = '/no/such' is not a folder"):
        tokenizer_path(DataConfig(train="/no/such"))
    shutil.copy(digits / "train" / "index.json", tmp_path)
    with pytest.raises(UserError, match=r"data\.train = .* has no tokenizer\.json"):
        tokenizer_path(DataConfig(train=str(tmp_path)))
    copied = tokenizer_path(DataConfig(train=str(digits / "train"), cache_dir=str(tmp_path)))
    assert copied.is_relative_to(tmp_path)
    assert copied.read_bytes() == beside.read_bytes()


class TestClip:
    """A vocabulary in CLIP's file format with merges of our own, against CLIP's algorithm."""

    @pytest.fixture(scope="class")
    def merges(self) -> list[tuple[str, str]]:
        # Whole words first, then pairs of bytes at random, up to CLIP's number.
        words = ["s e", "v e", "se ve", "seve n</w>", "d i", "g i", "di gi", "' s</w>", "1 2</w>"]
        merges = [(left, right) for left, right in (word.split() for word in words)]
        symbols = list(byte_symbols().values())
        pairs = set(itertools.product(symbols, symbols)) - set(merges)
        return merges + random.Random(0).sample(sorted(pairs), CLIP_MERGES - len(merges))

    @pytest.fixture(scope="class")
    def tokenizer(
        self, merges: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
    ) -> Tokenizer:
        path = tmp_path_factory.mktemp("clip") / "bpe_simple_vocab_16e6.txt.gz"
        text = "\n".join(["#version: 0.2", *map(" ".join, merges), "beyond the last", ""])
        path.write_bytes(gzip.compress(text.encode()))
        return load_tokenizer(path, text=TextEncoderConfig(context_length=77))

    def test_special_tokens(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.vocab_size == 49408
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (49406, 49407, 0)

    def test_equals_clips_algorithm(
        self, tokenizer: Tokenizer, merges: list[tuple[str, str]]
    ) -> None:
        rng = random.Random(0)
        pieces = ["seven", "SEVEN", "digit", "zürich", "it's", "12", "日本", "!!", "\n", " ", "🎉"]
        for _ in range(200):
            text = "".join(rng.choice(["", " "]) + rng.choice(pieces) for _ in range(8))
            expected = [49406, *clip_encode(text, merges)[:75], 49407]
            mask = tokenizer([text]).attention_mask[0].bool()
            assert tokenizer([text]).input_ids[0][mask].tolist() == expected, text

    def test_is_saved_as_json(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        tokenizer.save(tmp_path / "tokenizer.json")
        text = TextEncoderConfig(context_length=77)
        again = load_tokenizer(tmp_path / "tokenizer.json", text=text)
        assert torch.equal(again(TEXTS).input_ids, tokenizer(TEXTS).input_ids)


def byte_symbols() -> dict[int, str]:
    """A printable character for every byte, in the order of their token ids."""
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in codes]
    return {code: chr(code) for code in codes} | {b: chr(256 + i) for i, b in enumerate(others)}


def clip_encode(text: str, merges: list[tuple[str, str]]) -> list[int]:
    """CLIP's encoding, stated plainly: bytes, then always the merge that is first in the file."""
    symbols = byte_symbols()
    tokens = [*symbols.values(), *(f"{symbol}</w>" for symbol in symbols.values())]
    tokens += ["".join(pair) for pair in merges]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids = {token: index for index, token in enumerate(tokens)}
    encoded = []
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:(?!\w)\S|_)+"
    for word in re.findall(pattern, text.lower()):
        parts = [symbols[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while pairs := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
            best = min(pairs, key=ranks.__getitem__)
            at = list(itertools.pairwise(parts)).index(best)
            parts[at : at + 2] = ["".join(best)]
        encoded += [ids[part] for part in parts]
    return encoded
