"""Byte-pair tokenizers: trained on a data set's own texts, or CLIP's published vocabulary.

Every text becomes BOS, tokens, EOS and padding up to the model's context length; the text tower
reads its feature at EOS, the last token whose `attention_mask` is 1.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from florence.config.data import DataConfig
from florence.config.model import TextEncoderConfig
from florence.data.schema import TOKENIZER_FILE, read_index
from florence.data.storage import cache_folder, fetch
from florence.util.errors import UserError

BOS, EOS, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"

CLIP_MERGES = 49152 - 256 - 2
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokens(NamedTuple):
    """Tokenized texts, both tensors int64 (B, context_length)."""

    input_ids: Tensor
    attention_mask: Tensor
    """1 for BOS to EOS, 0 for padding."""


class Tokenizer:
    """Turns texts into the fixed-length tokens of one model's text tower."""

    def __init__(self, core: tokenizers.Tokenizer, *, context_length: int) -> None:
        self._core = core
        self.context_length = context_length
        self.vocab_size = core.get_vocab_size()
        self.bos_id, self.eos_id = core.token_to_id(BOS), core.token_to_id(EOS)
        # CLIP's vocabulary has no padding token; the mask hides whatever stands there.
        self.pad_id = core.token_to_id(PAD) or 0

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenizes B texts; one that is too long is cut and still ends with EOS."""
        rows = [self._encode(text) for text in texts]
        padded = [row + [self.pad_id] * (self.context_length - len(row)) for row in rows]
        lengths = torch.tensor([len(row) for row in rows])
        return Tokens(
            input_ids=torch.tensor(padded),
            attention_mask=(torch.arange(self.context_length) < lengths[:, None]).long(),
        )

    def save(self, path: Path) -> None:
        """Writes the vocabulary as a tokenizer.json, whatever it was loaded from."""
        self._core.save(str(path))

    def _encode(self, text: str) -> list[int]:
        # One text at a time: the library's own batches use threads, which forked workers lack.
        words = self._core.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *words[: self.context_length - 2], self.eos_id]


def tokenizer_path(cfg: DataConfig) -> Path:
    """Returns the tokenizer a run uses: the one it names, else the one beside its shards."""
    if cfg.tokenizer is not None:
        return Path(cfg.tokenizer)
    if cfg.cache_dir is not None:
        folder = cache_folder(cfg.cache_dir, cfg.train)
        folder.mkdir(parents=True, exist_ok=True)
        return fetch(cfg.train, TOKENIZER_FILE, folder, field="data.train")
    path = Path(cfg.train) / TOKENIZER_FILE
    read_index(path.parent, field="data.train")  # a wrong folder lacks more than the tokenizer
    if not path.is_file():
        raise UserError(
            f"data.train = {cfg.train!r} has no {TOKENIZER_FILE} beside its shards; "
            f"set data.tokenizer to a tokenizer.json or a CLIP BPE vocabulary"
        )
    return path


def load_tokenizer(path: str | Path, *, text: TextEncoderConfig) -> Tokenizer:
    """Loads a tokenizer.json or CLIP's `bpe_simple_vocab_16e6.txt[.gz]` for a text tower.

    Raises UserError when the file is none of these or has more tokens than the tower.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"data.tokenizer: {str(path)!r} does not exist")
    try:
        is_json = path.suffix == ".json"
        core = tokenizers.Tokenizer.from_file(str(path)) if is_json else _load_clip(path)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"data.tokenizer: {str(path)!r} is neither a tokenizer.json nor a CLIP BPE "
            f"vocabulary: {error}"
        ) from error
    missing = [token for token in (BOS, EOS) if core.token_to_id(token) is None]
    if missing:
        raise UserError(f"data.tokenizer: {str(path)!r} lacks the tokens {' and '.join(missing)}")
    if core.get_vocab_size() > text.vocab_size:
        raise UserError(
            f"model.text.vocab_size = {text.vocab_size} is less than the {core.get_vocab_size()} "
            f"tokens of {str(path)!r}"
        )
    return Tokenizer(core, context_length=text.context_length)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> tokenizers.Tokenizer:
    """Trains byte-level BPE in lower case; any text can be encoded, seen or not.

    Raises UserError when `vocab_size` has no room for the 256 bytes and the special tokens.
    """
    specials, alphabet = [PAD, BOS, EOS], pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(specials) + len(alphabet):
        raise UserError(f"vocab_size = {vocab_size} is below {len(specials) + len(alphabet)}")
    core = tokenizers.Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core


def _load_clip(path: Path) -> tokenizers.Tokenizer:
    """Rebuilds CLIP's tokenizer from its list of merges, one pair per line after a header."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    lines = text.split("\n")[1 : CLIP_MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    if len(merges) < CLIP_MERGES:
        raise ValueError(f"{len(merges)} merges, not {CLIP_MERGES}")
    symbols = _byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    tokens += [left + right for left, right in merges] + [BOS, EOS]
    core = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,
            end_of_word_suffix="</w>",
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return core


def _byte_symbols() -> list[str]:
    """Returns the printable stand-ins of the 256 bytes in CLIP's (GPT-2's) order of token ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    rest = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + index) for index in range(rest)]
