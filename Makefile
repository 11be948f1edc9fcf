# `make quickstart` and `make test` set up .venv/ themselves; a second call starts at once.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
SLOTS ?= 2
BIN := .venv/bin
PACKAGES := kernels efficiency search_spaces nas runs
SOURCES := $(PACKAGES) tests benchmarks examples
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help quickstart test lint format bench clean

help:
	@echo "make quickstart   search heads on real images, rank, export, report (under three minutes on two cores)"
	@echo "make test         formatter, linter, types, import order, tests"
	@echo "make lint         all of that but the tests"
	@echo "make format       format the code"
	@echo "make bench        measure again what benchmarks/results/ holds (about an hour on two cores)"
	@echo "make clean        remove .venv/ and caches"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "naslab needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv

# The stamp is written last, so that an interrupted installation is not taken for a finished one.
.venv/installed: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	@touch $@

.venv/installed-test: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[test]'
	@touch $@ .venv/installed

quickstart: .venv/installed
	$(BIN)/naslab run studies/quickstart.yaml --slots $(SLOTS)
	$(BIN)/naslab rank quickstart
	$(BIN)/naslab export quickstart
	$(BIN)/naslab report quickstart

lint: .venv/installed-test
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

bench: .venv/installed-test
	$(BIN)/python benchmarks/nas_step_cost.py
	$(BIN)/python benchmarks/driver_overhead.py
	$(BIN)/python benchmarks/quickstart_time.py
	$(BIN)/python benchmarks/nasiam_heads.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
