# The same few verbs for people and CI. `make demo` and `make test` do all set-up themselves.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

# PROFILE is the link between device and fog (`offramp link list`), CLOUD_PROFILE that between fog and cloud.
CLOUD_PROFILE ?= $(or $(LINK_FOG_CLOUD),wan-region)
LINKS = $(if $(PROFILE),--profile $(PROFILE) --cloud-profile $(CLOUD_PROFILE))

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format bench up down protos clean .venv .venv-demo

help: ## show the verbs
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

bench: .venv ## parity of PyTorch, onnxruntime and the three-tier deployment; footprint of the tiers
	$(BIN)/python -m benchmarks.parity
	$(BIN)/python -m benchmarks.footprint

up: ## the three tiers and Prometheus under docker compose (PROFILE=lte: over such a link)
	$(if $(PROFILE),LINK_DEVICE_FOG=$(PROFILE) LINK_FOG_CLOUD=$(CLOUD_PROFILE) \
	  docker compose --profile emulation,docker compose) up --build --wait

down: ## take them down, whatever was with them
	docker compose --profile emulation --profile monitoring down --volumes

protos: .venv ## generate src/offramp/rpc/v1 from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=src --pyi_out=src \
	  --grpc_python_out=src protos/offramp/rpc/v1/*.proto

clean: ## remove the environments and caches
	rm -rf .venv .venv-demo .mypy_cache .ruff_cache .pytest_cache demo.png

.venv: .venv/installed
.venv-demo: .venv-demo/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) '.[train,demo,dev]'
	touch $@

.venv-demo/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/$(INSTALL) '.[demo]'
	touch $@
