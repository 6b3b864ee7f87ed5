# What a person types. `make run` and `make test` set up what they need from nothing; a second call is instant.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Any Python 3.11 or 3.12: `make setup PYTHON=/path/to/python3.12`. The first of these that runs and is one.
FITS := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
	"$$name" -c '$(FITS)' 2>/dev/null && { command -v "$$name"; break; }; done)
SEED ?= 0
PINS := deployments/constraints.txt
PIP := -m pip --disable-pip-version-check --quiet
ALL := .venv/.installed
CORE := .venv-core/.installed

# No library may send home that it is used.
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup run test test-long kills chaos check bench clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(ALL)  ## install everything into .venv

run: $(ALL)  ## the whole pipeline: data, four stages, evaluation, registration
	@.venv/bin/tinygptv run

test: $(CORE) $(ALL)  ## every test: the core alone in .venv-core, then everything
	.venv-core/bin/python -m pytest --numprocesses 2 tests/core
	# Three for two cores: one of them often waits for a server or a process to end.
	.venv/bin/python -m pytest --numprocesses 3 --ignore=tests/core

test-long: $(ALL)  ## the tests that take minutes each
	.venv/bin/python -m pytest --long -m long

kills: $(ALL)  ## a fetch of 2,000 pictures, killed twenty times: minutes
	.venv/bin/python -m pytest tests/tasks/fetching/test_kills.py --kills 20

chaos: $(ALL)  ## the whole of nano, killed thirty times anywhere; SEED=1 for other places
	.venv/bin/python -m pytest tests/pipeline/test_chaos.py --long -m long --chaos 30 --chaos-seed $(SEED)

check: $(ALL)  ## style, types, import rules and spelling
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright
	.venv/bin/lint-imports
	.venv/bin/codespell

bench: $(ALL)  ## the core and the data path against the conventional way: speed and memory
	.venv/bin/python -m benchmarks.model
	.venv/bin/python -m benchmarks.train
	.venv/bin/python -m benchmarks.data
	.venv/bin/python -m benchmarks.loading
	.venv/bin/python -m benchmarks.fetching
	.venv/bin/python -m benchmarks.importing

clean:  ## remove the environments (what runs wrote stays)
	rm -rf .venv .venv-core

# torch goes first and alone, so that no other package's wish decides which build of it is taken.
$(ALL): pyproject.toml $(PINS)
	$(call new_environment,.venv)
	.venv/bin/python $(PIP) install -c $(PINS) torch
	.venv/bin/python $(PIP) install -c $(PINS) -e '.[pipeline,fast,low-resource,postgres,s3,auth,test,test-deployments,check]'
	# img2dataset asks for this backport of a standard module, which then stands in the real one's place.
	.venv/bin/python $(PIP) uninstall --yes dataclasses 2>/dev/null
	touch $@

$(CORE): pyproject.toml $(PINS)
	$(call new_environment,.venv-core)
	.venv-core/bin/python $(PIP) install -c $(PINS) torch
	.venv-core/bin/python $(PIP) install -c $(PINS) -e '.[test]'
	touch $@

define new_environment
@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(FITS)' || { \
	echo "$(or $(PYTHON),none of python3.11, python3.12 and python3) is not Python 3.11 or 3.12, which this project needs." >&2; \
	echo "  install one and name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 2; }
@"$(PYTHON)" -c 'import ensurepip, venv' || { \
	echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 2; }
@echo "installing into $(1); this takes a few minutes, once" >&2
@"$(PYTHON)" -m venv $(1)
endef
