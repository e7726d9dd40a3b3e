"""Evaluations of a trained task; they know `tasks.base` only, never a concrete task."""
