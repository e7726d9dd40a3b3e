"""Labels are stable keys of texts, and a shared key does not go unnoticed."""

from __future__ import annotations

import pytest

from florence.data.labels import TextTable, text_key
from florence.util.errors import FlorenceError


def test_keys_never_change() -> None:
    # Written into shards and compared between data sets: other values would be other labels.
    assert text_key("seven") == 5704112579019256664
    assert text_key("") == -1970711489451281740


def test_only_identical_bytes_share_a_label() -> None:
    table = TextTable()
    texts = ["dog", "Dog", "dog ", "a dog", "dög", "do\u0308g"]
    labels = [table.label(text) for text in texts]
    assert len(set(labels)) == len(texts) == len(table)
    assert [table.label(text) for text in texts] == labels
    assert all(-(2**63) <= label < 2**63 for label in labels)


def test_a_collision_is_an_error() -> None:
    table = TextTable(key=len)
    assert table.label("dog") == table.label("dog") == 3
    with pytest.raises(FlorenceError, match="'dog' and 'cat' have the same key 3"):
        table.label("cat")
