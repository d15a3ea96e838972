# `make help` lists what there is. Everything runs in .venv, which the first command that needs it sets up.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PRESET ?= quick
LAUNCHER ?= local
ARGS ?=
PYTHON ?= $(firstword $(shell command -v python3.11 python3))

VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.PHONY: help
help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PRESET=smoke|quick|laptop|gpu|paper|phop_quick|flt_quick|flt_paper (now $(PRESET))  LAUNCHER=local|slurm (now $(LAUNCHER))"
	@echo "  ARGS='key=value …' adds Hydra overrides, such as ARGS='data.path=my-texts'"

.PHONY: setup
setup: $(READY)  ## Create .venv with the pinned packages

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no python3.11 found; install it or say PYTHON=/path/to/python3.11"; exit 2; }
	@echo "setting up $(VENV) with the pinned packages (once, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# A sweep, then figures of that very sweep: $(call submit,kind of sweep,what draws them). Exit status 3: runs are left.
submit = $(BIN)/loopsweep submit --then "$(BIN)/python $(2)" +sweep=$(1) preset=$(PRESET) \
  hydra/launcher=$(LAUNCHER) $(ARGS)

.PHONY: sweep-lr-transfer
sweep-lr-transfer: $(READY)  ## Train Figure 5's grid (what is not finished yet) and draw it
	$(call submit,lr_transfer,analysis/plot_fig5.py)

.PHONY: sweep-architectures
sweep-architectures: $(READY)  ## Train the grid of architectures (what is not finished yet) and draw its figures
	$(call submit,architectures,-m analysis.figures --only architectures)

.PHONY: figures-init
figures-init: $(READY)  ## Probe models at initialisation, draw the toy model, and Figures 2, 3, 4 and 9
	@left=0; sweeps=$$($(BIN)/python -m analysis.figures --only init --experiments) || exit $$?; \
	for sweep in $$sweeps; do \
	  $(call submit,$$sweep,-m analysis.figures --only $$sweep) || { left=$$?; [ $$left = 3 ] || exit $$left; }; \
	done; exit $$left

.PHONY: figures-exponent
figures-exponent: $(READY)  ## Train the sweep over the exponent of N and draw where the optimum stops moving
	$(call submit,exponent,analysis/plot_exponent.py)

.PHONY: decide
decide: $(READY)  ## Train Figure 5's coarse grid, then what its open claims need (BUDGET=2h, 500gpuh or 40runs)
	$(BIN)/loopsweep submit --then "$(BIN)/loopsweep refine --until verdicts $(if $(BUDGET),--budget $(BUDGET)) \
	  --set hydra/launcher=$(LAUNCHER) $(filter paths.%,$(ARGS))" \
	  +sweep=lr_transfer design=coarse preset=$(PRESET) hydra/launcher=$(LAUNCHER) $(ARGS)

.PHONY: plan
plan: $(READY)  ## Show Figure 5's grid, what of it is done and what the rest will cost
	$(BIN)/loopsweep plan +sweep=lr_transfer preset=$(PRESET) hydra/launcher=$(LAUNCHER) $(ARGS)

.PHONY: data
data: $(READY)  ## Prepare the preset's data ahead of a sweep (a sweep does it by itself)
	$(BIN)/loopsweep data preset=$(PRESET) hydra/launcher=$(LAUNCHER) $(ARGS)

.PHONY: figures
figures: $(READY)  ## Redraw every figure from whatever has finished; one without records says how to make them
	$(BIN)/python -m analysis.figures

.PHONY: report
report: $(READY)  ## Judge every claim: figures/report.html and, for terminals, figures/report.md
	$(BIN)/python -m analysis.report $(ARGS)

.PHONY: verify
verify: $(READY)  ## Train some cells of results/quick again and compare them with the records: minutes
	$(BIN)/loopsweep verify $(ARGS)

.PHONY: test
test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 $(ARGS)

.PHONY: lint
lint: $(READY)  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: lock
lock: $(READY)  ## Pin what is installed in .venv now
	@{ head -1 requirements.lock; \
	  $(BIN)/pip freeze --all --exclude-editable | grep -v -e '^pip==' -e '^wheel==' | sed -E 's/^torch==([0-9.]+).*/torch==\1/'; } > .lock.new
	@mv .lock.new requirements.lock

.PHONY: clean
clean:  ## Remove .venv and figures; runs, sweeps and data stay
	rm -rf $(VENV) figures
