# `make demo` and `make test` do everything on a fresh machine: they make .venv and install into it.

PYTHON ?= python3
# Where PyTorch's build for CPUs is; for a GPU: make test TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# What looks at the photos in make reproduce.
ENCODER ?= mobilenet_v2
WEIGHTS ?= download
VENV := .venv
RUN = $(VENV)/bin/python
INSTALL = $(RUN) .ci/install.py -c constraints.txt
# What is installed: the base, without PyTorch; PyTorch and what tests need; JupyterLab.
BASE := $(VENV)/.base
ALL := $(VENV)/.all
LESSONS := $(VENV)/.lessons
SITE := $(VENV)/.site

.PHONY: help setup demo test test-slow test-lowest lessons lessons-make lessons-check lint format \
	check bench site reproduce clean

help:
	@echo "make demo    train a hand-written LSTM on embedded data and show its captions"
	@echo "make test    run the tests (make test-slow: those that take longest, as .ci/run does)"
	@echo "make lessons open the notebooks in JupyterLab"
	@echo "make lessons-check   execute all notebooks anew and compare (lessons-make writes them)"
	@echo "make check   check every hand-written gradient"
	@echo "make site    build the lessons as web pages: site/index.html"
	@echo "make bench   measure speed beside PyTorch and write docs/speed.md"
	@echo "make reproduce DATA=PHOTOS   train on Flickr8k and write docs/results.md"
	@echo "make lint    check style and formatting (make format mends what it can)"
	@echo "make test-lowest   the tests of layers, models, solver and commands with the oldest packages"
	@echo "make setup   only make .venv and install everything into it"
	@printf '%s\n' '' \
	'Without make, as on Windows, first and once:' \
	'    python -m venv .venv' \
	'    .venv\Scripts\activate        (Linux, macOS: . .venv/bin/activate)' \
	'    python -m pip install -c constraints.txt -e .' \
	'make demo:' \
	'    python training.py --model lstm --num_samples 50 --out runs/demo' \
	'    python inference.py --checkpoint runs/demo --split train --figure runs/demo/captions.png' \
	'make setup, which all below but lessons need:' \
	'    python -m pip install -c constraints.txt --extra-index-url $(TORCH_INDEX) torch' \
	'    python -m pip install -c constraints.txt -e ".[torch,dev]"' \
	'make check:' \
	'    python -m core.gradient_check' \
	'make test:' \
	'    python -m pytest -n auto' \
	'make lessons-check:' \
	'    python notebooks/build.py check' \
	'make lint:' \
	'    python -m ruff check .' \
	'make lessons:' \
	'    python -m pip install -c constraints.txt -e ".[lessons]"' \
	'    python -m jupyter lab notebooks'

setup: $(ALL)

# Each is redone only when what it installs from has changed.
$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' || \
		{ echo "make: Python 3.10 to 3.14 is needed, found $$($(PYTHON) -V 2>&1); give another:" \
			"make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(ALL): $(BASE)
	$(INSTALL) --retries 1 --extra-index-url $(TORCH_INDEX) torch
	$(INSTALL) -e '.[torch,dev]'
	@touch $@

$(LESSONS): $(BASE)
	$(INSTALL) -e '.[lessons]'
	@touch $@

$(SITE): $(BASE)
	$(INSTALL) -e '.[site]'
	@touch $@

demo: $(BASE)
	$(RUN) training.py --model lstm --num_samples 50 --out runs/demo
	$(RUN) inference.py --checkpoint runs/demo --split train --figure runs/demo/captions.png

test: $(ALL)
	$(RUN) -m core.shapes  # once, not by each process
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto -m "not slow"  # threads only get in each other's way

test-slow: $(ALL)
	$(RUN) -m core.shapes
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto -m slow

# The bounds of pyproject.toml are true as long as this passes, with the oldest Python best.
LOWEST_TESTS = rnn_layers attention_layers transformer_layers models optim solver commands \
	fast engines erf gradient_check without_torch
test-lowest: VENV := .venv-lowest
test-lowest:
	$(PYTHON) -m venv $(VENV)
	$(RUN) .ci/install.py --retries 1 --extra-index-url $(TORCH_INDEX) torch
	$(RUN) .ci/install.py -c constraints-lowest.txt -e '.[torch,dev]'
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto $(wildcard $(LOWEST_TESTS:%=tests/test_%.py))

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
	$(RUN) -m core.reproduce --data "$(DATA)" --weights "$(WEIGHTS)" --encoder "$(ENCODER)"

lint: $(ALL)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(ALL)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) .venv-lowest runs site jupyter_execute datasets/shapes
