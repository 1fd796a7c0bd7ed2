# make demo · make test · make lint · make check · make bench · make clean
#   make check                  all checks before a merge, as a table; make canaries tests that each gate can turn red
#   make test-colab             the tests and the tiny demo with Colab's versions (needs python3.13)
#   make demo MODEL=tiny        the same stages on a tiny model, about two minutes
#   make demo ROWS=4000         six times the training rows
PYTHON ?= python3
MODEL ?= embedded
ROWS ?= $(if $(filter tiny,$(MODEL)),1000,700)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check
# Succeeds silently if everything is installed; else it fails, and the next pip call shows what it downloads.
IS_INSTALLED := $(PIP) --quiet --no-index
# Colab's versions, in their own environment
COLAB := .venv-colab
COLAB_PYTHON ?= python3.13
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test test-slow test-colab lint check canaries bench docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime
	$(PY) scripts/run_demo.py --base-model $(MODEL) --max-rows $(ROWS)

# Without compiled files, every test process would compile scripts and tests again.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.dev
	$(PY) scripts/check_merge.py --only tests --live

test-slow: $(VENV)/.dev
	$(PY) -m pytest -m slow

test-colab: $(COLAB)/.installed
	$(COLAB)/bin/python -m pytest -n auto -p no:cacheprovider \
	  -m 'not slow and not gpu and not network and not newer_datasets'
	$(COLAB)/bin/python scripts/run_demo.py --base-model tiny --max-rows 1000 --out-dir runs/demo-colab --force

lint: $(VENV)/.dev
	$(PY) scripts/check_merge.py --only lint

check: $(VENV)/.dev
	$(PY) scripts/check_merge.py $(if $(GATES),--only $(GATES))

canaries: $(VENV)/.dev
	$(PY) -m pytest -n auto -m slow tests/scripts/test_check_merge.py

bench: $(VENV)/.bench
	@for script in benchmarks/bench_*.py; do echo "$$script"; $(PY) $$script || exit 1; done

docs: $(VENV)/.runtime
	cd scripts && ../$(PY) -m linklab.training.options ../docs/settings.md

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# On Linux PyPI's torch includes 3 GB of CUDA; without an NVIDIA driver, use the CPU build of PyTorch's own index.
$(VENV)/.torch: requirements.txt | $(VENV)/bin/python
	@if [ "$$(uname -sm)" != "Linux x86_64" ] || command -v nvidia-smi >/dev/null; then exit 0; fi; \
	  if $(IS_INSTALLED) "$$(grep '^torch==' requirements.txt)" 2>/dev/null; then exit 0; fi; \
	  if $(PY) -c 'import urllib.request as web; web.urlopen("$(CPU_INDEX)/torch/", timeout=10)' 2>/dev/null; then \
	    $(PIP) --extra-index-url $(CPU_INDEX) "$$(grep '^torch==' requirements.txt)"; \
	  else echo "PyTorch's CPU index cannot be reached; installing the torch that pip finds"; fi
	@touch $@

$(VENV)/.runtime: requirements.txt $(VENV)/.torch
	@$(IS_INSTALLED) -r requirements.txt 2>/dev/null || $(PIP) -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(PIP) --quiet -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.dev
	$(PIP) --quiet -r requirements-bench.txt
	@touch $@

$(COLAB)/.installed: requirements-colab-base.txt requirements-colab.txt requirements-dev.txt
	$(COLAB_PYTHON) -m venv $(COLAB)
	$(COLAB)/bin/python -m pip install --disable-pip-version-check -r requirements-colab-base.txt
	$(COLAB)/bin/python -m pip install --disable-pip-version-check -r requirements-colab.txt
	grep -Ev '^(-r|datasets|trl)' requirements-dev.txt > $@.txt
	$(COLAB)/bin/python -m pip install --disable-pip-version-check -c requirements-colab-base.txt -r $@.txt
	@touch $@
