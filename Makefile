# lockd: what people and CI run. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEEDS ?= 100000
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test fast lint types arch proto unit sim e2e soak bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/.demo-ready: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "python3 (3.11 or newer) is needed"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing lockd into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -e ".[server]"
	@touch $@

$(BIN)/.dev-ready: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e ".[server,pysyncobj,dev]"
	@touch $@ $(BIN)/.demo-ready

demo: $(BIN)/.demo-ready ## a bank on a three-node cluster, one node killed on the way
	@$(BIN)/python -m examples.demo

test: lint types arch unit sim e2e ## everything that CI runs

lint: $(BIN)/.dev-ready ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/.dev-ready ## mypy, strict
	$(BIN)/mypy

arch: $(BIN)/.dev-ready ## import contracts, generated files
	$(BIN)/lint-imports
	$(BIN)/python tools/protoc.py --check
	$(BIN)/python tools/unasync.py --check

unit: $(BIN)/.dev-ready ## unit, property, transcripts, rpc, client
	$(BIN)/pytest -q -n $(JOBS) tests/unit tests/property tests/scripts tests/rpc tests/client tests/arch

sim: $(BIN)/.dev-ready ## the log in simulated time, with faults
	$(BIN)/pytest -q -n $(JOBS) tests/sim

e2e: $(BIN)/.dev-ready ## real processes
	$(BIN)/pytest -q tests/e2e

soak: $(BIN)/.dev-ready ## long: SEEDS simulated histories, the reference models, the fuzzers
	$(BIN)/python tools/soak.py --seeds $(SEEDS) --jobs $(JOBS) --report docs/reports/sim-soak.md

proto: $(BIN)/.dev-ready ## regenerate stubs and the sync client
	$(BIN)/python tools/protoc.py
	$(BIN)/python tools/unasync.py

clean: ## remove caches and what the demo left
	rm -rf .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
