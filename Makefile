# Everything runs in .venv, which `make setup` creates from setup.py and constraints.txt.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIPELINE := $(RUN) -m launch.pipeline --pipeline=configs/pipelines
EXTRAS ?= prepare,probe,test
# Two at a time; a file's tests stay together while there is enough of them, for what they share.
PYTEST := $(RUN) -m pytest -q -n 2 --dist worksteal

.PHONY: setup demo demo-real compare sweep-demo test test-all lint format clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hypnos_jax needs Python >= 3.11: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[$(EXTRAS)]' --constraint constraints.txt
	touch $@

# The whole job on a synthetic cohort, or on your own folder: make demo DATA=/path/to/recordings
demo: setup
	$(PIPELINE)/demo.py --output=$(if $(DATA),.demo-own --set 'data=$(DATA)',.demo)

# Pretraining on real ECGs, then fibrillation in others: make demo-real DATA=/path/to/public
demo-real: setup
	$(PIPELINE)/real_af.py --output=.demo-real/af --set 'data=$(DATA)' $(if $(TEST),--set 'test=$(TEST)')
	@echo "figure: $$(ls .demo-real/af/mixed/figures/*_record_probe.png)"

# Losses and models side by side on simulated nights with planted shortcuts
compare: setup
	$(PIPELINE)/compare.py --output=.compare

# A small sweep, an eval job beside each run, and the laws of it; the same command goes on
sweep-demo: setup
	$(RUN) -m launch.sweep --sweep=configs/sweeps/isoflop.py:smoke --output=.sweep-demo --jobs=2
	$(RUN) -m launch.fit_laws --sweep=.sweep-demo

test: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST)

lint: setup
	$(RUN) -m ruff check .
	$(VENV)/bin/lint-imports

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) .demo .compare .sweep-demo .pytest_cache .ruff_cache .import_linter_cache
