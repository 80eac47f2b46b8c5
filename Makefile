# Two commands do everything, each creating its environment itself:
#   make plan    install, then plan the default problem and print it
#   make test    install with the development tools, then check everything
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help plan plan-training test lint types pytest bench format clean distclean

SHELL := /bin/sh
VENV ?= .venv
# pytest's worker processes.
WORKERS ?= 2
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
INSTALL := $(BIN)/python -m pip install --quiet

help:  ## Show this help
	@awk 'BEGIN {FS = ":.*##"} /^[a-z-]+:.*##/ {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

plan: $(VENV)/.installed  ## Plan Llama-3.1-70B on 24 mixed GPUs for a real trace; writes plan.json
	$(BIN)/planner serving --model llama-3.1-70b --cluster a100-l40s-l4-24 --trace azure-conv-2023 \
	    --rate max --ttft "2 s" --tpot "100 ms" -o plan.json

plan-training: $(VENV)/.installed  ## Plan a training job on 32 mixed GPUs; writes training-plan.json
	$(BIN)/planner training --model llama-3.1-8b --cluster a100-v100-t4-32 \
	    --global-batch-size 256 --seq-len 2048 -o training-plan.json

test: lint types pytest  ## Lint, types, tests, doctests, wheel and notebooks

lint: $(VENV)/.installed-dev  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev  ## mypy --strict
	$(BIN)/mypy --strict

pytest: $(VENV)/.installed-dev  ## Tests alone
	$(BIN)/python -m pytest -n $(WORKERS)

bench: $(VENV)/.installed-dev  ## Print how long the inner loops and the searches take, and how far predictions are off
	@missed=; for file in $(BENCHMARKS); do echo "$$file"; $(BIN)/python $$file || missed="$$missed $$file"; done; \
	    test -z "$$missed" || { echo "budgets missed in:$$missed" >&2; exit 1; }

# What prints timings; the other files in benchmarks/ derive shipped data.
BENCHMARKS = $(wildcard benchmarks/interval_dp.py benchmarks/estimates.py benchmarks/search_*.py benchmarks/accuracy.py benchmarks/fit_*.py)

format: $(VENV)/.installed-dev  ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove caches, builds and written plans
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis plan.json training-plan.json
	find planner tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## Remove the environment too
	rm -rf $(VENV)

# PYTHON=... picks an interpreter. Each candidate is run, not just found: a version manager may list what it lacks.
$(BIN)/python:
	@for candidate in $${PYTHON:-python3.11 python3.12 python3.13 python3}; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Creating $(VENV) with $$("$$candidate" --version)"; \
	        "$$candidate" -m venv --clear "$(VENV)" && exit 0; \
	        echo "error: '$$candidate -m venv' failed; on Debian and Ubuntu it needs the package $$candidate-venv" >&2; \
	        exit 1; \
	    fi; \
	done; \
	echo "error: no Python 3.11 or later found (looked for $${PYTHON:-python3.11, python3.12, python3.13, python3});" \
	    "install one, or name it: make PYTHON=/path/to/python" >&2; \
	exit 1

# Stamps: a second run installs nothing, a change of pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing hetplan into $(VENV) (once, about a minute)"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing hetplan with its development tools into $(VENV) (once, about a minute)"
	@$(INSTALL) --editable ".[dev]"
	@touch $(VENV)/.installed $@
