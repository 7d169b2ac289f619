# Two commands: `make run` and `make test`. Each does all the set-up that it needs, and is quick the second time.
SHELL := /bin/bash
BIN := .venv/bin
PACKAGES := billpay dataplane neighbour secretary cartographer pricereactor market hostagent gateway tui lab cli
# Namespaces and netfilter queues need root; with sudo at hand the lab and its tests use it.
AS_ROOT := $(shell [ "$$(id -u)" -eq 0 ] || ! command -v sudo >/dev/null 2>&1 || echo sudo -E)

.PHONY: help run demo test setup setup-tests check format docs bench rows expectations deep clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# SHAPE=1 acts, on trial until `hostagent confirm`; FOR=30s ends it; CONFIG=FILE reads one. Without root it only counts.
run: setup ## the agent on this machine: who sends and receives what, live; it observes (SHAPE=1 acts, FOR=30s ends it)
	@scripts/run $(if $(SHAPE),--act,--observe) $(if $(FOR),--for $(FOR)) $(if $(CONFIG),--config $(CONFIG) --show auto)

demo: setup ## Figure 1 of the Bill-Pay paper on real packets, live
	@$(AS_ROOT) $(BIN)/hostagent lab run figure1

# Whatever measures real packets needs the cores for itself: those tests come last, one by one.
test: setup-tests check ## every check and test (about as CI does)
	@$(AS_ROOT) scripts/test $(BIN)/python

setup-tests:
	@scripts/setup --tests

setup: ## prepares .venv and the system packages
	@scripts/setup

check: setup ## format, lint, types, import contracts
	@$(BIN)/ruff format --check --quiet . || { echo "check: run 'make format'" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy $(PACKAGES) bench
	@$(BIN)/lint-imports --no-logo

format: setup ## puts the code into the house format
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

docs: setup ## docs/reference/commands.md, out of the commands' own help
	@$(BIN)/python -m cli.reference

bench: setup ## speed and precision, beside a baseline in the same run (docs/bench.md)
	@$(AS_ROOT) $(BIN)/python -m bench

rows: setup ## which rows of the feature table have a test
	@$(BIN)/python -m pytest --rows

expectations: setup ## which of the users' expectations have a test, and what stands instead
	@$(BIN)/python -m pytest --expectations

deep: setup ## the long soaks and deep fuzzing too
	@$(AS_ROOT) $(BIN)/python -m pytest --deep

clean: ## removes what setup and the tests made in this folder
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
