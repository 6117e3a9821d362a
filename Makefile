# `make demo` and `make test` do everything on a fresh machine: they make .venv and install into it.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LESSONS := $(VENV)/.lessons

.PHONY: help setup demo test lessons lessons-make lessons-check lint format check bench \
	reproduce clean

help:
	@echo "make demo    train a hand-written LSTM on embedded data and show its captions"
	@echo "make test    run the tests"
	@echo "make lessons open the notebooks in JupyterLab"
	@echo "make lessons-check   execute all notebooks anew and compare (lessons-make writes them)"
	@echo "make check   check every hand-written gradient"
	@echo "make bench   measure speed beside PyTorch and write docs/speed.md"
	@echo "make reproduce DATA=PHOTOS WEIGHTS=FILE   train on Flickr8k and write docs/results.md"
	@echo "make lint    check style and formatting (make format mends what it can)"
	@echo "make setup   only make .venv and install into it"

setup: $(INSTALLED)

# Redone only when what it installs from has changed.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(LESSONS): $(INSTALLED)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lessons]'
	@touch $@

demo: $(INSTALLED)
	$(RUN) training.py --model lstm --num_samples 50 --out runs/demo
	$(RUN) inference.py --checkpoint runs/demo --split train --figure runs/demo/captions.png

test: $(INSTALLED)
	$(RUN) -m core.shapes  # once, not by each process
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto  # threads only get in each other's way

lessons: $(LESSONS)
	$(RUN) -m jupyter lab notebooks

lessons-make: $(INSTALLED)
	$(RUN) -m core.shapes
	$(RUN) notebooks/build.py make

lessons-check: $(INSTALLED)
	$(RUN) -m core.shapes
	$(RUN) notebooks/build.py check

check: $(INSTALLED)
	$(RUN) -m core.gradient_check

bench: $(INSTALLED)
	$(RUN) -m core.shapes  # what starting is measured with
	$(RUN) -m benchmarks

reproduce: $(INSTALLED)
	$(RUN) -m core.reproduce --data "$(DATA)" --weights "$(WEIGHTS)"

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) runs datasets/shapes
