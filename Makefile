# make test | compile | bench | models | check | gate | baseline | mutants | sanitize | lock
#
# Each target makes its own environment in .venv on first use: the exact versions of requirements.lock, and this
# checkout, editable. To use another:
#   make test VENV=dir              an environment in another place
#   make test PYTHON=python3.12     the Python that the environment is made with
#   make test QBENCH_ENV=current    the environment you are in; nothing is installed
# ARGS is passed on to pytest:      make bench ARGS="--models Llama-3.1-8B --batch-sizes 1 16"
# Also: make compile (every kernel for every target, without a GPU), make bench UPDATE=dry (store nothing), make models
#   MODEL=Llama-3.1-8B (a whole model by every recipe: speed, accuracy, plots), make baseline RUNS=10, make gate
#   BASE=origin/main, make check (all that CI runs on a pull request but compile), make mutants (the catalogue of planted
#   bugs), make sanitize (every kernel under compute-sanitizer, on a GPU)

PYTHON ?= python3
VENV ?= .venv
RUNS ?= 10
BASE ?= origin/main
ARGS ?=
REPORT ?= reports/bench
UPDATE ?= missing
STRICT ?= --qbench-strict
MODEL ?= Llama-3.1-8B
RECIPES ?= bf16 fp8 int8 nvfp4-w4a16 nvfp4-w4a4 mxfp4-w4a16 mxfp4-w4a4
BATCHES ?= 1 8 32
JOBS ?= 4
MODELS_REPORT ?= reports/models
MADE = $(foreach recipe,$(RECIPES),$(MODELS_REPORT)/$(recipe)/results.json $(MODELS_REPORT)/accuracy/accuracy-$(recipe).json)

ifeq ($(QBENCH_ENV),current)
RUN := $(PYTHON)
READY := .current-environment
else ifeq ($(QBENCH_ENV),)
RUN := $(VENV)/bin/python
READY := $(VENV)/.installed
else
$(error QBENCH_ENV=$(QBENCH_ENV): the only value is "current" (use the environment you are in); leave it unset for $(VENV))
endif

.PHONY: help test compile bench models check gate baseline mutants sanitize lock clean .current-environment
.NOTPARALLEL:

define check-python
@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null || { \
  echo "This project needs Python 3.11, 3.12 or 3.13, and PYTHON=$(PYTHON) is" \
    "$$($(PYTHON) --version 2>&1 | head -n 1). Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
endef

help:
	@sed -n '1,12s/^# \{0,1\}//p' Makefile

test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --benchmark-disable -n auto --maxprocesses 8 $(ARGS)

# Every kernel for every target, held to what is declared of it and to baselines/compile; planted bugs are caught.
compile: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/compile --qbench-compile $(STRICT) --qbench-report=reports/compile $(ARGS)

bench: $(READY)
	$(RUN) -m pytest tests/bench --benchmark-only --qbench-update=$(UPDATE) --qbench-report=$(REPORT) $(ARGS)

# A process for each recipe, JOBS at a time: they compile beside each other and take turns with the GPU, whose memory must
# hold JOBS models. Without a GPU: MODEL=tiny-llama.
models: $(READY)
	rm -f $(MADE)
	$(RUN) -m qkernels.models accuracy --recipes $(RECIPES) -o $(MODELS_REPORT)/accuracy
	found=0; \
	printf '%s\n' $(RECIPES) | xargs -P $(JOBS) -I RECIPE $(RUN) -m pytest tests/bench/test_models.py --benchmark-only \
	  --recipes RECIPE --models $(MODEL) --batch-sizes $(BATCHES) --qbench-update=$(UPDATE) \
	  --qbench-report=$(MODELS_REPORT)/RECIPE $(ARGS) || found=1; \
	$(RUN) -m qbench compare $$(ls $(MADE) 2>/dev/null) -o $(MODELS_REPORT) || found=1; \
	exit $$found

check: $(READY)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
	OMP_NUM_THREADS=1 $(RUN) -m pytest --benchmark-disable -n auto --maxprocesses 8 $(ARGS)

mutants: $(READY)
	$(RUN) -m tests.mutants $(ARGS)

# The first run compiles every kernel. Without torch's own cache each tensor is an allocation the tool knows the end of.
sanitize: $(READY)
	$(RUN) -m tests.every_kernel
	for tool in memcheck synccheck initcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
	    $(RUN) -m tests.every_kernel --no-check || exit 1; done

# Is the working tree slower than where it left BASE? Interleaved runs of both; exit 1: slower, 3: could not measure.
gate: $(READY)
	$(RUN) -m qbench gate --base $(BASE) --report reports/gate -- tests/bench $(ARGS)

# RUNS fresh processes over all cases, each in an order of its own, added to what is stored; the oldest age out.
baseline: $(READY)
	$(RUN) -m qbench record --runs $(RUNS) -- tests/bench $(ARGS)

lock:
	$(check-python)
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --disable-pip-version-check --quiet -e ".[dev]"
	{ sed -n '1,2p' requirements.lock; .lock-venv/bin/python -m pip freeze --exclude-editable --all | sort -f | sed -E \
	  -e '/^(pip|nvidia-.*-cu[0-9]+|nvidia-(cu|nv|nccl|cs).*|cuda-.*)==/d' -e 's/^(torch==[^+]*).*/\1/' \
	  -e "s/^triton==.*/&; sys_platform == 'linux'/"; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf .lock-venv

clean:
	rm -rf .venv .lock-venv build *.egg-info reports .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/.installed: requirements.lock pyproject.toml
	$(if $(wildcard $(VENV)/bin/python),,$(check-python))
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make an environment in $(VENV); Debian and Ubuntu need: apt install python3-venv" >&2; exit 1; }
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.lock
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	touch $@

.current-environment:
	@$(PYTHON) -c "import importlib.metadata as m; m.version('pytest-qbench')" 2>/dev/null || { \
	  echo "QBENCH_ENV=current, but this project is not installed in the environment of $(PYTHON)." \
	    "Run '$(PYTHON) -m pip install -e .[dev]' there, or leave QBENCH_ENV unset." >&2; exit 1; }
