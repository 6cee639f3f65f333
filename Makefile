# `make demo` and `make test` do all the set-up on a fresh machine: a virtual environment, the install, the run.
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo check fast test lint types fast-tests all-tests format results torture clean distclean

help:
	@echo 'make demo       train, attack and tabulate five small networks on real images (a few minutes on 2 cores)'
	@echo 'make check      linters, formatting and types (seconds)'
	@echo 'make fast       make check, and the tests that need no Ray nodes, no browser and little time'
	@echo 'make test       make check, and all tests, as CI runs them'
	@echo 'make lint, make types, make fast-tests, make all-tests     their parts, each alone'
	@echo 'make format     format the code, and mend what the linter can'
	@echo 'make results    docs/results.md and its figures again, from the bundles in docs/results/, once these are verified'
	@echo 'make torture    real Ray processes killed at random moments, for ten minutes; then 1,000 edits of what MLflow holds'
	@echo 'make clean      drop caches and builds; keeps the environment and every result'
	@echo 'make distclean  drop the environment ($(VENV)) too; keeps every result'

demo: $(VENV)/.installed
	$(RUN) -m ablate.launch --space batch_size --preset smoke

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.installed-test
	$(RUN) -m mypy

check: lint types

# Types are checked beside the tests: half a minute of one core, while the tests of real nodes wait for each other.
fast: lint
	@$(MAKE) --no-print-directory -j2 types fast-tests

test: lint
	@$(MAKE) --no-print-directory -j2 types all-tests

# More processes than cores: much of a test is waiting, for Ray above all.
fast-tests: $(VENV)/.installed-test
	$(RUN) -m pytest -n 3 -m "not cluster and not browser and not slow"

all-tests: $(VENV)/.installed-test
	$(RUN) -m pytest -n 4

format: $(VENV)/.installed-test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# The environment is made beside and counts once it is whole: Debian without python3-venv leaves half of one behind.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "expected Python 3.11 or newer as PYTHON=$(PYTHON), got $$($(PYTHON) --version 2>&1 | head -n 1); try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "expected a Python that can make virtual environments, got $(PYTHON) without; on Debian: apt-get install python3-venv" >&2; exit 1; }

# The stamps: what pyproject.toml asks for is installed; nothing is installed again before it changes.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	$(RUN) -m pip install --disable-pip-version-check -e .
	@touch $@

# torchattacks and pyautoattack, which the attacks are compared with, want what they do not import: no dependencies.
$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/pip
	$(RUN) -m pip install --disable-pip-version-check -e '.[test]'
	$(RUN) -m pip install --disable-pip-version-check --no-deps torchattacks==3.5.1 pyautoattack==0.2.0
	@touch $@ $(VENV)/.installed

results: $(VENV)/.installed
	$(RUN) -m ablate.bundle verify docs/results/*.zip
	$(RUN) -m ablate.bundle page docs/results.in.md --out docs/results.md --bundles docs/results --figures docs/figures

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find ablate tests search_spaces -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

# Less: make torture ARGS="--workers 2 --drivers 1 --nodes 1"
torture: $(VENV)/.installed-test
	$(RUN) -m tests.torture $(ARGS)
	ABLATE_TEST_EDITS=200 $(RUN) -m pytest -n 2 tests/tracking/test_edited.py
