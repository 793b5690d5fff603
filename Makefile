# Every target does all of its own set-up, from a bare clone with Python, make and the package index.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The study's slices, where they lie beside the checkout; code and tests read only this variable.
ifeq ($(origin LIVERSEG_STUDY_DIR), undefined)
  ifneq ($(wildcard ../shared/liver_ct),)
    export LIVERSEG_STUDY_DIR := $(abspath ../shared)
  endif
endif
export LIVERSEG_HOME ?= $(CURDIR)/.home

.DEFAULT_GOAL := help
.PHONY: help setup demo up test fuzz resume-kills check bench migration lock chaos mutations outages hosts test-compose

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Make the virtual environment (other targets do it themselves)

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	@echo "installing TensorFlow and the tools for checks and tests into $(VENV): 3.8 GB, 3 to 20 minutes without a word"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: setup ## Draw a phantom, train three experiments, show the table and the page (EXIT=1: end by itself; DATA=DIR: real slices)
	@# Ctrl-C is how the demo is meant to end, unless it was to end by itself.
	$(BIN)/liverseg demo $(if $(DATA),--data $(DATA)) $(if $(EXIT),--exit,|| test $$? = 130)

up: setup ## Start Postgres, Valkey, the API and a worker; Ctrl-C stops them
	$(BIN)/liverseg up

check: setup ## Style, types, import arrows, and bandit
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# Findings go to stdout; stderr holds only remarks about every other part of a line with nosec.
	$(BIN)/bandit -q -c pyproject.toml -r api store migrations 2>/dev/null
	$(BIN)/bandit -q -c pyproject.toml -s B311 -r liverseg_core worker 2>/dev/null

test: setup chromium check ## Checks and tests (REQUIRE=browser,study: their skips become failures; JOBS=1: one at a time)
	$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile

fuzz: setup ## Send tens of thousands of generated requests, specs and paths; prints how many (takes a quarter of an hour)
	LIVERSEG_FUZZ=560 $(BIN)/python -m pytest -q --timeout 3600 tests/api/test_fuzz.py tests/store/test_generated.py

outages: setup ## Stop Valkey for five minutes and Postgres for two while runs train; prints what happened (a quarter of an hour)
	LIVERSEG_OUTAGES=1 $(BIN)/python -m pytest -q tests/e2e/test_outages.py

hosts: setup ## Three hosts as network namespaces, 50 ms away, one of them cut off for 30 s (root; SEED=: the same stalls and resets)
	LIVERSEG_HOSTS=1 LIVERSEG_HOSTS_SEED=$(SEED) $(BIN)/python -m pytest -q -s tests/e2e/test_hosts.py

test-compose: setup containers ## Run docker-compose.yml, kill a worker and an API node, show the table (the first time it makes images, for half an hour and more)
	LIVERSEG_COMPOSE=1 $(BIN)/python -m pytest -q -s -x tests/compose

resume-kills: setup ## Kill a training at ten random steps and compare it, bit for bit, with one that nobody touched (SEED=: the same steps)
	LIVERSEG_KILLS=10 LIVERSEG_KILL_SEED=$(SEED) $(BIN)/python -m pytest -q -s tests/e2e/test_resume.py

chaos: setup ## Kill, freeze and restart everything at random for SECONDS=600, then look whether all of it holds (SEED=N: again)
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

mutations: setup ## Take three protections out of a copy of the code, one by one, and name the tests that fail without them
	$(BIN)/python -m tests.mutations

.PHONY: chromium
chromium:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium for the browser tests"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null \
	    || echo "chromium could not be installed; the browser tests will be skipped"; fi

# Where there is no Docker: podman, and what stand-ins for images are made with.
CONTAINERS := podman runc netavark aardvark-dns iptables uidmap mmdebstrap
.PHONY: containers
containers:
	@if ! docker info >/dev/null 2>&1 && ! { command -v podman && command -v mmdebstrap; } >/dev/null \
	    && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing $(CONTAINERS)"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(CONTAINERS); } >/dev/null \
	    || echo "they could not be installed; the compose file will not be run"; fi

bench: setup ## Measure speed and memory, side by side with the ways they are compared to
	@failed=; for script in benchmarks/*.py; do \
	  echo "== $$script"; $(BIN)/python -P $$script || failed="$$failed $$script"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

migration: setup ## Write a migration from the models (MESSAGE="what changes")
	$(BIN)/python -m store.schema revision "$(MESSAGE)"

lock: ## Resolve the dependency locks again (needs uv)
	@for want in base: worker:worker dev:worker,notebook,medical,onnx,dev gpu:gpu; do \
	  name=$${want%%:*}; extras=$$(echo "$${want#*:}" | tr , '\n' | sed '/^$$/d; s/^/--extra /' | tr '\n' ' '); \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    $$extras pyproject.toml --output-file requirements/$$name.txt; done
	@echo 'hatchling>=1.27' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate - --output-file requirements/build.txt
