# One vocabulary for people, hooks and CI. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLOUDS := .venv-clouds
CLOUDS_STAMP := $(CLOUDS)/.installed-$(shell cksum < requirements-clouds.lock | cut -d' ' -f1)
STAMP := $(VENV)/.installed-$(shell cksum < requirements.lock | cut -d' ' -f1)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-clouds demo test test-clouds test-integration test-unit test-nightly lint format types imports check up down status lock bench mutation clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

setup: $(STAMP) ## the virtual environment with every pinned and hashed dependency

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v=sys.version_info[:2]; sys.exit(0 if (3,11) <= v <= (3,13) else "python %d.%d found; expected 3.11, 3.12 or 3.13\n  fix: make PYTHON=python3.12 setup" % v)'
	@test -x $(BIN)/python || { echo "making the virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the pinned dependencies (about 2 GB, one to three minutes, once)"
	@# the lock is complete and hashed, so pip has nothing left to resolve
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-* && touch $@

setup-clouds: $(CLOUDS_STAMP) ## a second virtual environment, with Prefect's workers for the clouds

$(CLOUDS_STAMP): requirements-clouds.lock pyproject.toml
	@test -x $(CLOUDS)/bin/python || $(PYTHON) -m venv $(CLOUDS)
	@$(CLOUDS)/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements-clouds.lock
	@$(CLOUDS)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@rm -f $(CLOUDS)/.installed-* && touch $@

demo: setup ## the whole loop on real data, then a summary a manager can read
	@$(BIN)/tradewind demo

up: setup ## start the embedded services and keep them
	@$(BIN)/tradewind up

down: setup ## stop them, by process id
	@$(BIN)/tradewind down

status: setup ## what runs, where
	@$(BIN)/tradewind status

test: test-unit test-integration ## all tests: unit, property, golden, then those on a real server and real workers

test-unit: setup ## the tests that need no server
	@$(BIN)/python -m pytest -n 2 -m "not integration and not nightly and not clouds" $(PYTEST_ARGS)

test-integration: setup ## the tests on a real server and real workers
	@$(BIN)/python -m pytest -m integration $(PYTEST_ARGS)

test-clouds: setup-clouds ## the tests on the clouds' own protocols: emulators, a real Kubernetes API server
	@$(CLOUDS)/bin/python -m pytest -n 2 --dist loadfile -m clouds $(PYTEST_ARGS)

test-nightly: setup ## long property runs: 10^6 random placements, two hours of one core shared among all
	@$(BIN)/python -m pytest -n auto --dist worksteal -m nightly $(PYTEST_ARGS)

lint: setup ## ruff, formatting included
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: setup ## rewrite the files as ruff wants them
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: setup ## mypy, strict
	@$(BIN)/mypy

imports: setup ## the import rules of the architecture
	@$(BIN)/lint-imports --no-cache

bench: setup ## how fast placement decides, on this machine
	@$(BIN)/python -m bench.placement && $(BIN)/python -m bench.joint && $(BIN)/python -m bench.spot

mutation: setup ## change what decides and what it costs, one thing at a time, and see that a test notices (half an hour)
	@$(BIN)/mutmut run --max-children 2 && $(BIN)/mutmut results

check: lint types imports ## everything that reads the code without running it

lock: ## resolve again, for every supported Python, without any index address
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --group examples --group dev --group postgres --group build --group clouds pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --group examples --group dev --group postgres --group build --group clouds --group workers -c requirements.lock pyproject.toml -o requirements-clouds.lock

clean: ## stop the services and remove the embedded profile's state
	@test ! -x $(BIN)/tradewind || $(BIN)/tradewind down
	rm -rf .tradewind
