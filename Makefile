# Two commands do everything on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
# Standalone use only: inside ComfyUI torch is the host's. TORCH= names another build if you want one (TORCH=torch for the newest).
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
DEMO := out/nano_canny_controlnet
# Where `make browser` keeps playwright-core; the browser is the system's (CHROMIUM= names another one).
PLAYWRIGHT ?= $(HOME)/.cache/graft-browser

.PHONY: demo test quick lint bench integration browser pictures clean help
.DELETE_ON_ERROR:

help:
	@echo "make demo   train a Canny ControlNet on the built-in nano FLUX and show what came of it (about 8 minutes on 2 cores)"
	@echo "make test   all checks and tests (under 15 minutes on 2 cores)"
	@echo "make quick  the quick tests only (under 2 minutes)"
	@echo "make lint   ruff and mypy"
	@echo "make integration COMFYUI_PATH=... COMFYUI_PYTHON=...   the tests against a real ComfyUI, with the Python that it runs in"
	@echo "make browser COMFYUI_PATH=... COMFYUI_PYTHON=...   the live panel in Chromium and a real ComfyUI (FRONTEND= names another frontend); pictures in out/browser"
	@echo "make pictures COMFYUI_PATH=... COMFYUI_PYTHON=...   the workflows' thumbnails and the README's pictures, from real runs (OPTIONS=--help lists options)"
	@echo "make bench  seconds and memory per training step, beside the same step in diffusers"

demo: $(INSTALLED)
	rm -rf $(DEMO)
	GRAFT_INPUT=out/input $(BIN)/python -m graft run workflows/nano_canny_controlnet.json --output $(DEMO)

test: lint quick
	$(BIN)/python -m pytest -m slow

quick: $(TESTABLE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

lint: $(TESTABLE)
	$(BIN)/ruff check .
	$(BIN)/mypy

integration: $(TESTABLE)
	@test -n "$(COMFYUI_PATH)" || (echo "Name a ComfyUI checkout: make integration COMFYUI_PATH=/path/to/ComfyUI COMFYUI_PYTHON=/its/bin/python"; exit 1)
	COMFYUI_PATH="$(COMFYUI_PATH)" COMFYUI_PYTHON="$(COMFYUI_PYTHON)" $(BIN)/python -m pytest -m integration

browser: $(TESTABLE)
	@test -n "$(COMFYUI_PATH)" || (echo "Name a ComfyUI checkout: make browser COMFYUI_PATH=/path/to/ComfyUI COMFYUI_PYTHON=/its/bin/python"; exit 1)
	test -d "$(PLAYWRIGHT)/node_modules/playwright-core" || npm install --no-save --prefix "$(PLAYWRIGHT)" playwright-core
	COMFYUI_PATH="$(COMFYUI_PATH)" COMFYUI_PYTHON="$(COMFYUI_PYTHON)" PLAYWRIGHT="$(PLAYWRIGHT)" $(BIN)/python -m pytest tests/browser -m browser

pictures: $(TESTABLE)
	@test -n "$(COMFYUI_PATH)" || (echo "Name a ComfyUI checkout: make pictures COMFYUI_PATH=/path/to/ComfyUI COMFYUI_PYTHON=/its/bin/python"; exit 1)
	test -d "$(PLAYWRIGHT)/node_modules/playwright-core" || npm install --no-save --prefix "$(PLAYWRIGHT)" playwright-core
	COMFYUI_PATH="$(COMFYUI_PATH)" COMFYUI_PYTHON="$(COMFYUI_PYTHON)" PLAYWRIGHT="$(PLAYWRIGHT)" $(BIN)/python tests/browser/make_pictures.py $(OPTIONS)

bench: $(TESTABLE)
	$(BIN)/python -m graft bench

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		(echo "Graft needs Python 3.10 to 3.13; found `$(PYTHON) --version`. Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[standalone]"
	touch $@

$(TESTABLE): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[standalone,test,dev]"
	touch $@

clean:
	rm -rf out build *.egg-info .pytest_cache .mypy_cache .ruff_cache
