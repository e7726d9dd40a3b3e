"""Takes the README's pictures from what `make demo` left: MLflow's pages and an evaluation.

make screenshots        (needs Debian's chromium; MLflow's server is started and ended here)
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import mlflow
from PIL import Image

IMAGES = Path(__file__).parent / "images"
STORE = "sqlite:///mlruns/mlflow.db"
MODEL = "florence-pico"
WINDOW = (1560, 1000)
ASSISTANT_WIDTH = 370  # a panel MLflow opens at the right, of no use in a picture

MLFLOW_SERVER = [
    *(sys.executable, "-m", "mlflow", "server"),
    *("--backend-store-uri", STORE, "--host", "127.0.0.1", "--workers", "1"),
]
CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=30000",
    f"--window-size={WINDOW[0]},{WINDOW[1]}",
]


def main() -> None:
    """Writes the pictures of the newest version of the demo's model and of its run."""
    mlflow.set_tracking_uri(STORE)
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL}'")
    if not versions:
        sys.exit(f"error: {STORE} has no model {MODEL}; run make demo first")
    newest = max(versions, key=lambda version: int(version.version))
    run = mlflow.get_run(newest.run_id)
    IMAGES.mkdir(exist_ok=True)
    picture = mlflow.artifacts.download_artifacts(
        run_id=newest.run_id, artifact_path="eval/digits_zero_shot/retrieval.png"
    )
    shutil.copyfile(picture, IMAGES / "retrieval.png")
    port = free_port()
    server = subprocess.Popen(
        [*MLFLOW_SERVER, f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        site = f"http://127.0.0.1:{port}"
        wait_for(site)
        pages = f"{site}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        take(f"{pages}/model-metrics", IMAGES / "mlflow-run.png")
        take(f"{site}/#/models/{MODEL}/versions/{newest.version}", IMAGES / "mlflow-model.png")
    finally:
        server.terminate()
        server.wait()


def take(url: str, path: Path) -> None:
    """Writes what a browser shows of a page, without MLflow's assistant."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [*CHROMIUM, f"--user-data-dir={profile}", f"--screenshot={path}", url],
            check=True,
            capture_output=True,
            timeout=120,
        )
    with Image.open(path) as image:
        image.crop((0, 0, WINDOW[0] - ASSISTANT_WIDTH, WINDOW[1])).save(path, optimize=True)


def wait_for(site: str, *, seconds: float = 90) -> None:
    """Returns when the server answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{site}/health", timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def free_port() -> int:
    """Returns a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
