"""Rendering runs to PyTorchJobs and running those, on this machine or on Kubernetes; no torch."""
