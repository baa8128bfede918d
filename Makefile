# `make demo` and `make test` work on a fresh machine with git, make, python3 (>= 3.10, with venv) and a package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint install clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/crossalign demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
