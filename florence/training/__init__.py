"""The training loop and its callbacks; knows `tasks.base` only, never a concrete task."""
