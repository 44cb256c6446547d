# Every target does its own set-up: a fresh Debian with root, make and Python 3.11 or newer is enough.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.locked
BOX    := $(PY) -m mica_box
DEMO   := $(PY) -m mica_demo
PYTEST := $(PY) -m pytest -q

.PHONY: help venv format check lint types layers drift unit exhaustive sanitize kernel test test-long test-vllm integration e2e chart shim generate binaries images demo demo-down clean

help: ## list the targets
	@grep -hE '^[a-z0-9%-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

venv: $(STAMP) ## the development environment (.venv), as locked

$(STAMP): hack/requirements/dev.lock pyproject.toml hack/bootstrap.py hack/versions.toml
	@$(PYTHON) hack/bootstrap.py

format: venv ## format the Python code
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

lint: venv
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .

types: venv
	@$(VENV)/bin/mypy

layers: venv
	@$(VENV)/bin/lint-imports

generate: venv ## write the generated files (CRDs, chart parts, protocol stubs) anew
	@$(PY) -m mica_generate
	@PYTHON=$(PY) hack/generate_stubs.sh

drift: venv
	@$(PY) -m mica_generate --check
	@PYTHON=$(PY) hack/generate_stubs.sh build/stubs
	@cd build/stubs && for f in $$(find . -type f); do cmp $$f ../../device_plugin/src/$$f || { echo "mica: run 'make generate' and commit the result"; exit 1; }; done

kernel: venv ## the parts in C of the placement engine and of the router, into their packages
	@$(PY) build_native.py --unless-current

unit: venv shim kernel
	@$(PYTEST) -n auto -m "not exhaustive" tests/unit

exhaustive: venv shim kernel ## unit tests that take minutes of CPU: 10,000 interleavings, mutants, fuzz
	@$(PYTEST) -n auto -m exhaustive tests/unit

sanitize: venv ## the limiter's and the simulator's tests under ASan, UBSan and TSan
	@$(PY) -c 'from mica_box.host import install; install(["cc", "/usr/include/stdio.h"])'
	@MICA_SHIM_SANITIZE=address,undefined $(PYTEST) -n auto -m "not exhaustive" tests/unit/shim
	@MICA_SHIM_SANITIZE=thread $(PYTEST) tests/unit/shim/test_threads_do_everything_at_once.py \
	  tests/unit/shim/test_a_batch_ends_where_and_when_it_should.py::test_a_context_that_is_released_and_made_again_is_measured_each_time

check: lint types layers drift unit ## the fast loop: format, lint, types, layers, generated files, unit tests

shim: venv ## the C parts: limiter, monitor, simulated driver, test programs (build/shim)
	@$(MAKE) -C vgpu_shim BUILD=$(CURDIR)/build/shim PYTHON=$(CURDIR)/$(PY)

binaries: venv ## the cluster's programs, from the cache or built from Go modules
	@$(BOX) build binaries

images: venv shim kernel ## all images, from the cache where nothing changed
	@$(BOX) build images

integration: venv shim kernel binaries ## tests against a real API server and scheduler
	@$(PYTEST) -m "not slow" tests/integration/box
	@$(PYTEST) -m "not slow" tests/integration --ignore tests/integration/box

e2e: venv images ## tests against a real kubelet and containerd
	@$(PYTEST) -m "not slow" tests/e2e

chart: venv binaries ## tests of the Helm chart
	@$(PYTEST) tests/chart

test: ## everything that CI runs
	@$(MAKE) check
	@$(MAKE) exhaustive
	@$(MAKE) sanitize
	@$(MAKE) chart
	@$(MAKE) integration
	@$(MAKE) e2e

test-long: venv images ## the slow suites too: two boxes side by side, image trees, long soaks
	@$(PYTEST) -m slow tests

test-vllm: venv ## opt-in: streams over vLLM's CPU build that is killed (3 minutes of installation, 6 GB under build/vllm)
	@$(PYTEST) -m vllm -s tests/vllm

demo: venv images ## a cluster in a box, Mica installed, and the main job shown
	@$(DEMO)

demo-down: venv ## remove the demo and every trace of it (caches stay)
	@$(BOX) down mica-demo

bench-limiter bench-gpu: shim
bench-%: venv kernel ## run one benchmark: benchmarks/<name>; PART=<part> runs one part of it
	@test -e benchmarks/$*/__main__.py || { echo "mica: no benchmark $*; there are: $$(cd benchmarks && echo */__main__.py | sed 's,/__main__.py,,g')"; exit 1; }
	@$(PY) -m benchmarks.$* $(PART)

clean: ## remove what was built in the tree (caches outside stay)
	@rm -rf build dist extender/src/mica_extender/placement/kernel/*.so router/src/mica_router/hot/*.so .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
