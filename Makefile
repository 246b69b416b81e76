# Each target sets up what it needs first: Debian's packages (deployments/packages.txt, shown before
# they are installed) and the virtual environment (requirements.lock).
SHELL := /bin/bash
SETUP := deployments/setup.sh
PYTHON := .venv/bin/python
LOCKED := $(PYTHON) -m pip install -qq --require-hashes --no-deps
UI := $(LOCKED) -r requirements-ui.lock
API := $(LOCKED) -r requirements-api.lock

.PHONY: help demo test test-long check bench screenshots serve clean

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | column -t -s: -l 2

demo:  ## Turn an image into a running appliance on a private host, and take it away (ARGS=--keep)
	@$(SETUP)
	.venv/bin/cloudloom demo $(ARGS)

test:  ## The whole suite, but for what is slow (ARGS: pytest's arguments)
	@$(SETUP) some tests
	@$(UI)
	@$(API)
	$(PYTHON) -m tests -n 2 -m "not slow" $(ARGS)

test-long:  ## The whole suite, and whether it would notice what is missing
	@$(SETUP) some tests
	@$(UI)
	@$(API)
	$(PYTHON) -m tests -n 2 $(ARGS)
	CLOUDLOOM_TESTS_DATABASE=mariadb $(PYTHON) -m tests -n 2 -m "not slow" tests/api $(ARGS)
	$(PYTHON) -m tests.mutation

check:  ## Style, types, architecture, spelling
	@$(SETUP) python
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/codespell

bench:  ## Our figures beside their floors, in one run (ROWS="convert export")
	@$(SETUP) all tests
	@$(LOCKED) -r requirements-bench.lock
	ROWS="$(ROWS)" $(PYTHON) -m tests.bench

screenshots:  ## Pictures of the demo in the Prefect UI, for README.md
	@$(SETUP) all tests
	@$(UI)
	$(PYTHON) -m deployments.screenshots

serve:  ## API, Prefect and a worker, all data under build/cloudloom
	@$(SETUP)
	.venv/bin/cloudloom serve $(ARGS)

clean:  ## Remove what was built, and end what still runs there, or is left of a killed demo
	@[ ! -d build ] || [ ! -x $(PYTHON) ] || $(PYTHON) -m deployments.lab.sweep build
	@[ ! -x $(PYTHON) ] || $(PYTHON) -m deployments.lab.scratch cloudloom-demo
	rm -rf build *.egg-info .*_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
