"""Florence: pretrain, adapt, evaluate and register vision-language foundation models.

An open implementation of the system of arXiv 2111.11432. Nothing heavy is imported here: the
control plane (`florence.cli`, `florence.sdk`) never loads torch.
"""

__version__ = "0.1.0"
