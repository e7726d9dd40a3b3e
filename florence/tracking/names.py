"""The stable names of what a run leaves in MLflow: tags, artifacts and aliases.

Everything a person, a dashboard or a promotion gate looks up is spelt here once.
"""

from __future__ import annotations

JOB = "florence.job"
"""Name of the job; every attempt of it lands in the run that carries this tag."""
FINGERPRINT = "florence.fingerprint"
"""SHA-256 of the resolved run."""
VERSION = "florence.version"
DATA_FINGERPRINT = "florence.data_fingerprint"
"""Prefix: `florence.data_fingerprint.train` and one for each evaluation's data."""
GIT_COMMIT = "florence.git_commit"
GIT_DIRTY = "florence.git_dirty"
"""`true` when the code differed from that commit."""
CHECKPOINT = "florence.checkpoint"
"""URI of the newest checkpoint; the older ones kept are its siblings."""
CHECKPOINT_STEP = "florence.checkpoint_step"
RUN_ID = "florence.run_id"
"""On a model version: the MLflow run it comes from."""

RUN_YAML = "run.yaml"
"""Artifact: the file the job ran, to the byte."""
MODEL = "model"
"""Name of the logged model on the run's page."""

CANDIDATE = "candidate"
"""Alias of the newest registered version."""
