# Everything here works on a machine with Python 3.11 to 3.13, make and git: targets install what they need into .venv
# first, and again when pyproject.toml, the constraints or the folder changed. Nothing else is touched.
#
#   make curate                                       sample videos in, a curated data set and its report out
#   make curate INPUT=s3://bucket/raw OUTPUT=s3://bucket/clips CONFIG=configs/default.yaml ARGS="limit=100 cut.audio=true"
#   make caption OUTPUT=s3://bucket/clips             captions for the clips of that data set
#   make train INPUT=folder/of/mp4/and/txt MODEL=THUDM/CogVideoX-2b     clips with captions in, a LoRA out

.DEFAULT_GOAL := help
SHELL := /bin/sh

INPUT ?=
ifneq ($(and $(INPUT),$(filter train,$(MAKECMDGOALS))),)
CONFIG ?= configs/train-lora.yaml
OUTPUT ?= data/brought
endif
CONFIG ?= configs/$(or $(filter caption latents train,$(MAKECMDGOALS)),default).yaml
OUTPUT ?= $(if $(INPUT),,data/curated)
ARGS ?=
SET ?= default
# Of make train: the pipeline that is fine-tuned, its text encoder where that is another, how clips are encoded, processes.
MODEL ?= THUDM/CogVideoX-2b
TEXT ?= $(MODEL)
LATENTS ?= configs/latents-lora.yaml
RANKS ?= 1
export INPUT OUTPUT MODEL TEXT

VENV := .venv
BIN := $(VENV)/bin
# Two at a time, each file's tests by one process; ARGS="-n 0" runs them one by one.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
SAMPLES := $(or $(RUSHES_SAMPLES),.cache/samples)

ifneq ($(filter curate,$(MAKECMDGOALS)),)
ifeq ($(OUTPUT),)
$(error say where to: make curate INPUT=$(INPUT) OUTPUT=FOLDER_OR_URI)
endif
endif

# Exact versions of all dependencies; CONSTRAINTS= (empty) lets pip choose. The pinned torch is the CPU build's version:
# beside an NVIDIA driver its line and torchvision's are left out.
CONSTRAINTS ?= constraints-cpu.txt
CUDA := $(if $(shell command -v nvidia-smi 2>/dev/null),cuda,cpu)
# setuptools warns of every editable install of a flat layout; PYTHONWARNINGS spares the reader that.
PIP_INSTALL = PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(VENV)/constraints.txt)

# An editable install knows its folder by path: what was installed for another folder or other constraints is redone.
SETTINGS := $(CURDIR) $(CUDA) $(CONSTRAINTS)
INSTALLED := $(shell cat $(VENV)/.settings 2>/dev/null)
CHANGED := $(if $(subst <$(SETTINGS)>,,<$(INSTALLED)>),force)
ALIVE := $(shell $(BIN)/python -c "" 2>/dev/null && echo yes)

.PHONY: help setup curate caption latents train demo vae test test-slow check samples report bench clean force

help: ## this list
	@echo "usage: make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.dev ## install everything into .venv, tools for development included

curate: $(VENV)/.runtime ## curate INPUT into OUTPUT with CONFIG and ARGS; without INPUT: the sample videos
ifeq ($(INPUT),)
	@$(BIN)/python -m curation.samples "$(SAMPLES)"
	@$(BIN)/rushes curate $(CONFIG) "input=$(SAMPLES)/videos" "output=$$OUTPUT" $(ARGS)
else
	@$(BIN)/rushes curate $(CONFIG) "input=$$INPUT" "output=$$OUTPUT" $(ARGS)
endif

caption: $(VENV)/.runtime ## caption the kept clips of the data set OUTPUT with CONFIG and ARGS
	@$(BIN)/rushes caption $(CONFIG) "dataset=$$OUTPUT" $(ARGS)

latents: $(VENV)/.runtime ## encode the captioned clips of the data set OUTPUT into shards with CONFIG and ARGS
	@$(BIN)/rushes latents $(CONFIG) "dataset=$$OUTPUT" $(ARGS)

TRAIN := $(if $(filter-out 1,$(RANKS)),$(BIN)/torchrun --standalone --nproc_per_node $(RANKS) --no-python) $(BIN)/rushes train
train: $(VENV)/.runtime ## train on the shards of OUTPUT with CONFIG and ARGS; INPUT: a LoRA on MODEL, of clips with captions
ifeq ($(INPUT),)
	@$(TRAIN) $(CONFIG) "dataset=$$OUTPUT" $(ARGS)
else
	@$(BIN)/python -m train.brought "$$INPUT" "$$TEXT" $(LATENTS) $(BROUGHT)
	@$(BIN)/rushes curate configs/ready-made-clips.yaml "input=$$INPUT" "output=$$OUTPUT"
	@$(BIN)/rushes caption configs/caption-lora.yaml "dataset=$$OUTPUT"
	@$(BIN)/rushes latents $(LATENTS) "dataset=$$OUTPUT" "vae.model=$$MODEL" "text.model=$$TEXT" $(ENCODERS)
	@$(TRAIN) $(BROUGHT)
endif
# What training is told, by the check before all work and at the end; encoders take the GPU where there is one.
BROUGHT = $(CONFIG) "dataset=$$OUTPUT" "output=$$OUTPUT/train" "model=$$MODEL" $(ARGS)
ENCODERS := $(if $(filter cuda,$(CUDA)),ray.worker_gpus=1)

# Clips that look quite unlike each other, so that what is sampled can be told apart.
DEMO := data/demo
demo: $(VENV)/.runtime ## raw film to sampled videos: curate, caption, encode, train, sample, in data/demo (minutes)
	@$(BIN)/python -m curation.samples "$(SAMPLES)"
	@mkdir -p $(DEMO) && find "$(abspath $(SAMPLES))/videos/film" "$(abspath $(SAMPLES))/videos/small" -type f | sort > $(DEMO)/videos.txt
	@$(BIN)/rushes curate configs/default.yaml input=$(DEMO)/videos.txt output=$(DEMO) select.near_duplicates.threshold=0.4
	@$(BIN)/rushes caption configs/caption.yaml dataset=$(DEMO)
	@$(BIN)/rushes latents configs/latents-demo.yaml dataset=$(DEMO)
	@$(BIN)/rushes train configs/train-demo.yaml dataset=$(DEMO) output=$(DEMO)/train
	@$(BIN)/python -m train.demo configs/train-demo.yaml dataset=$(DEMO) output=$(DEMO)/train

# Shots of the film are learnt from; three videos of other kinds are tested on.
VAE_TESTED := small/bikes.mp4 camera/vtest.avi small/carphone_pristine.mp4
vae: $(VENV)/.runtime ## train the VAE that comes with rushes once more, on the sample film, into data/vae (two to three hours)
	@$(BIN)/python -m curation.samples "$(SAMPLES)" --set all
	@mkdir -p data/vae
	@for name in $(VAE_TESTED); do echo "$(abspath $(SAMPLES))/videos/$$name"; done > data/vae/tested.txt
	@$(BIN)/rushes curate configs/vae-clips.yaml "input=$(SAMPLES)/videos/film/bbb.mp4" output=data/vae/film
	@$(BIN)/rushes curate configs/vae-clips.yaml input=data/vae/tested.txt output=data/vae/test
	@$(BIN)/rushes train-vae configs/vae.yaml
	@$(BIN)/rushes train-vae configs/vae-longer.yaml

test: check ## check, then the fast tests, with the 20 slowest named
	$(PYTEST) $(ARGS)

test-slow: $(VENV)/.dev ## kill matrices, soaks, whole films
	$(PYTEST) -m slow --timeout 2700 $(ARGS)

check: $(VENV)/.dev ## ruff, pyright and the import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

samples: $(VENV)/.runtime ## fetch the sample videos (SET=default, small, film, camera or all)
	@$(BIN)/python -m curation.samples "$(SAMPLES)" --set $(SET)

report: $(VENV)/.runtime ## write the report of the data set OUTPUT anew
	@$(BIN)/rushes report $(CONFIG) "output=$$OUTPUT" $(ARGS)

bench: $(VENV)/.dev ## run every benchmark
	@for script in $$(grep -l __main__ benchmarks/*.py); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## remove .venv, the sample videos and all caches; data/ stays
	rm -rf $(VENV) .cache build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: a stamp is written last, so what was interrupted is done again ---

force:

$(VENV)/.created: $(if $(ALIVE),,force)
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then touch $@; exit 0; fi; \
	tried=; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  command -v $$python >/dev/null 2>&1 || continue; \
	  if ! $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    tried="$$tried $$python ($$($$python --version 2>&1): 3.11 to 3.13 needed)"; continue; fi; \
	  if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
	    tried="$$tried $$python (no venv module: on Debian and Ubuntu, apt-get install $$(basename $$python)-venv)"; continue; fi; \
	  echo "set-up: a virtual environment of $$($$python --version) in $(VENV)"; \
	  $$python -m venv --clear $(VENV) && touch $@; exit; \
	done; \
	echo "set-up: no usable Python.$${tried:+ Tried:$$tried.}" >&2; \
	echo "Install Python 3.11 or later with its venv module, or name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1

$(VENV)/.pip: $(VENV)/.created pyproject.toml $(CONSTRAINTS) $(CHANGED)
	@$(BIN)/python -m pip install --quiet --upgrade --disable-pip-version-check pip
	@$(if $(CONSTRAINTS),grep -v '$(if $(filter cuda,$(CUDA)),^torch\(vision\)\?==,^$$)' $(CONSTRAINTS) > $(VENV)/constraints.txt)
	@rm -f $(VENV)/.runtime $(VENV)/.dev
	@echo "$(SETTINGS)" > $(VENV)/.settings
	@touch $@

$(VENV)/.runtime: $(VENV)/.pip
	@echo "set-up: installing rushes and its dependencies (once; about a minute)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "set-up: installing the tools for development (once; some seconds)"
	@$(PIP_INSTALL) -e ".[dev]"
	@$(CHROMIUM)
	@touch $@

# The report is tested in a browser. Without one those tests skip and say so.
define CHROMIUM
browser() { for name in chromium chromium-browser google-chrome; do $$name --version >/dev/null 2>&1 && return; done; return 1; }; \
if browser; then exit 0; fi; \
echo "set-up: a browser for the report's tests"; \
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } >/dev/null 2>&1; \
  if browser; then exit 0; fi; \
fi; \
$(BIN)/python -m playwright install chromium >/dev/null 2>&1 || \
echo "set-up: no Chromium, the report's browser tests will skip. To run them: install chromium, or $(BIN)/playwright install --with-deps chromium"
endef
