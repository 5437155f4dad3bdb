# Everything runs in .venv, which every target brings up to date first (requirements/install.py:
# nothing happens when it already is). Needs git, Python 3.11 with pip, and make; no compiler.
#
#   make run | test | lint | ablate | bench | s3 | chaos | local-cluster | elastic | gpu-check | clean
#
#   PYTHON=...       the Python 3.11 to build .venv with
#   TORCH_INDEX=...  where PyTorch's CPU wheels are, for machines whose pip does not see them:
#                    make run TORCH_INDEX=https://download.pytorch.org/whl/cpu   (or a folder)
#   RECIPE=...       what `make run` runs: a name in jobs/recipes, or a YAML file
#   ARGS="..."       passed on to the job, or to pytest: make test ARGS="-k ledger"

IS_311 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3 python; do \
	$$p $(IS_311) >/dev/null 2>&1 && echo $$p && break; done)
endif
TORCH_INDEX ?=
RECIPE ?= digits
ARGS ?=

VENV := .venv/bin

.PHONY: run test lint format ablate bench s3 chaos local-cluster elastic gpu-check clean env lock

# Killing make ends the job it started, however it is killed: the job watches this process.
run ablate bench s3 chaos elastic: export MSTAR_MAKE := $(shell echo $$PPID)

# A recipe of one simple command is executed without a shell in between, so that the job itself
# is what Ctrl-C and an exit code belong to.
run: env
	$(VENV)/python -m jobs run --recipe $(RECIPE) $(ARGS)

# The paper's tables over seeds: hours, resumable; ARGS="--profile small" is a short form.
ablate: env
	$(VENV)/python -m jobs ablate $(ARGS)

# In two processes: tests that start processes of their own one after another in one of them, the
# others beside (tests/conftest.py). ARGS="-n 0" runs all in this one.
test: env
	$(VENV)/python -m pytest -n 2 $(ARGS)

lint: env
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy

format: env
	$(VENV)/ruff check --fix
	$(VENV)/ruff format

bench: env
	$(VENV)/python -m jobs bench $(ARGS)

s3: env
	$(VENV)/python -m cluster.s3 $(ARGS)

# A head and autoscaled worker nodes on this machine, each with its own files.
local-cluster: env
	$(VENV)/python -m cluster.local $(ARGS)

# A submitted job on such a cluster, whose nodes come, go and are killed.
elastic: env
	$(VENV)/python -m jobs.elastic $(ARGS)

# What it runs after the kills, over ARGS="--examples N".
chaos: export MSTAR_STATE_MACHINE := $(VENV)/python -m pytest -q -o faulthandler_timeout=0 \
	tests/pipeline/driver/test_driver_machine.py
chaos: env
	$(VENV)/python -m jobs chaos $(ARGS)

# On a machine with a GPU, with its own Python: no environment is built. GPU_PYTHON=... names it.
GPU_PYTHON ?= python3
gpu-check:
	$(GPU_PYTHON) cluster/gpu_check.py $(ARGS)

# After the dependencies in pyproject.toml changed.
lock: env
	$(VENV)/python requirements/lock.py

# Runs and their stores (out/) are kept.
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis mstar_ray.egg-info
	find actors cluster jobs pipeline requirements tests -name __pycache__ -prune -exec rm -rf {} +

env:
	@"$(PYTHON)" $(IS_311) 2>/dev/null || { \
		echo "make: needs Python 3.11, and '$(PYTHON)' is not it (by default the first of" >&2; \
		echo "      python3.11, python3 and python that is). Install it, or name it:" >&2; \
		echo "      make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 2; }
	@"$(PYTHON)" requirements/install.py "$(TORCH_INDEX)"
