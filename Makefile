# Two commands for a person: `make demo` and `make test`. Both set everything up in .venv first.
PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin
COMPAT := .venv-compat/bin

.PHONY: demo test lint types unit compat benchmark format clean

demo: .venv/installed
	$(BIN)/anyoptim demo $(DEMO)

test: lint types unit compat

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed
	$(BIN)/mypy

unit: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST)

# the tests of the Trainer integration again, on the oldest transformers that is supported
compat: .venv-compat/installed
	$(COMPAT)/python -m pytest -n auto --dist worksteal -m trainer $(PYTEST)

benchmark: .venv/installed
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/memory.py

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch comes first and by itself: a machine without a GPU gets its CPU build that way
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,trl]'
	touch $@

.venv-compat/installed: pyproject.toml constraints.txt constraints-compat.txt
	$(PYTHON) -m venv .venv-compat
	$(COMPAT)/python -m pip install --quiet --upgrade pip
	$(COMPAT)/python -m pip install --quiet $(TORCH)
	$(COMPAT)/python -m pip install --quiet --constraint constraints-compat.txt --editable '.[demo,apollo,grokadamw,lomo]' pytest pytest-xdist hypothesis
	touch $@

clean:
	rm -rf .venv .venv-compat demo
