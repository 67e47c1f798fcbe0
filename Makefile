# Every task of this repository. `make demo` and `make test` set up all that they need on a fresh machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BASE_IMAGE ?= docker.io/library/python:3.12-slim
ACCELERATOR ?= cuda
SOURCES := api operator runner scripts benchmarks tests

# A folder here is called operator, as is a module of Python's: never look for modules in the working folder.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(INSTALLED) ## Tune a real small model on examples/finetune.yaml, compare before with after, ask it over HTTP
	@$(BIN)/python scripts/demo.py --model "$$(TQDM_DISABLE=1 $(BIN)/python scripts/prepare_model.py)"

.PHONY: demo-cluster
demo-cluster: $(INSTALLED) ## The same on a real Kubernetes cluster, made on this machine for it (needs root, Go 1.26)
	@$(BIN)/python scripts/demo_cluster.py

.PHONY: test
test: $(INSTALLED) ## Run every check and every test, as CI does
	@$(MAKE) --no-print-directory --jobs=4 lint model
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: lint
lint: lint-style lint-types lint-imports lint-generated ## Check style, types, import contracts and generated files

.PHONY: lint-style lint-types lint-imports lint-generated
lint-style: $(INSTALLED)
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/ruff format --quiet --check $(SOURCES)

lint-types: $(INSTALLED)
	@$(BIN)/mypy --no-error-summary api operator runner scripts

lint-imports: $(INSTALLED)
	@$(BIN)/lint-imports --no-logo

lint-generated: $(INSTALLED)
	@$(BIN)/python -m llm_api.crd --check
	@$(BIN)/python -m llm_api.docs --check

.PHONY: format
format: $(INSTALLED) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

.PHONY: crds
crds: $(INSTALLED) ## Generate crds/ and the chart's copies from the models
	@$(BIN)/python -m llm_api.crd

.PHONY: docs
docs: $(INSTALLED) ## Generate docs/config.md from the models and the tests
	@$(BIN)/python -m llm_api.docs

.PHONY: model
model: $(INSTALLED) ## Prepare the small model that demo, tests and benchmarks use
	@TQDM_DISABLE=1 $(BIN)/python scripts/prepare_model.py

.PHONY: tools
tools: $(INSTALLED) ## Build the programs of the test cluster (about 15 minutes once; tests do it by themselves)
	@nice $(BIN)/python scripts/cluster.py build

.PHONY: cluster-up
cluster-up: $(INSTALLED) ## Start a Kubernetes cluster of this machine's own, to try things out on (needs root)
	@$(BIN)/python scripts/cluster.py up

.PHONY: cluster-down
cluster-down: $(INSTALLED) ## Remove that cluster
	@$(BIN)/python scripts/cluster.py down

.PHONY: bench
bench: $(INSTALLED) model ## Measure training and generation side by side with their peers (about two hours)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[bench]'
	@$(BIN)/python benchmarks/train.py --save
	@$(BIN)/python benchmarks/generate.py --save
	@$(BIN)/python benchmarks/serve.py --save
	@$(BIN)/python benchmarks/data.py --save

.PHONY: images
images: $(INSTALLED) ## Build both images with buildah, on BASE_IMAGE=... and for ACCELERATOR=cuda or cpu
	@$(BIN)/python scripts/build_images.py --base $(BASE_IMAGE) --accelerator $(ACCELERATOR)

.PHONY: setup
setup: $(INSTALLED) ## Install everything into .venv (the others do this by themselves)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: constraints
constraints: ## Pin the newest versions that pyproject.toml allows, from a fresh environment
	@rm -rf build/constraints && $(PYTHON) -m venv build/constraints && build/constraints/bin/python -m pip install --quiet uv
	@build/constraints/bin/uv pip install --quiet --python build/constraints/bin/python --editable '.[dev,bench]'
	@build/constraints/bin/uv pip freeze --quiet --exclude-editable --python build/constraints/bin/python > constraints.txt
	@rm -rf build/constraints

.PHONY: clean
clean: ## Remove what was built or trained here; the prepared model stays in the cache
	@rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
