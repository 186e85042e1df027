# Two commands for a person: `make demo` and `make test`. Both set everything up in .venv first.
PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin
PARALLEL := -n auto --dist worksteal
# older transformers, each in an environment of its own with its own constraints file
COMPAT := 4.57 5.0

.PHONY: demo test test-all lint types unit slow test-compat matrix check-matrix check-matrix-all catalogue across held state-bytes evidence docs pictures browser mutants peers benchmark gpu format clean

demo: .venv/installed
	$(BIN)/anyoptim demo $(DEMO)

# what a change is likely to break
test: lint types unit check-matrix

# the rest: many names instead of one of each kind, other Pythons, older transformers, browsers, other packages' tests
test-all: slow test-compat check-matrix-all peers

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tools/mutants.py --list >/dev/null

types: .venv/installed
	$(BIN)/mypy

# with the newest transformers
unit: .venv/installed
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(PYTEST)

slow: .venv/installed browser
	$(BIN)/python -m pytest $(PARALLEL) -m slow $(PYTEST)

# the tests that run the real Trainer again, on older transformers
test-compat: $(COMPAT:%=test-compat-%)

test-compat-%: .venv-%/installed
	.venv-$*/bin/python -m pytest $(PARALLEL) -m trainer $(PYTEST)

# the documentation, into site/; needs no network
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# the pictures in it, from what the library decides
pictures: .venv/installed
	$(BIN)/python tools/pictures.py

# a Chromium for the tests that look at pages, unless there is one
browser: .venv/installed
	@command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable \
	|| (apt-get update && apt-get install --yes --no-install-recommends chromium) \
	|| $(BIN)/python -m playwright install chromium

# what the installed packages' constructors take, for the catalogue
catalogue: .venv/installed
	$(BIN)/python tools/catalogue.py

# how the catalogue's names step where processes share parameters, by trying each; an hour
across: .venv/installed
	$(BIN)/python tools/across.py

# how state of the catalogue's names may be held between steps, by trying each; a quarter of an hour
held: .venv/installed
	$(BIN)/python tools/held.py

# how many bytes of state each name keeps for a parameter, for its page; ten minutes
state-bytes: .venv/installed
	$(BIN)/python tools/state_bytes.py

# which optimizer does well at its best learning rate, on three small tasks; what is there is not run again; two hours
evidence: .venv/installed
	PYTHONPATH=. $(BIN)/python benchmarks/evidence.py
	PYTHONPATH=. $(BIN)/python tools/evidence.py

# the conformance kit on every installed name: write what it finds, or compare it with what is written
matrix: .venv/installed
	$(BIN)/python tools/matrix.py

# the names that changed since it was written, and a sample of the others
check-matrix: .venv/installed
	$(BIN)/python tools/matrix.py --check

check-matrix-all: .venv/installed
	$(BIN)/python tools/matrix.py --check --all

# break the library in many places, one after another, and see which test notices; half an hour
mutants: .venv/installed
	$(BIN)/python tools/mutants.py $(MUTANTS)

# the tests of other packages, with their optimizers built by anyoptim; five minutes
peers: .venv/installed
	$(BIN)/python tools/peers.py $(PEERS)

benchmark: .venv/installed
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/bare_names.py

# what only a GPU can show, in 8 minutes; sets nothing up, since a machine that has one has a torch for it
gpu:
	PYTHONPATH=src $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(GPU)

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch comes first and by itself: a machine without a GPU gets its CPU build that way
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ecosystem]'
	# its optimizers need no torchvision, which has no CPU build beside this torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps timm
	$(BIN)/python -m pip install --quiet --no-deps ./examples/plugin
	touch $@

.PRECIOUS: .venv-%/installed
.venv-%/installed: pyproject.toml constraints-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade pip
	.venv-$*/bin/python -m pip install --quiet $(TORCH)
	.venv-$*/bin/python -m pip install --quiet --constraint constraints-$*.txt --editable '.[compare,apollo,galore,grokadamw,lomo]' pytest pytest-xdist hypothesis
	touch $@

clean:
	rm -rf .venv .venv-* .matrix .peers demo site
