# Every target makes .venv by itself; nothing is installed again unless a file below says something new.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test
SOURCES := setup.cfg pyproject.toml constraints.txt

# TensorFlow never frees what it has traced (its issue 124972), so each part has two processes of its own; the first grow to some 5 GB each.
LARGE_ROOMS := tests/generation/ tests/models/ tests/serving/
OTHER_ROOMS := $(filter-out $(LARGE_ROOMS),$(sort $(dir $(wildcard tests/*/test_*.py))))
TEST_PARTS := "$(LARGE_ROOMS) tests/test_*.py" "$(OTHER_ROOMS)"
# a file goes to one process, which makes its fixtures and traces its graphs once; 5 is what pytest ends with where a part has no test of the kind that is asked for
pytest = failed=; for part in $(TEST_PARTS); do $(BIN)/python -m pytest -n 2 --dist loadfile $(1) $$part || [ $$? -eq 5 ] || failed=1; done; test -z "$$failed"

.PHONY: quickstart test test-slow lint notebooks clean

quickstart: $(INSTALLED)
	$(BIN)/tfgpt run pipelines/quickstart.yaml

test: $(INSTALLED_TEST)
	$(call pytest,-m "not slow")

# whole runs of recipes, killed trainings, a browser, fuzzing; and further settings of what is shown above
test-slow: $(INSTALLED_TEST)
	$(call pytest,-m slow)

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
