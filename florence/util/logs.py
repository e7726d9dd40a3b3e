"""Logging of a worker: one line per event, the main rank at INFO, the others at WARNING."""

from __future__ import annotations

import logging


def setup_logging(*, is_main: bool) -> None:
    """Configures the root logger of this process; libraries speak at WARNING only."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for library in ("DeepSpeed", "mlflow", "torch.utils.cpp_extension"):
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.getLogger("florence").setLevel(logging.INFO if is_main else logging.WARNING)
