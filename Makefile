# make demo   ultrasound in, MR-like image out, pictures in build/demo
# make test   everything that guards the product, in a stand-in for Slicer too
# Both set up .venv on a machine that has Python 3.10+, git and make.
#
# On Linux, pip's default torch brings CUDA along; for the small CPU build:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3.13 python3.10 python3,$(shell $(p) -c 'import sys; sys.version_info >= (3, 10) and print("$(p)")' 2>/dev/null)))
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-input
TORCH_ARGS := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
TORCH := $(shell grep '^torch==' requirements.txt)
DATA ?= $(if $(USMRI_DATA),$(USMRI_DATA),../shared/data)

.PHONY: demo test test-slicer lint results samples clean \
  simulate \
  train train-synthesis train-alignment train-outline train-content train-spacing train-fusion train-reliability train-paper

demo: .venv/.runtime
	$(BIN)/python -m USMRISynthesisLib.cli.demo build/demo

test: lint
	$(BIN)/python Testing/scene/check_system.py
	QT_QPA_PLATFORM=offscreen USMRI_DATA=$(DATA) $(BIN)/python -m pytest

# What the tests of Slicer's module need alone: a stand-in for Slicer, rendered without a screen.
test-slicer: .venv/.test
	$(BIN)/python Testing/scene/check_system.py
	QT_QPA_PLATFORM=offscreen USMRI_DATA=$(DATA) $(BIN)/python -m pytest Testing/scene

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python Testing/slicer_standin/stubs.py build/typings
	$(BIN)/mypy

# docs/results.md, docs/deformation.md and the README's table, from the JSON files that the evaluation commands wrote.
results: .venv/.runtime
	$(BIN)/python -m USMRISynthesisLib.evaluation.results_page docs/results docs/results.md README.md

# The bundled models' trainings, each from nothing. docs/training.md has their order, their times and what they make.
SIMULATE = $(BIN)/usmri simulate configs/$(1).json data/$(2) --data $(DATA)

simulate: .venv/.test
	$(call SIMULATE,simulation,sim)
	$(call SIMULATE,randomised-heads,randomised)
	$(BIN)/python -m USMRISynthesisLib.datasets.plane_frames --data $(DATA) --out data/planes.npz
	$(BIN)/python -m USMRISynthesisLib.datasets.marked_frames --data $(DATA) --out data/marked.npz

# Each run leaves its model in runs/models; the reliability map is learnt for the synthesis model there.
TRAIN = $(BIN)/usmri train configs/$(1).toml && $(BIN)/usmri export runs/$(1)/checkpoint.pt runs/models/$(1)

train: train-synthesis train-alignment train-outline train-content train-spacing train-fusion train-reliability

train-synthesis: .venv/.test
	$(call TRAIN,default)

train-alignment train-content train-spacing train-paper: train-%: .venv/.test
	$(call TRAIN,$*)

train-outline: .venv/.test
	$(call TRAIN,frames)

# Before the reliability map, which learns from the fused images. Trusted: the model is of this chain, not bundled.
train-fusion: .venv/.test
	$(BIN)/usmri train configs/fusion.toml --trust-model
	$(BIN)/usmri export runs/fusion/best.pt runs/models/default

train-reliability: .venv/.test
	$(BIN)/usmri train configs/support.toml --trust-model
	$(BIN)/usmri export runs/support/checkpoint.pt runs/models/default

samples: .venv/.test
	$(BIN)/python -m USMRISynthesisLib.simulation.samples Resources/SampleData --data $(DATA)

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.10 or later is needed: install it (Debian: apt-get install python3 python3-venv)."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Making .venv failed: install Python's venv (Debian: apt-get install python3-venv)."; exit 1; }

.venv/.runtime: requirements.txt pyproject.toml | .venv/bin/python
	$(PIP) $(TORCH_ARGS) $(TORCH)
	$(PIP) -r requirements.txt pillow
	$(PIP) --no-deps --editable .
	@touch $@

.venv/.test: .venv/.runtime Testing/requirements-test.txt Testing/requirements-library.txt
	$(PIP) -r Testing/requirements-test.txt
	@touch $@

clean:
	rm -rf build .venv
