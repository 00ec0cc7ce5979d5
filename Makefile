# Every recipe sets up what it needs: one virtual environment, one install, then one plain command.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev

.PHONY: help demo test lint lab notebooks bench bench-peers format clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("streamlab needs Python 3.11 or newer, and this is " + sys.version.split()[0] + ": make demo PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing streamlab into $(VENV) (about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEV): pyproject.toml | $(STAMP)
	@echo "installing what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## record this machine, load history, run windows, look back: two minutes
	@$(BIN)/streamlab demo

test: $(DEV)  ## the whole suite, in parallel
	@$(BIN)/python -m pytest -n auto --dist worksteal -q

lint: $(DEV)  ## ruff and mypy, both strict
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(DEV)  ## let ruff format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lab: $(DEV)  ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab notebooks

notebooks: $(DEV)  ## run the notebooks and save them with what they show
	@$(BIN)/python notebooks/save.py

bench: $(DEV)  ## print the ratios of docs/performance.md
	@$(BIN)/python -m benchmarks

PEERS := bytewax spark deephaven
PEER_STAMPS := $(PEERS:%=.peers/%/.installed)
.peers/bytewax/.installed:   PACKAGES := bytewax pyarrow
.peers/spark/.installed:     PACKAGES := pyspark
.peers/deephaven/.installed: PACKAGES := deephaven-server pyarrow

$(PEER_STAMPS):
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "installing $(PACKAGES) into $(@D)"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	@touch $@

bench-peers: $(DEV) $(PEER_STAMPS)  ## P5 against Deephaven, Spark and Bytewax (1.5 GB, Java 17)
	@command -v java >/dev/null || test -n "$$JAVA_HOME" || echo "Spark and Deephaven are left out without Java 17: apt-get install openjdk-17-jre-headless"
	@$(BIN)/python -m benchmarks.peers

clean:  ## remove the environment and what builds leave behind
	rm -rf $(VENV) .peers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
