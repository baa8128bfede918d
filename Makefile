# The targets need git, make, python3 (>= 3.10, with venv) and a package index, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
FAST := -m "not slow and not cluster and not browser and not shared"

.PHONY: demo check test lint lowest coverage release install clean

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

# Lint, types and unit tests: before every commit.
check: lint
	$(PYTEST) $(FAST)

# All tests: before every merge.
test: lint
	$(PYTEST)

coverage: install
	$(PYTEST) --cov --cov-report term

# The fast tests with the lowest version that pyproject.toml allows of each package.
lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q $(FAST)

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade pip uv
	.venv-lowest/bin/uv pip compile --quiet --resolution lowest-direct --extra dev pyproject.toml -o .venv-lowest/requirements.txt
	VIRTUAL_ENV=.venv-lowest .venv-lowest/bin/uv pip install --quiet -r .venv-lowest/requirements.txt --editable .
	touch $@

# Builds the wheel and the sdist in dist/ and checks both. Publishing is the work of .github/workflows/release.yml.
release: install
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf .venv .venv-lowest .mypy_cache .ruff_cache .pytest_cache .coverage* dist
