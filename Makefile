# make demo and make test do all set-up themselves; a second run reinstalls nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
STAMP := .venv/.installed
export OMP_NUM_THREADS ?= 1

.PHONY: venv demo test lint bench reproduce docs clean

venv: $(STAMP)

# torch first and alone, so that its build is the pinned one whatever the other packages ask for. The build backend is
# installed and used from here (no isolation): pip would fetch its newest release past the constraints.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) hatchling
	$(PIP) --no-build-isolation -e '.[app,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/isocline demo

test: lint
	$(BIN)/python -m pytest -m "not slow" -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

# Each writes its table beside itself. peers.py says what is not installed and how to install it; it goes on without.
bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/work_precision.py

# Every published experiment in full (hours; goes on where it was broken off), then the tests too long for every change.
reproduce: $(STAMP)
	$(BIN)/isocline reproduce all
	$(BIN)/python -m pytest -m slow

# The pages are Markdown; this writes the table of what works with what, and runs every example on the others.
docs: $(STAMP)
	$(BIN)/python docs/support.py
	$(BIN)/python docs/features.py
	$(BIN)/python docs/experiments.py
	$(BIN)/python docs/learn/checks.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
