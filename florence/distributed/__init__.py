"""Ranks working together: process group, collectives, engine and checkpoints; owns DeepSpeed."""

import os

import torch

# DeepSpeed reads it when it is imported, and would guess, aloud, if it were not set.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
