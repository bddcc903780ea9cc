# Every target makes .venv by itself; nothing is installed again unless a file below says something new.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test
SOURCES := setup.cfg pyproject.toml constraints.txt

.PHONY: quickstart test test-fast lint notebooks clean

quickstart: $(INSTALLED)
	$(BIN)/tfgpt run pipelines/quickstart.yaml

# One TensorFlow process keeps every graph it ever traced: all tests in one would take more memory than a machine of 24 GiB has.
test: $(INSTALLED_TEST)
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(filter-out tests/models/ tests/generation/ tests/__pycache__/,$(wildcard tests/*/))
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests/generation
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests/models
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(wildcard tests/test_*.py)

test-fast: $(INSTALLED_TEST)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

lint: $(INSTALLED_TEST)
	$(BIN)/ruff check .

notebooks: $(INSTALLED_TEST)
	$(BIN)/python -m pytest tests/test_notebooks.py

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(INSTALLED_TEST): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[test]'
	touch $@
