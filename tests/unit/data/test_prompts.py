"""Templates are for short texts and are drawn evenly."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from florence.data.prompts import CLASS_TEMPLATES, PROMPT_TEMPLATES, apply_prompt


@pytest.mark.parametrize("text", ["", "three words here", "a handwritten {} digit"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert {apply_prompt(text, random.Random(seed)) for seed in range(9)} == {text}


@pytest.mark.parametrize("text", ["seven", "handwritten seven", "{braces}"])
def test_short_texts_get_every_template(text: str) -> None:
    drawn = Counter(apply_prompt(text, random.Random(seed)) for seed in range(2000))
    assert drawn.keys() == {template.replace("{}", text) for template in PROMPT_TEMPLATES}
    assert min(drawn.values()) > 0.6 * 2000 / len(PROMPT_TEMPLATES)


def test_templates_have_one_place() -> None:
    assert "A photo of the {}" in PROMPT_TEMPLATES
    assert "A cropped photo of {}" in PROMPT_TEMPLATES
    for template in (*PROMPT_TEMPLATES, *CLASS_TEMPLATES):
        assert template.count("{}") == 1
