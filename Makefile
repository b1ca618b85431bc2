# The few verbs; `make help` lists them. CI calls the same ones.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# A CPU or CUDA build of PyTorch: TORCH_INDEX=<the index that PyTorch's install page names for it> make setup
TORCH_INDEX ?=
ARGS ?=
# Tests run in as many processes as there are cores, four at most; the tests of a file stay together.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types unit e2e test-faults fuzz bench bench-setup clean

help:  ## list these verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv with everything in it (skipped when nothing changed)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Silo needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -z "$(TORCH_INDEX)" || $(BIN)/pip install --disable-pip-version-check -q torch==2.13.0 --index-url $(TORCH_INDEX)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## train one private model across four real hospitals (ARGS="--epsilon 1 --rounds 5")
	@$(BIN)/silo demo $(ARGS)

test: setup lint types unit e2e  ## every check that CI runs

lint: setup  ## style, formatting and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: setup  ## mypy, strict
	@$(BIN)/mypy

unit: setup  ## unit, vector, property, contract and CLI tests
	@$(PYTEST) tests/unit tests/vectors tests/properties tests/contract tests/cli $(ARGS)

e2e: setup  ## whole runs on real components
	@$(PYTEST) tests/e2e tests/faults $(ARGS)

test-faults: setup  ## kill, cut off and starve every part of a deployment (ARGS="--shard 1/4", "-m riskiest --repeat 5")
	@SILO_FAULTS=all $(BIN)/pytest tests/faults tests/e2e/test_resume.py $(ARGS)

fuzz: setup  ## fuzz the parsers, guided by coverage (ARGS="--seconds 3600")
	@$(BIN)/python -m tests.fuzz.wire --seconds 300 $(ARGS)

bench: bench-heart bench-encryption bench-policies  ## every benchmark; make bench-NAME runs one

bench-setup:  ## NVFlare in an environment of its own, for bench-encryption (it pins another TenSEAL)
	@mkdir -p .bench && printf '*\n' > .bench/.gitignore
	@test -x .bench/peers/bin/python || $(PYTHON) -m venv .bench/peers
	.bench/peers/bin/pip install --disable-pip-version-check -q 'nvflare[HE]==2.9.0'

bench-%: setup
	@$(BIN)/python -m benchmarks.$* $(ARGS)

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
