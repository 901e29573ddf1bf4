# make demo and make test do everything, from set-up on.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.bayeslora-ready

# Where a shell sets it, each process that a test starts compiles the package anew (half a second of
# CPU), and each run of the tests rewrites all their assertions (7 s per worker).
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all suite unit slow check browser lint wording docs bench bench-speed mass clean

help:
	@echo "make demo    set up, then fine-tune a real model on real text and write reports/demo"
	@echo "make test    set up, then run the checks and tests"
	@echo "make test-all  the same with those of tests/nightly.txt: studies, and all of some matrices"
	@echo "make setup   create .venv with locked dependencies, the package, and the embedded assets"
	@echo "make browser install Debian's chromium for the tests of the report's page, where it is missing"
	@echo "make mass    the package's weight, beside its limits (tests/test_mass.py)"
	@echo "make unit    the fast tests, in a minute; make check: lint and unit, before a commit"
	@echo "make slow    every test, timed: writes tests/slow.txt, the tests that make unit leaves out"
	@echo "make lint    style, types, import direction and the English of the documentation only"
	@echo "make wording write the errors that users meet first again, to be reviewed as a diff"
	@echo "make docs    build the documentation site, docs/_build/html; make gallery writes its reports again"
	@echo "make bench-speed  what fits, predictions and scores cost beside other libraries (30 minutes of an"
	@echo "             idle machine; SPEED=--quick: five)"
	@echo "make bench   a study of benchmarks/, or a grid of benchmarks/grids (hours; DATA_DIR=... for more than"
	@echo "             newsgroups; BENCH=default_fit by default: benchmarks/README.md says what each asks)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-assets.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bayeslora needs Python 3.11 or newer; say which with make PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up .venv (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-assets.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/bayeslora demo --out reports/demo --overwrite

# mypy needs one core for a minute or two, which the tests use meanwhile.
test: $(STAMP) browser
	@$(MAKE) --no-print-directory -j 2 lint suite

suite: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not nightly" --durations 30 --durations-min 4

test-all: $(STAMP) browser lint
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal --durations 60 --durations-min 4

unit: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

slow: $(STAMP)
	$(BIN)/python -m pytest -p tests.measure -n auto --maxprocesses 8 --dist worksteal

check: lint unit

mass: $(STAMP)
	@$(BIN)/python -m tests.test_mass 2>/dev/null

# Offline, apt-get would try for minutes.
APT_PATIENCE := -o Acquire::Retries=1 -o Acquire::http::Timeout=20

# Without a browser its tests are skipped and all others run, so a failure here is no failure.
browser:
	@{ command -v chromium || command -v chromium-browser; } >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi; \
	if command -v apt-get >/dev/null 2>&1 && { [ -z "$$as_root" ] || $$as_root true 2>/dev/null; }; then \
	  echo "Installing chromium for the tests of the report's page"; \
	  { $$as_root apt-get -qq $(APT_PATIENCE) update && \
	    $$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq $(APT_PATIENCE) install -y --no-install-recommends chromium; } \
	    >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "No chromium: the browser tests will be skipped; as root, apt-get install chromium brings them back"

PROSE := README.md CONTRIBUTING.md benchmarks/README.md reports/README.md $(wildcard reports/*/summary.md) \
  $(wildcard docs/*.md docs/*/*.md docs/*/*/*.md)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "$(BIN)/python docs/prose.py README.md CONTRIBUTING.md docs/*.md …"
	@$(BIN)/python docs/prose.py $(PROSE)

wording: $(STAMP)
	$(BIN)/python tests/cli/test_cli_wording.py

docs: $(STAMP)
	@$(BIN)/python -c 'import furo, myst_nb, sphinx_copybutton' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/tables.py
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html -c docs . docs/_build/html
	@echo "Open docs/_build/html/index.html"

gallery: $(STAMP)
	$(BIN)/python docs/make_gallery.py

# The studies: benchmarks/README.md.
BENCH := default_fit
GRID := $(wildcard benchmarks/grids/$(BENCH).yaml)
takes = $(shell $(BIN)/python -m benchmarks.$(BENCH) --help | grep -q -e '$(1) ' && echo yes)
BENCH_DATA = $(if $(DATA_DIR),$(if $(call takes,--data-dir),--data-dir $(DATA_DIR)),$(if $(call takes,--tasks),--tasks newsgroups))

bench: $(STAMP)
ifdef GRID
	$(BIN)/bayeslora experiment $(GRID) --out runs/$(BENCH) $(if $(DATA_DIR),--data-dir $(DATA_DIR))
else
	$(BIN)/python -m benchmarks.$(BENCH) $(BENCH_DATA)
endif

# SPEED=--quick takes five minutes; an idle machine, or the numbers say nothing.
bench-speed: $(STAMP)
	$(BIN)/python -m benchmarks.speed $(SPEED)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
