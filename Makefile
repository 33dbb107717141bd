# make demo and make test are all a fresh Debian machine needs: each first builds .venv if it is not there.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
# What the product needs, and what its tests need besides.
READY := .venv/.ready
TESTED := .venv/.tested
# TORCH=cpu: torch without its 4 GB for GPUs, from PyTorch's own index.
TORCH ?= cuda
INSTALL = $(BIN)/uv pip install -q --python $(BIN)/python

.PHONY: help demo test test-slow lint format bench study lock clean

help:
	@echo "make demo       find foregrounds, build a store, pretrain, score, write a page (first builds .venv)"
	@echo "make test       default tests        make test-slow  the longer ones"
	@echo "make lint       ruff and mypy        make format     let ruff format the code"
	@echo "make bench      measure, write bench.json and draw the last runs in bench.html"
	@echo "make study      do masks help? the papers' tables with small runs, a night on two cores; goes on where it was"
	@echo "make lock       resolve requirements.lock anew     make clean  remove .venv and build leftovers"

demo: $(READY)
	$(BIN)/python cli.py demo

# Files side by side: half of the time on two cores. More processes than four gain nothing and need memory for torch.
test: $(TESTED)
	@bash -eu -c "$$CHECK_BROWSER"
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(TESTED)
	@bash -eu -c "$$CHECK_BROWSER"
	$(BIN)/python -m pytest -q -m slow

lint: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.check_members

format: $(TESTED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A peer that has to be compiled: without it its line says so.
bench: $(TESTED)
	@$(INSTALL) pydensecrf2==1.1 || echo "pydensecrf2 cannot be built here: measured without it"
	$(BIN)/python -m tests.bench

# The photographs' half of the tables needs BACKDROP_DATA/imagenette.
study: $(READY)
	$(BIN)/python cli.py reproduce ryali --scale small --out artifacts/study \
	  --table 3 --table 4 --table A6 --table A7 --table A8 --table A9 --table A10 --table A11
	$(BIN)/python cli.py reproduce cast --scale small --out artifacts/study --table 1 --table 2a --table 2b --table 2c --table 2d

# Another one than Debian's is the user's to install: it is named as it was given.
define CHECK_PYTHON
if ! command -v "$(PYTHON)" >/dev/null; then
  if [ "$(PYTHON)" = python3 ]; then
    echo "Python is missing. Run: apt-get install -y python3 python3-venv python3-dev" >&2
  else
    echo "PYTHON=$(PYTHON): there is no such program. Give the path of a Python of 3.11 or newer, or leave PYTHON out" >&2
  fi
  exit 1
fi
endef
export CHECK_PYTHON

# Debian's packages that are missing: installed where root may, else named with the command.
define INSTALL_MISSING
if [ -n "$$missing" ]; then
  if [ "$$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends$$missing >/dev/null
  else
    echo "System packages are missing. Run this, then the same make command again:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends$$missing" >&2
    exit 1
  fi
fi
endef

# libjpeg-turbo decodes for the loader; no Python package brings it.
define CHECK_SYSTEM
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Backdrop needs Python 3.11 or newer, '$(PYTHON)' is older. Run: make PYTHON=/path/to/python3.11 demo" >&2
  exit 1
}
missing=""
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"
$(PYTHON) -c 'import ctypes; ctypes.CDLL("libturbojpeg.so.0")' 2>/dev/null || missing="$$missing libturbojpeg0"
$(INSTALL_MISSING)
endef
export CHECK_SYSTEM

# The tests read .beton files with FFCV too, which is compiled against OpenCV and libturbojpeg.
define CHECK_COMPILER
missing=""
command -v pkg-config >/dev/null || missing="$$missing pkg-config"
command -v g++ >/dev/null || missing="$$missing g++"
pkg-config --exists opencv4 2>/dev/null || missing="$$missing libopencv-dev"
pkg-config --exists libturbojpeg 2>/dev/null || missing="$$missing libturbojpeg0-dev"
$(PYTHON) -c 'import os, sysconfig; assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))' \
    2>/dev/null || missing="$$missing python3-dev"
$(INSTALL_MISSING)
endef
export CHECK_COMPILER

# Only the tests of pages want a browser: without one they are skipped, so nothing stops here.
define CHECK_BROWSER
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
  if [ "$$(id -u)" = 0 ]; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } ||
      echo "chromium could not be installed: the tests of pages are skipped" >&2
  else
    echo "No chromium: the tests of pages are skipped. To run them, first give:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends chromium chromium-driver" >&2
  fi
fi
endef
export CHECK_BROWSER

$(READY): requirements.lock setup.cfg pyproject.toml
	@bash -eu -c "$$CHECK_PYTHON"
	@echo "Into .venv go PyTorch and what else Backdrop needs: once, some minutes, $(if $(filter cpu,$(TORCH)),2,6) GB." >&2
	@bash -eu -c "$$CHECK_SYSTEM"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
ifeq ($(TORCH),cpu)
	grep -vE '^(nvidia-|cuda-|triton)' requirements.lock > .venv/requirements-cpu.txt
	$(INSTALL) --torch-backend cpu -r .venv/requirements-cpu.txt
else
	$(INSTALL) -r requirements.lock
endif
	$(INSTALL) --no-deps -e .
	touch $(READY)

$(TESTED): $(READY) requirements-test.lock
	@bash -eu -c "$$CHECK_COMPILER"
	$(INSTALL) $(if $(filter cpu,$(TORCH)),--torch-backend cpu) -r requirements-test.lock
	touch $(TESTED)

# One version of each package for Python 3.11 to 3.13; the second file holds what the tests need besides.
RESOLVE = $(BIN)/uv pip compile setup.cfg --python-version 3.11 --universal --no-header --no-annotate -q
lock:
	$(RESOLVE) -o requirements.lock
	$(RESOLVE) --extra test -c requirements.lock -o requirements-test.lock
	grep -vxFf requirements.lock requirements-test.lock > requirements-test.only
	mv requirements-test.only requirements-test.lock
	sed -i '1i # Resolved for Python 3.11 and newer by: make lock' requirements.lock requirements-test.lock

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
