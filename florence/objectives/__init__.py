"""Loss functions: pure, without parameters; they know tensors and collectives, nothing else."""
