# Every target sets up what it needs: `git clone … && make demo` is enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check fuzz bench bench-training interop readme docs clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-14s %s\n' "$$name" "$$what"; done

install: $(STAMP)  ## create .venv with everything; the command is then .venv/bin/ingraft

# torch first and by itself, so that its pinned build is there before anything can ask for another.
$(STAMP): pyproject.toml constraints.txt $(wildcard src/ingraft/kernels/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "ingraft needs Python 3.10 or newer. Name one: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[all,dev,docs]'
	@touch $@

demo: $(STAMP)  ## fine-tune a real model, merge, prove and load it (offline, about 4 minutes)
	$(BIN)/ingraft demo --overwrite

test: check  ## check, then every test
	$(BIN)/pytest -n 2

check: $(STAMP)  ## lint, format, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

SECONDS := 600
FUZZED  := checkpoints/header checkpoints/index checkpoints/pickle checkpoints/adapter-config \
           texts/modules texts/yaml texts/card texts/data texts/manifest

fuzz: $(STAMP)  ## fuzz every reader of files, SECONDS=600 each (an hour and a half); stops at the first finding
	$(PIP) install -q 'atheris>=3'
	@set -e; for reader in $(FUZZED); do \
		echo "== $$reader"; \
		$(BIN)/python fuzzing/$${reader%/*}.py $${reader#*/} --seconds $(SECONDS) --corpus .fuzzing/$$reader; \
	done

bench: $(STAMP)  ## time and memory of a 1.2 GB merge against PEFT and cp
	$(BIN)/python benchmarks/merge.py

bench-training: $(STAMP)  ## adapters against full fine-tuning and a bare script: quality, time, memory (an hour)
	$(BIN)/python benchmarks/training.py

interop: $(STAMP)  ## read merged models with older releases and servers, each in a venv of its own (20 minutes)
	$(BIN)/python interop/run.py

readme: $(STAMP)  ## bring the methods table in the READMEs up to date
	$(BIN)/python scripts/update_readme.py

docs: $(STAMP)  ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:  ## remove .venv, caches and build output
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
