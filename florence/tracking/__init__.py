"""MLflow behind one door: runs, metrics, artifacts and the model registry.

Only this package imports mlflow, and importing the package itself does not: `run` and `registry`
do, which takes seconds, so the control plane imports them inside the functions that need them.
"""

import os

# Read by MLflow while it is imported, so they are set before any module of this package does that.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
