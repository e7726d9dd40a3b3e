"""The text hash table of UniCL: a label is the key of a RAW description (paper section 2.2).

Byte-identical descriptions share a label, whatever template the text is later put into, whichever
data set it comes from and in whatever order it was written; every other pair is a negative.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from florence.util.errors import FlorenceError


def text_key(text: str) -> int:
    """Returns the key of a description: 64 bits of BLAKE2b, as a signed integer."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class TextTable:
    """Hands out keys and remembers whose they are: two texts never share one unnoticed."""

    def __init__(self, key: Callable[[str], int] = text_key) -> None:
        self._key = key
        self._texts: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def label(self, text: str) -> int:
        """Returns the key of `text`; raises FlorenceError when another text already has it."""
        key = self._key(text)
        owner = self._texts.setdefault(key, text)
        if owner != text:
            raise FlorenceError(f"the texts {owner!r} and {text!r} have the same key {key}")
        return key
