# make demo and make test do all set-up themselves; a second run reinstalls nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
STAMP := .venv/.installed
DOCS := .venv/.installed-docs
export OMP_NUM_THREADS ?= 1

.PHONY: venv demo test sanitize aarch64 lint bench reproduce docs clean

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

# The fused engine's tests on a machine that checks every address and whatever C++ leaves undefined, with a cache of its own; a
# process a file, so that an error, which ends its process, ends no other's. The checker is loaded before Python, and before it the
# library that throws, which torch brings too late; not into the compiler, which would take several times as long. Python leaks.
CHECKED := -O1 -g1 -march=native -DISO_MVEC -lmvec -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
SANITIZED = XDG_CACHE_HOME=$(CURDIR)/build/sanitized ISOCLINE_CXXFLAGS="$(CHECKED)" ISOCLINE_CHECK_TYPES=0 \
	CXX="env -u LD_PRELOAD $(CXX)" LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:malloc_context_size=5 UBSAN_OPTIONS=print_stacktrace=1 $(BIN)/python
UNCHECKED := tests/fused/test_machine_build.py
sanitize: $(STAMP)
	mkdir -p build/sanitized
	$(SANITIZED) -c "from isocline.engines.fused.build import build; print(build())"
	@bad=; for file in $(filter-out $(UNCHECKED),$(wildcard tests/fused/test_*.py)); do echo "== $$file"; \
	$(SANITIZED) -m pytest -q -p no:cacheprovider -m "machine and not slow" $$file; got=$$?; \
	test $$got = 0 -o $$got = 5 || bad="$$bad $$file"; done; \
	test -z "$$bad" || { echo "make sanitize: errors in$$bad"; exit 1; }

# The fused engine's tests on a machine for aarch64, cross-compiled and emulated (tests/fused/emulated.py), with a cache of its own,
# but for those that start a Python of their own; then what it finds beside what this processor's does.
EMULATED = XDG_CACHE_HOME=$(CURDIR)/build/aarch64 ISOCLINE_CHECK_TYPES=0 PYTHONPATH=$(CURDIR)/src:tests/fused $(BIN)/python -m pytest -q
aarch64: $(STAMP)
	mkdir -p build/aarch64
	$(EMULATED) -m slow tests/fused/test_aarch64.py
	$(EMULATED) -p emulated -p no:cacheprovider -m "machine and not slow" -k "not running_out_of_memory and not graphs_hold_it_whole and not silent_by_default" \
	$(filter-out $(UNCHECKED),$(wildcard tests/fused/test_*.py))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

# Each writes its table beside itself. peers.py says what is not installed and how to install it; it goes on without.
bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/work_precision.py

# Every published experiment in full (hours; goes on where it was broken off), then the tests too long for every change.
reproduce: $(STAMP)
	$(BIN)/isocline reproduce all
	$(BIN)/python -m pytest -m slow

$(DOCS): $(STAMP)
	$(PIP) --no-build-isolation -e '.[app,dev,docs]'
	touch $@

# Writes the pages that are made of results and of trials, and builds the site, which runs every cell of its chapters: a
# warning, a cell that fails, a link or an anchor that leads nowhere ends it.
docs: $(DOCS)
	$(BIN)/python docs/support.py
	$(BIN)/python docs/features.py
	$(BIN)/python docs/experiments.py
	$(BIN)/python docs/gallery.py
	rm -rf docs/_build
	$(BIN)/python -m sphinx -j 2 -q -W --keep-going -n -E docs docs/_build/html
	$(BIN)/python docs/links.py docs/_build/html

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist docs/_build
