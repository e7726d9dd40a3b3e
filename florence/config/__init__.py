"""Torch-free schemas of everything a job file can say, and how a run is resolved from it."""
