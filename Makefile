# Berth. `make demo` shows it at work on one machine, `make test` proves it. Both install what they need.
SHELL := /bin/sh
.DEFAULT_GOAL := help
# One thing after the other, but for the two lanes of `make test`.
ifndef LANES
.NOTPARALLEL:
endif
PY := .venv/bin/python
# What a shell has set for AWS, or for other Pythons, is not ours: no account is used, and the lock file says what runs.
unexport $(filter AWS_% BOTO_% MOTO_% PYTHON%,$(filter-out PYTHON,$(.VARIABLES))) VIRTUAL_ENV
export AWS_CONFIG_FILE := /dev/null
export AWS_SHARED_CREDENTIALS_FILE := /dev/null
export PYTHONPATH := .:layers/berth:node_agent
export PYTHONDONTWRITEBYTECODE := 1
export PYTHONUTF8 := 1
export SAM_CLI_TELEMETRY := 0
export PATH := $(PATH):/usr/sbin:/sbin
# What make starts ends when make is killed, by `kill -9` too.
TIED := $(if $(shell command -v setpriv),setpriv --pdeathsig TERM)
WORLD := $(TIED) $(PY) -m tests.sandbox.world_ns --
# What functions and nodes asked of IAM during a test run, for the suite that judges the policies by it.
IAM_USAGE := $(CURDIR)/build/iam
RECORDED := BERTH_IAM_USAGE=$(IAM_USAGE)
KEPT := $(filter-out 0 no false,$(KEEP))

.PHONY: help setup demo demo-vpc stop ci test fuzz soak checks worlds lint sam-validate unit long kernel dataplane nodes endure runtime e2e e2e-long command policies iam flat prepare test-sam simulate luck bench-scale bench-cold bench-sweep bench-cni models plugin bundle image image-here lock clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## prepare .venv from the lock file, and missing system packages by apt
	@$(TIED) scripts/bootstrap.sh dev

demo: setup ## the whole path on one machine: deploy, launch, pods, packets (KEEP=1 leaves it up)
	@$(TIED) $(PY) -m tests.sandbox.demo $(if $(KEPT),--keep)

demo-vpc: setup ## the VPC's own tools for pods, a section each, with packets: public addresses, groups, routes, ... (KEEP=1 too)
	@$(TIED) $(PY) -m tests.sandbox.demo --tour vpc $(if $(KEPT),--keep)

stop: ## stop a demo that was left up with KEEP=1
	@if [ -e build/sandbox.json ]; then $(PY) -m tests.sandbox.demo --stop; else echo "No sandbox is up."; fi

test: setup plugin prepare ## all tests but the long ones, under 10 minutes on 2 cores
	@rm -rf $(IAM_USAGE)
	@echo "Two lanes at once; each suite's output comes when it is done."
	@+$(TIED) $(MAKE) --no-print-directory --jobs=2 --output-sync=line LANES=1 checks worlds
	@+$(TIED) $(MAKE) --no-print-directory policies

ci: image-here test e2e-long iam long endure command runtime test-sam luck flat ## what CI runs: all tests, the long ones too, container runtimes, the SAM CLI, 10,000 schedules, 300 VPCs

# The lanes: one computes, the other mostly waits for real processes and packets.
checks:
	@+$(TIED) $(MAKE) --no-print-directory LANES= unit nodes

worlds:
	@+$(TIED) $(MAKE) --no-print-directory LANES= lint sam-validate dataplane e2e

lint: setup ## ruff, mypy --strict, import contracts
	@echo "lint: ruff, mypy, import contracts"
	@$(TIED) .venv/bin/ruff check .
	@$(TIED) .venv/bin/ruff format --check .
	@$(TIED) $(PY) -m mypy
	@$(TIED) .venv/bin/lint-imports --no-cache

sam-validate: ## sam validate --lint on template.yaml
	@$(TIED) scripts/bootstrap.sh sam
	@AWS_DEFAULT_REGION=eu-west-1 $(TIED) .venv-sam/bin/sam validate --lint --template template.yaml

unit: setup ## unit tests, the sandbox's contract tests: no root needed
	@echo "unit: unit and contract tests"
	@$(RECORDED) $(TIED) $(PY) -m pytest tests/unit tests/contract -m "not long"

long: setup ## unit and contract tests that take their time, a little random input
	@echo "long: unit and contract tests that take their time, a little random input"
	@$(TIED) $(PY) -m pytest tests/unit tests/contract -m long
	@$(TIED) $(PY) -m pytest tests/fuzz

fuzz: setup ## random input from outside, for long: FUZZ=20000 examples of each kind
	@BERTH_FUZZ=$(or $(FUZZ),20000) $(TIED) $(PY) -m pytest tests/fuzz --timeout=0

kernel: dataplane nodes ## tests on real network namespaces, inside a private world

dataplane: setup plugin
	@echo "dataplane: packets, routing, Services"
	@$(WORLD) $(PY) -m pytest tests/netns/dataplane

nodes: setup plugin
	@echo "nodes: the whole agent, an installation"
	@$(TIED) $(PY) -m scripts.build_node --arch $$(uname -m) >/dev/null || echo "nodes: no bundle, so its test is skipped"
	@$(WORLD) $(PY) -m pytest tests/netns/agent -m "not long"

endure: setup plugin ## the agent killed at each of its effects, upgraded under load, a short soak, a quick bench, the sandbox's VPC and runtime: on real namespaces
	@echo "endure: kills, soak, bench, the sandbox's own VPC and runtime"
	@$(WORLD) $(PY) -m pytest tests/netns/crash tests/netns/soak tests/netns/bench tests/netns/fabric tests/netns/runtime
	@$(WORLD) $(PY) -m pytest tests/netns/agent -m long

runtime: setup plugin ## containerd, podman, the reference plugins and systemd-networkd, in a private world; by apt
	@$(TIED) scripts/bootstrap.sh runtime
	@echo "runtime: containerd through CRI, podman, chained plugins; systemd-networkd"
	@$(WORLD) $(PY) -m pytest tests/runtime
	@$(WORLD) $(PY) -m pytest tests/netns/networkd

soak: setup plugin ## thousands of ADDs and DELs, kills, blocks that come and go: nothing left. SOAK=20000, SEED=n
	@$(WORLD) $(PY) -m tests.soak --operations $(or $(SOAK),20000) $(if $(SEED),--seed $(SEED))

e2e: setup prepare ## the end-to-end run, step by step
	@echo "e2e: the whole path, step by step"
	@$(RECORDED) $(WORLD) $(PY) -m pytest tests/e2e -m "not long"

e2e-long: setup prepare ## end to end too: public addresses, security groups, pod subnets, routes, the ledger, flow logs, the flat-network check; IPv6, launch templates, Spot
	@echo "e2e-long: the VPC's own tools for pods; IPv6, launch templates, Spot"
	@$(RECORDED) $(WORLD) $(PY) -m pytest tests/e2e -m long

command: setup prepare ## the demos themselves: their reports, kill -9, KEEP=1
	@echo "command: make demo, ways to end it, and make demo-vpc"
	@$(RECORDED) $(TIED) $(PY) -m pytest tests/command

policies: setup ## a linter of the deployed policies
	@echo "policies: the deployed policies alone"
	@$(RECORDED) $(TIED) $(PY) -m pytest tests/iam/test_policies.py

iam: setup ## least privilege, judged by what make test and make e2e-long before it have used
	@echo "iam: the deployed policies against what was used"
	@$(RECORDED) $(TIED) $(PY) -m pytest tests/iam

flat: setup ## the flat-network check against packets, in random VPCs: FLAT=3000, SEED=n the first
	@echo "flat: verdicts of the flat-network check against packets"
	@$(TIED) $(PY) -m tests.flat --count $(or $(FLAT),300) --seed $(or $(SEED),0)

prepare: setup ## what the sandbox cannot fetch from inside: the plugin, and the functions' packages as sam build makes them
	@$(TIED) $(PY) -m tests.sandbox.demo --prepare

test-sam: setup ## the unmodified SAM CLI: validate, build, deploy, invoke, delete, against the sandbox
	@$(TIED) scripts/bootstrap.sh sam
	@$(TIED) $(PY) -m pytest tests/sam

simulate: setup ## random schedules of bad luck in virtual time: SCHEDULES=100000, SEED=n the first, TRACE=n tells one
	@$(TIED) $(PY) -m tests.simulator $(if $(TRACE),--trace $(TRACE),--schedules $(or $(SCHEDULES),10000) --seed $(or $(SEED),0))

luck: setup ## every crash point of small scenes, deliberate defects, and schedules over the wire with scripted faults
	@$(TIED) $(PY) -m pytest tests/simulator tests/wire

models: setup ## cut botocore's service models down to what the layer calls
	@$(TIED) $(PY) scripts/trim_models.py

bench-scale: setup ## 10 to 5,000 nodes at once, beside a model of the VPC CNI, in virtual time
	@$(TIED) $(PY) -m tests.bench.scale

bench-cold: setup prepare ## cold starts of the functions, beside a plain start of boto3
	@$(TIED) $(PY) -m tests.bench.cold

bench-sweep: setup ## the sweep's memory, calls and time for 5,000 nodes and 100,000 interfaces
	@$(TIED) $(PY) -m tests.bench.sweep

bench-cni: setup plugin ## ADD and DEL beside Debian's ptp and bridge and a floor, RTT by pods, the agent's memory
	@$(TIED) scripts/bootstrap.sh dev bench
	@$(WORLD) $(PY) -m tests.bench.cni

plugin: setup ## build the CNI plugin for x86_64 and arm64
	@$(TIED) $(PY) scripts/build_plugin.py

bundle: setup ## the agent with its dependencies and plugin for hosts: build/node/*.tar.gz, both architectures or ARCH
	@$(TIED) $(PY) -m scripts.build_node $(if $(ARCH),--arch $(ARCH))

image: setup ## the agent's container image, without a container engine: build/image/berth-node.tar; as for bundle
	@$(TIED) $(PY) -m scripts.build_image $(if $(ARCH),--arch $(ARCH))

# For the tests that run the agent from its image: they are skipped without. The packages are fetched, so it may fail.
image-here: setup
	@$(TIED) $(PY) -m scripts.build_image --arch $$(uname -m) || echo "NOT TESTED: the image could not be built, see above" >&2

lock: setup ## compile requirements/*.in to lock files with hashes
	@for name in uv dev sam node; do \
	    .venv/bin/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	        --custom-compile-command "make lock" requirements/$$name.in -o requirements/$$name.lock; done

clean: stop ## remove what the targets made
	@rm -rf build .venv .venv-sam .aws-sam .pytest_cache .mypy_cache .ruff_cache .hypothesis
