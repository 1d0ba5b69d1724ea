# The same few verbs for people and CI. `make demo` and `make test` do all set-up themselves.
PYTHON ?= python3
BIN := .venv/bin
# Python compiles what is imported when it is; pip would compile all of torch, which takes a minute.
INSTALL := pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable

# PROFILE is the link between device and fog (`offramp link list`), CLOUD_PROFILE that between fog and cloud.
CLOUD_PROFILE ?= $(or $(LINK_FOG_CLOUD),wan-region)
LINKS = $(if $(PROFILE),--profile $(PROFILE) --cloud-profile $(CLOUD_PROFILE))

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format bench bench-peers chaos fuzz soak up down protos clean .venv .venv-demo

help: ## show the verbs
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv-demo ## three tiers on this machine, beside the baselines (PROFILE=lte: over such a link; JSON=file for the figures)
	.venv-demo/bin/offramp demo --picture demo.png $(if $(JSON),--json $(JSON)) $(LINKS)

test: .venv ## all tests; those that need a Docker engine or OFFRAMP_DATA are skipped without it
	$(BIN)/pytest

lint: .venv ## ruff, and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: .venv ## mypy --strict
	$(BIN)/mypy

format: .venv ## rewrite what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv ## one tier beside the least server that one would write by hand (3 minutes)
	$(BIN)/python -m benchmarks.serving.w1 --systems floor offramp --rounds 5 --seconds 2

bench-peers: .venv ## one tier and three beside the servers that people use, each in an environment of its own (an hour)
	$(BIN)/python -m benchmarks.serving.install
	-$(BIN)/python -m benchmarks.serving.w1
	-$(BIN)/python -m benchmarks.serving.w2
	-$(BIN)/python -m benchmarks.serving.w3
	$(BIN)/python -m benchmarks.serving.plot
	$(BIN)/python -m benchmarks.results

# ARGS: further flags of the program, as ARGS="--only paused --duration 5".
chaos: .venv ## break the compose deployment under load, one row a fault; JSON=file (6 minutes, needs Docker)
	$(BIN)/python -m benchmarks.chaos $(if $(JSON),--json $(JSON)) $(ARGS)

# One process at a time, so that a run shares the machine; JSON=file for the figures, ARGS="--seconds 900" for a run that is kept.
fuzz: .venv/fuzz ## what comes from outside, made up by a fuzzer that watches what each input reaches (90 seconds)
	nice $(BIN)/python -m benchmarks.fuzz $(if $(JSON),--json $(JSON)) $(ARGS)

soak: .venv ## three tiers at 70 % load for half an hour, and their memory
	$(BIN)/python -m benchmarks.soak $(ARGS)

up: ## the three tiers and Prometheus under docker compose (PROFILE=lte: over such a link)
	$(if $(PROFILE),LINK_DEVICE_FOG=$(PROFILE) LINK_FOG_CLOUD=$(CLOUD_PROFILE) \
	  docker compose --profile emulation,docker compose) up --build --wait

down: ## take them down, whatever was with them
	docker compose --profile emulation --profile monitoring down --volumes

protos: .venv ## generate src/offramp/rpc/v1 and src/offramp/bundle/v1 from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=src --pyi_out=src \
	  --grpc_python_out=src protos/offramp/rpc/v1/*.proto
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=src --pyi_out=src protos/offramp/bundle/v1/*.proto

clean: ## remove the environments and caches
	rm -rf .venv .venv-demo .mypy_cache .ruff_cache .pytest_cache demo.png

.venv: .venv/installed
.venv-demo: .venv-demo/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) '.[train,demo,dev]'
	touch $@

.venv/fuzz: .venv/installed
	$(BIN)/$(INSTALL) '.[fuzz]'
	touch $@

.venv-demo/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/$(INSTALL) '.[demo]'
	touch $@
