# Two commands for newcomers: `make demo` trains a detector on this machine, `make test` runs the tests.
# Both set up .venv first. PYTHON names another interpreter, TORCH another PyTorch: make demo TORCH="torch==2.12.0"

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
TORCH ?= torch==2.13.0
BIN := .venv/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=30
STARTED := $(shell date +%s)
export OMP_WAIT_POLICY ?= PASSIVE
unexport PYTHONDONTWRITEBYTECODE  # every process of a test would compile qdet anew

.PHONY: demo test test-slow test-ci-slow check docs format setup clean

demo: setup  ## render images, make shards, train on a local Ray, show AP and pictures (12 minutes on 2 cores)
	$(BIN)/python -m qdet demo --started $(STARTED)

test: setup  ## everything that takes seconds, side by side where that is safe (10 minutes on 2 cores)
	$(PYTEST) -m "not slow and not gpu and not serial" -n 3 --dist loadfile  # some tests only wait
	$(PYTEST) -m "not slow and not gpu and serial" tests/launch tests/tracking tests/training

test-slow: setup  ## all tests that take minutes (hours on 2 cores)
	$(PYTEST) -m "slow and not serial" -n 2 --dist worksteal
	$(PYTEST) -m "slow and serial"

test-ci-slow: setup  ## the slow tests that every landing runs (25 minutes on 2 cores)
	$(PYTEST) -m "ci_slow and not serial" -n 2 --dist worksteal
	$(PYTEST) -m "ci_slow and serial"

check: setup  ## lint, format, types, import contract, shell scripts, Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/shellcheck cluster/*.sh tests/*.sh .ci/run
	$(BIN)/hadolint cluster/Dockerfile cluster/mlflow/Dockerfile

docs: setup  ## the documentation site, in site/
	$(BIN)/python docs/site/build.py --out site

format: setup  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "qdet needs Python 3.11 to 3.13; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:  ## remove what the demo made, and nothing that you made
	rm -rf data/demo
