# `make audit` and `make test` set up everything they need; nothing has to be installed first but Python 3.11+.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/ready

.PHONY: audit test check lint bench clean

audit: $(READY)  ## gate the bundled pair
	$(BIN)/pytest --base=fixtures/base --tuned=fixtures/rlvr-gentle --junitxml=audit.xml --audit-json=audit.json

test: $(READY)  ## the whole test suite, a process for each core
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

check: lint test  ## everything a change must pass

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	touch $(READY)

bench: $(READY)  ## whole processes timed against each other; `make bench BENCH=--quick` for a first look
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) audit.json audit.xml build dist
