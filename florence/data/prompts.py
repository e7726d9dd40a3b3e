"""Prompt templates for one- and two-word texts (paper section 2.2, CLIP's prompt ensembles).

The paper prints two examples, the first two below; the rest is ours.
"""

from __future__ import annotations

import random

PROMPT_TEMPLATES = (
    "A photo of the {}",
    "A cropped photo of {}",
    "{}",
    "a picture of a {}",
    "a close-up of the {}",
    "a small image showing {}",
    "a grainy snapshot of a {}",
    "a black and white picture of the {}",
    "a drawing of a {}",
    "a handwritten {}",
    "a scan of a handwritten {}",
    "{}, written by hand",
)
"""What a short text is put into during training, one at random per sample."""

CLASS_TEMPLATES = PROMPT_TEMPLATES
"""The ensemble a class name is embedded with unless an evaluation names its own."""

MAX_WORDS = 2


def apply_prompt(text: str, rng: random.Random) -> str:
    """Puts a text of one or two words into a random template; returns any other as it is."""
    if not 1 <= len(text.split()) <= MAX_WORDS:
        return text
    return rng.choice(PROMPT_TEMPLATES).format(text)
