# make demo: the whole loop on this machine.   make test: the test suite.
# Each target sets up its own environment in .venv first (pinned in constraints.txt).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_FLAGS ?=
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo test test-all bench bench-train bench-engine lint clean

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Understudy needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 2; }
	@echo "setting up $(VENV) (once; PyTorch for the CPU is the largest part)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(READY)
	@$(BIN)/understudy demo $(DEMO_FLAGS)

test: $(READY)
	@$(PYTEST) -m "not slow"

test-all: $(READY)
	@$(PYTEST)

bench: $(READY)
	@$(BIN)/python -m bench

bench-train: $(READY)
	@$(BIN)/python -m bench train train_cuda

bench-engine: $(READY)
	@$(BIN)/python -m bench engine engine_cuda

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
