# `make demo` and `make test` need only Python 3.11+ and make: they build .venv/ themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
PIP := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-tl4 check format bench train-list-tiny train-list-saes clean

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

# TransformerLens 4 in an environment of its own: it has TransformerBridge alone, and sae-lens does not go with it.
TL4 := .venv-tl4
TL4_STAMP := $(TL4)/.stamp
TL4_PIP := PIP_CONSTRAINT=$(CURDIR)/$(TL4)/constraints.txt $(TL4)/bin/python -m pip install --quiet --disable-pip-version-check

$(TL4_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TL4)
	sed -e 's/^transformer-lens==.*/transformer-lens==4.3.0/' -e '/^sae-lens==/d' constraints.txt > $(TL4)/constraints.txt
	$(TL4_PIP) torch
	$(TL4_PIP) -e '.[test]'
	@touch $(TL4_STAMP)

test-tl4: $(TL4_STAMP)  ## models, Runner, patching and induction with TransformerLens 4; what builds a HookedTransformer is skipped
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(TL4)/bin/python -m pytest -n auto --maxprocesses 4 \
	  tests/models tests/runner tests/patching tests/experiments/test_induction.py

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

train-list-saes: $(STAMP)  ## SAEs for the built-in list model; goes on where it was stopped
	$(BIN)/mechlist train list-saes --out runs/list-saes

clean:
	rm -rf .venv .venv-tl4 runs
