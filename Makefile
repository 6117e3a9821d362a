# `make demo` and `make test` do everything on a fresh machine: they make .venv and install into it.

PYTHON ?= python3
# Where PyTorch's build for CPUs is; for a GPU: make test TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check -c constraints.txt
# What is installed: the base, without PyTorch; PyTorch and what tests need; JupyterLab.
BASE := $(VENV)/.base
ALL := $(VENV)/.all
LESSONS := $(VENV)/.lessons
SITE := $(VENV)/.site

.PHONY: help setup demo test lessons lessons-make lessons-check lint format check bench site \
	reproduce clean

help:
	@echo "make demo    train a hand-written LSTM on embedded data and show its captions"
	@echo "make test    run the tests"
	@echo "make lessons open the notebooks in JupyterLab"
	@echo "make lessons-check   execute all notebooks anew and compare (lessons-make writes them)"
	@echo "make check   check every hand-written gradient"
	@echo "make site    build the lessons as web pages: site/index.html"
	@echo "make bench   measure speed beside PyTorch and write docs/speed.md"
	@echo "make reproduce DATA=PHOTOS WEIGHTS=FILE   train on Flickr8k and write docs/results.md"
	@echo "make lint    check style and formatting (make format mends what it can)"
	@echo "make setup   only make .venv and install everything into it"

setup: $(ALL)

# Each is redone only when what it installs from has changed.
$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' || \
		{ echo "Python 3.10 to 3.14 is needed: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(ALL): $(BASE)
	$(INSTALL) --retries 1 --extra-index-url $(TORCH_INDEX) torch
	$(INSTALL) --quiet -e '.[torch,dev]'
	@touch $@

$(LESSONS): $(BASE)
	$(INSTALL) --quiet -e '.[lessons]'
	@touch $@

$(SITE): $(BASE)
	$(INSTALL) --quiet -e '.[site]'
	@touch $@

demo: $(BASE)
	$(RUN) training.py --model lstm --num_samples 50 --out runs/demo
	$(RUN) inference.py --checkpoint runs/demo --split train --figure runs/demo/captions.png

test: $(ALL)
	$(RUN) -m core.shapes  # once, not by each process
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto  # threads only get in each other's way

lessons: $(LESSONS)
	$(RUN) -m jupyter lab notebooks

lessons-make: $(ALL)
	$(RUN) -m core.shapes
	$(RUN) notebooks/build.py make

lessons-check: $(ALL)
	$(RUN) -m core.shapes
	$(RUN) notebooks/build.py check

site: $(SITE)
	$(RUN) -m sphinx -q -c docs/site . site

check: $(ALL)
	$(RUN) -m core.gradient_check

bench: $(ALL)
	$(RUN) -m core.shapes  # what starting is measured with
	$(RUN) -m benchmarks

reproduce: $(ALL)
	$(RUN) -m core.reproduce --data "$(DATA)" --weights "$(WEIGHTS)"

lint: $(ALL)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(ALL)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) runs site datasets/shapes
