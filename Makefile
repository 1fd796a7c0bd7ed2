# make demo · make test · make lint · make check · make bench · make clean
#   make check                  all that must be green before a merge, as a table; make canaries sees each gate turn red
#   make demo MODEL=tiny        the same chain on a tiny model, about a minute
#   make demo ROWS=4000         ten times the training rows, under an hour on two cores
PYTHON ?= python3
MODEL ?= embedded
ROWS ?= $(if $(filter tiny,$(MODEL)),1000,400)
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo test test-slow lint check canaries bench docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime
	$(PY) scripts/run_demo.py --base-model $(MODEL) --max-rows $(ROWS)

test: $(VENV)/.dev
	$(PY) -m pytest -n auto

test-slow: $(VENV)/.dev
	$(PY) -m pytest -m slow

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

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

$(VENV)/.runtime: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.dev
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@
