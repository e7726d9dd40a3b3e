# Everything runs from .venv, which `make setup` makes; the targets set up by themselves.
PYTHON ?= python3
BIN := .venv/bin
UV_VERSION := 0.13.9

.PHONY: help setup demo test check format ui screenshots constraints

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.ready  ## make .venv with everything, pinned by constraints.txt

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[train,dev]'
	@touch $@

demo: setup  ## curate, pretrain, evaluate and register a small model on real digits
	$(BIN)/florence submit jobs/smoke/digits.yaml --follow
	$(BIN)/florence submit jobs/demo.yaml --follow --rerun
	@echo
	@echo "Next, try:"
	@echo "  .venv/bin/florence models show florence-pico"
	@echo "  make ui                                      # browse the run and the model in MLflow"
	@echo "  .venv/bin/florence submit jobs/demo.yaml --follow --seed 1"

screenshots: setup  ## take the README's pictures anew from what make demo left (needs chromium)
	$(BIN)/python docs/screenshots.py

ui: setup  ## serve the local MLflow store on http://127.0.0.1:5000
	@set -a; . ./mlruns_config/server.env; exec $(BIN)/mlflow server

test: setup  ## every test but the slow suites
	$(BIN)/python -m pytest

check: setup  ## lint, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/florence render --check

format: setup  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: setup  ## write constraints.txt anew: the newest versions that fit together
	$(BIN)/python -m uv pip compile --quiet --upgrade --all-extras --no-annotate --no-header --no-emit-index-url --output-file constraints.txt pyproject.toml
