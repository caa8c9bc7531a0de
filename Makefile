# Every target sets up what it needs and reuses what is there: one command on a fresh machine.

PYTHON ?= python3
VENV   ?= .venv
STUDY  ?= quickstart
ARGS   ?=
BIN    := $(VENV)/bin
SHIPPED := $(basename $(notdir $(wildcard experiments/studies/*.yaml)))
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup quickstart study studies figures tables report ui test test-slow lint bench clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment and install everything in it

# constraints.txt pins what was tested. The stamp is written last, so a broken install is redone.
$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "losslab needs Python 3.11 or newer; say which with make PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(READY) ## compare CE, balanced CE and focal loss on real digits (minutes)
	$(BIN)/losslab run quickstart $(ARGS)

study: $(READY) ## run a study: make study STUDY=name-or-path.yaml
	$(BIN)/losslab run $(STUDY) $(ARGS)

studies: $(READY) ## run the shipped studies at their full size, but for detectors (an hour or two)
	@for study in $(filter-out bccd detect_%,$(SHIPPED)); do \
	  $(BIN)/losslab run $$study $(ARGS) || exit $$?; done

figures: $(READY) ## draw every loss, and the loss papers' figures, into figures/
	$(BIN)/losslab figures --out figures $(ARGS)

tables: $(READY) ## the focal and GHM papers' tables: on anchors, then on a detector (8 hours)
	@for study in alpha gamma prior $(filter detect_%,$(SHIPPED)); do \
	  $(BIN)/losslab run $$study $(ARGS) || exit $$?; done

report: $(READY) ## write a study's report again: make report STUDY=name (or STUDY="one two")
	$(BIN)/losslab report $(STUDY) $(ARGS)

ui: $(READY) ## open the MLflow UI on the local store, at 127.0.0.1
	$(BIN)/losslab ui $(ARGS)

test: $(READY) ## run the quick tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

test-slow: $(READY) ## run the slow tests
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(READY) build/types ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p losslab

# Type checkers want one folder that looks like the package.
build/types: Makefile
	@rm -rf $@ && mkdir -p $@/losslab
	@for file in losslab/*; do ln -s ../../../$$file $@/losslab/; done
	@for room in losses datasets experiments analysis; do ln -s ../../../$$room $@/losslab/; done

bench: $(READY) ## measure speed; prints ratios
	@for what in losses studies frames; do $(BIN)/python benchmarks/$$what.py || exit $$?; done

clean: ## remove the virtual environment, caches and build output; runs/ is kept
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
