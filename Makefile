# One command per act, the same here and in CI. Needs Python 3.11, pip and make; everything else goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 4

.PHONY: help demo test test-long check format site bench release-check clean

help:
	@echo "make demo       watch the whole job, in about a minute"
	@echo "make test       the test suite, in $(JOBS) processes (JOBS=8)"
	@echo "make test-long  the test suite with the long tests"
	@echo "make check      format, lint, types, imports, the documentation's site"
	@echo "make format     bring the code into the form that check wants"
	@echo "make site       the documentation: its generated pages, and all of it as HTML in build/site"
	@echo "make bench      every benchmark, as JSON"
	@echo "make release-check  wheel, empty environment, list of parts (SBOM), known vulnerabilities"
	@echo "make clean      remove what these commands made, .venv too"

# A second run does nothing until a dependency changes. Some distributions ship venv without a pip of its own:
# then the pip that is there installs into it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "driftgraph needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --clear --without-pip $(VENV)
	@echo "installing into $(VENV), a few minutes the first time"
	@if test -x $(BIN)/pip; then pip="$(BIN)/python -m pip"; else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
		$$pip --disable-pip-version-check install --quiet -c constraints.txt -e '.[dev,demo]'
	@touch $@

demo: $(READY)
	@$(BIN)/driftgraph demo $(ARGS)

# Several processes on two cores too, as tests of services wait; the tests of a file share its fixtures
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST) -m 'not long' $(ARGS)

# 25 times as many random examples of the window: some 200,000 operations
test-long: $(READY)
	DRIFTGRAPH_TEST_LONG=25 $(PYTEST) --timeout 1800 $(ARGS)

# Strict: a link that leads nowhere, or a page that no menu has, is a fault
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy & mypy=$$!; $(BIN)/pyright; pyright=$$?; wait $$mypy && exit $$pyright
	$(BIN)/lint-imports
	$(MKDOCS)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

site: $(READY)
	$(BIN)/python -m site_pages
	$(MKDOCS)
	@echo "open build/site/index.html; for the search: $(BIN)/python -m http.server -d build/site"

# Quix Streams and Feast pin older releases than ours, so each has an environment of its own
$(VENV)/%/.ready: benchmarks/%.txt $(READY)
	$(BIN)/python -m venv --clear --without-pip $(VENV)/$*
	$(BIN)/python -m pip --python $(VENV)/$*/bin/python --disable-pip-version-check install --quiet -r $<
	@touch $@

bench: $(READY) $(VENV)/quix/.ready $(VENV)/feast/.ready
	$(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e '.[dev,bench]'
	@failed=0; for file in start start_model ingest web freshness window paths lists train publish publish_reads; do \
		$(BIN)/python "benchmarks/$$file.py" --json $(ARGS) || failed=1; done; \
		for file in quality metis; do \
		$(BIN)/python "benchmarks/$$file.py" --quick --json || failed=1; done; exit $$failed

release-check: $(READY)
	PYTHON=$(BIN)/python dev/release_check.sh

clean:
	rm -rf $(VENV) var build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
