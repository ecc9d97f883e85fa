# Every target sets up what it needs; nothing has to be installed first but Python 3.11+.

PYTHON ?= python3
VENV ?= .venv
VENV_AUDIT ?= .venv-audit
VENV_LOWEST ?= .venv-lowest
BIN = $(VENV)/bin
READY = $(VENV)/ready
READY_AUDIT = $(VENV_AUDIT)/ready
READY_LOWEST = $(VENV_LOWEST)/ready
INSTALL = -m pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed
BUILT_FROM = pyproject.toml constraints.txt hatch_build.py
# What needs no package beyond these versions, and touches each of the dependencies.
# Only newer releases of safetensors write complex numbers, which test_number_kinds.py does.
LOWEST_TESTS = tests/calibration tests/linalg tests/measurement tests/naming tests/results tests/test_atomic_write.py \
	tests/test_sizes.py $(addprefix tests/judging/test_,check_files.py config.py effective_config.py judge.py waivers.py)

.PHONY: audit test test-fast test-lowest check lint docs reference fuzz bench mutations clean

# A shell that forbids compiled files would have each of the processes that tests start compile the package again.
test test-fast test-lowest: export PYTHONDONTWRITEBYTECODE =

audit: $(READY_AUDIT)  ## gate the bundled pair, in an environment that holds the package alone
	$(VENV_AUDIT)/bin/pytest --base=fixtures/base --tuned=fixtures/rlvr-gentle --junitxml=audit.xml --audit-json=audit.json

test: $(READY)  ## the complete test suite, a process for each core
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test-fast: $(READY)  ## what takes under a minute: no test marked slow or gpu
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q -m "not slow and not gpu"

SECONDS ?= 600
SEED ?= 0

fuzz: $(READY)  ## damaged files for every reader; `make fuzz SECONDS=60 SEED=1` for another minute
	$(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(SEED)

test-lowest: $(READY_LOWEST)  ## the core's tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 $(VENV_LOWEST)/bin/pytest -n 2 --dist worksteal -q -m "not slow and not gpu" $(LOWEST_TESTS) \
		--ignore=tests/measurement/test_number_kinds.py --ignore=tests/results/test_tables.py \
		--ignore=tests/measurement/test_probe_rows.py

check: lint docs test  ## everything a change must pass

lint: $(READY)  ## style, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## build the documentation site into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reference: $(READY)  ## write the generated pages of docs/ anew
	$(BIN)/python docs/reference.py

$(READY): $(BUILT_FROM)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[dev]'
	touch $(READY)

$(READY_AUDIT): $(BUILT_FROM)
	$(PYTHON) -m venv $(VENV_AUDIT)
	$(VENV_AUDIT)/bin/python $(INSTALL) -c constraints.txt -e .
	touch $(READY_AUDIT)

$(READY_LOWEST): $(BUILT_FROM) constraints-lowest.txt
	$(PYTHON) -m venv $(VENV_LOWEST)
	$(VENV_LOWEST)/bin/python $(INSTALL) -c constraints-lowest.txt -e '.[xdist,core-tests]'
	touch $(READY_LOWEST)

bench: $(READY)  ## time complete processes against each other; `make bench BENCH=--quick` for a first look
	$(BIN)/python -m benchmarks $(BENCH)

mutations: $(READY)  ## try every damage of the catalogue, and keep the tables of docs/mutations.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutations --write

clean:  ## remove the environments and everything that was built
	rm -rf $(VENV) $(VENV_AUDIT) $(VENV_LOWEST) audit.json audit.xml build dist site
