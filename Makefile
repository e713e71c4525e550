# `make demo` and `make test` need nothing but Python 3.11+ and make: they set up .venv by themselves.
PYTHON ?= python3
# Extras to install beside what tests and checks need, with commas between.
EXTRAS ?=
# Where to find another build of torch, e.g. `make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu` for one without CUDA.
TORCH_INDEX ?=

VENV := .venv
COMMA := ,
BIN := $(VENV)/bin
READY := $(VENV)/.ready-dev,$(EXTRAS)

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-all docs bench

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with lewm in it (EXTRAS=..., TORCH_INDEX=...)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "lewm needs Python 3.11 or newer: install it (python.org, or your system's package 'python3' with 'python3-venv'), or name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lewm needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V): install a newer one, or name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "this Python lacks the modules 'venv' and 'ensurepip': install your system's package 'python3-venv'"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev$(if $(EXTRAS),$(COMMA)$(EXTRAS))]'
	@touch $@

demo: $(READY) ## collect, train, evaluate and report: minutes on two CPU cores
	$(BIN)/lewm demo

check: $(READY) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: $(READY) ## the tests that take minutes
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test-all: $(READY) ## every test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: $(READY) ## run every code block of the README and docs
	$(BIN)/pytest tests/test_documentation.py tests/test_documentation_worlds.py

bench: $(READY) ## speed against plain references, as text and JSON
	$(BIN)/lewm bench
