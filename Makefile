# The habits of this project, in one place. `make demo` and `make test` need only Python >= 3.10.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

# Installed once; again when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,test,lint]'
	touch $@

demo: $(VENV)/.installed  ## make data, train, export, predict, measure: about 6 minutes on 2 cores
	$(BIN)/python -m examples.quality.demo

test: $(VENV)/.installed  ## all tests, on the CPU
	$(BIN)/python -m pytest

lint: $(VENV)/.installed  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo dist build
