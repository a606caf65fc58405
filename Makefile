# `make demo` and `make test` set up all they need below .venv/; the other targets are for people who work on the project.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
ARGS ?=

# The first interpreter that really runs and is new enough; a version manager's shim may exist and fail.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { command -v $$p; break; }; done)

.PHONY: help setup demo test lint format bench bench-large requirements lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.ready ## Create .venv with pinned dependencies

.venv/.ready: requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Cannot set up: no Python >= 3.11 was found" >&2; \
		echo "hint: install one, or run 'make $(MAKECMDGOALS) PYTHON=/path/to/python3'" >&2; exit 9; }
	@echo "setting up .venv with $(PYTHON)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/.ready ## Build, install and serve mlx-lm, and ask it something (REGISTRY=127.0.0.1:PORT/ns goes through a registry)
	@$(BIN)/python docs/demo.py $(if $(REGISTRY),--registry $(REGISTRY)) $(ARGS)

test: .venv/.ready ## Run linters, type checks and the test suite (ARGS= is passed to pytest)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pytest -n 2 --dist loadgroup -m "not slow" $(ARGS)

lint: .venv/.ready ## Run linters and type checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/.ready ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/.ready ## Measure against named tools, as ratios in one run; writes benchmarks/results/
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-large: .venv/.ready ## The same with vLLM for CUDA at full size: minutes, 4 GB of downloads, 30 GB of disk
	@$(BIN)/python benchmarks/large.py $(ARGS)

requirements: ## Pin the newest dependencies, with hashes and no index address (needs uv)
	@uv export --quiet --upgrade --no-emit-project --no-annotate --no-header --all-extras --group dev -o requirements/dev.txt
	@uv export --quiet --no-emit-project --no-annotate --no-header --no-default-groups -o requirements/base.txt

lock: .venv/.ready ## Write the locks of all recipes again
	@$(BIN)/mr-bundle lock recipes/*/

clean: ## Remove everything that can be made again
	@rm -rf .venv .demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis uv.lock
