"""Ranks, collectives and DeepSpeed; the only package that imports deepspeed."""
