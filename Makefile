# Berth. `make demo` shows it at work on one machine, `make test` proves it. Both install what they need.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PY := .venv/bin/python
export PYTHONPATH := .:layers/berth:node_agent
export PYTHONDONTWRITEBYTECODE := 1
export SAM_CLI_TELEMETRY := 0
export PATH := $(PATH):/usr/sbin:/sbin
WORLD := $(PY) -m tests.sandbox.world_ns --

.PHONY: help setup demo stop test lint sam-validate unit kernel e2e plugin lock clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## prepare .venv from the lock file, and missing system packages by apt
	@scripts/bootstrap.sh dev

demo: setup ## the whole path on one machine: deploy, launch, pods, packets (KEEP=1 leaves it up)
	@$(PY) -m tests.sandbox.demo $(if $(KEEP),--keep)

stop: setup ## stop a demo that was left up with KEEP=1
	@$(PY) -m tests.sandbox.demo --stop

test: setup lint sam-validate unit kernel e2e ## all tests, under 10 minutes on 2 cores

lint: setup ## ruff, mypy --strict, import contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache

sam-validate: ## sam validate --lint on template.yaml
	@scripts/bootstrap.sh sam
	@AWS_DEFAULT_REGION=eu-west-1 .venv-sam/bin/sam validate --lint --template template.yaml

unit: setup ## unit tests and the sandbox's contract tests: no root needed
	@$(PY) -m pytest tests/unit tests/contract

kernel: setup plugin ## tests on real network namespaces, inside a private world
	@$(WORLD) $(PY) -m pytest tests/netns

e2e: setup plugin ## the end-to-end run, step by step
	@$(WORLD) $(PY) -m pytest tests/e2e

plugin: setup ## build the CNI plugin for x86_64 and arm64
	@$(PY) scripts/build_plugin.py

lock: ## compile requirements/*.in to lock files with hashes
	@scripts/bootstrap.sh dev
	@python3 -m venv build/uv && build/uv/bin/pip install --quiet --require-hashes -r requirements/uv.lock
	@for name in uv dev sam; do \
	    build/uv/bin/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	        --custom-compile-command "make lock" requirements/$$name.in -o requirements/$$name.lock; done

clean: ## remove what the targets made
	@rm -rf build .venv .venv-sam .aws-sam .pytest_cache .mypy_cache .ruff_cache .hypothesis
