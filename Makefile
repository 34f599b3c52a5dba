# The habits of this project, in one place. `make demo` and `make test` need only Python >= 3.10.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bare clean

# Installed once; again when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,test,lint,rtx]'
	touch $@

demo: $(VENV)/.installed  ## make data, train, export, predict, measure: about 6 minutes on 2 cores
	$(BIN)/python -m examples.quality.demo

test: $(VENV)/.installed  ## all tests, on the CPU
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(VENV)/.installed  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bare: $(VENV)/.installed  ## the runtime's tests on the built wheel with [cpu] only: no torch, no onnx
	rm -rf dist $(VENV)-bare
	$(BIN)/python -m hatchling build -t wheel -d dist
	$(PYTHON) -m venv $(VENV)-bare
	$(VENV)-bare/bin/pip install --quiet --constraint constraints.txt "$$(ls dist/*.whl)[cpu]" pytest
	$(VENV)-bare/bin/python -m pytest tests/runtime

clean:
	rm -rf $(VENV) $(VENV)-bare demo dist build
