# `make demo` and `make test` need only Python 3.11+ and make: they build .venv/ themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
PIP := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check format bench train-list-tiny clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mechlist needs Python 3.11 or later; set PYTHON=python3.11")'
	@echo "Installing into .venv (once, a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## from a model to a report; the report's path is printed last
	@$(BIN)/mechlist run experiments/list_ending/study.yaml --out runs/demo --overwrite

test: $(STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## ratios against the alternatives, measured in one run
	$(PIP) -e '.[bench]'
	HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.benchmarks

train-list-tiny: $(STAMP)  ## the built-in list model again: at most 90 minutes on 2 cores; goes on where it was stopped
	$(BIN)/mechlist train list-tiny --out runs/list-tiny

clean:
	rm -rf .venv runs
