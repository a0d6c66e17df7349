# The same verbs locally and in CI. Everything runs from .venv in this checkout.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo serve train test check lint bench bench-export export-2b

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

setup: $(VENV)/.done  ## make .venv with everything installed

# torch first and pinned: another package asking for it would take another build.
$(VENV)/.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev]'
	touch $@

demo: setup  ## train on the sample set, serve the new bundle, score test queries (DEMO_EXIT=1 ends it)
	$(BIN)/python -m training.demo

serve: setup  ## serve the production bundles of model_repo/bundles; trains nothing
	$(BIN)/cprm-serve

train: setup  ## make the shipped bundle again, into runs/bundles
	$(BIN)/cprm-train run --config training/configs/miniapps.yaml --data data/sample

test: setup  ## the fast suite
	$(BIN)/pytest

check: setup  ## the long suite: fresh environments, real servers, real data
	$(BIN)/pytest -m slow --timeout 2400

lint: setup  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## the service against a bare session, in one run
	$(BIN)/python -m loadtests.bench

bench-export: setup  ## what each option of an exported graph is worth on this CPU
	$(BIN)/python -m loadtests.export_bench

export-2b: setup  ## GLM-2B in fp16 from weights made on the spot, 4 GB into runs/export-2b; START=<folder> for real ones
	rm -rf runs/export-2b
	$(BIN)/python -m training.export.large --out runs/export-2b $(if $(START),--start $(START))
