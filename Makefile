# Puna from a clean clone: `make demo` trains a small LLaMA, `make test` checks everything.
# Options: PYTHON=python3.12  TORCH=torch==2.13.0+cpu  TORCH_INDEX=https://...  GPU=yes  JOBS=2

PYTHON ?= python3
TORCH ?=
TORCH_INDEX ?=
GPU ?=
JOBS ?= 2
BIN = .venv/bin
SETUP = $(PYTHON) tools/setup.py --torch "$(TORCH)" --torch-index "$(TORCH_INDEX)" --gpu "$(GPU)"

.DEFAULT_GOAL = help
.PHONY: help demo test test-browser test-kill test-cluster test-stores test-fuzz test-api test-clients test-stress test-sanitize test-valgrind test-arm wheel bench docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:  ## set up .venv, then text -> tokenizer -> training -> samples -> report
	@$(SETUP) train,data
	@$(BIN)/puna demo

test:  ## lint, types, import contract and the fast tests
	@$(SETUP) dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

test-browser:  ## the page in Chromium: the system's, else one that playwright downloads
	@$(SETUP) dev,browser
	command -v chromium chromium-browser google-chrome || $(BIN)/playwright install chromium
	$(BIN)/python -m pytest -m browser

test-kill:  ## kill training runs at random steps, resume, compare loss by loss
	@$(SETUP) dev
	$(BIN)/python -m pytest -m kill

test-cluster:  ## a build on a Ray cluster of two nodes, killed in the middle (needs user namespaces)
	@$(SETUP) dev,cluster
	$(BIN)/python -m pytest -m cluster

test-stores:  ## builds from and to s3:// and gs://, on servers that run here
	@$(SETUP) dev,stores
	$(BIN)/python -m pytest -m stores

# Small files belong in memory; malloc gives large blocks back, so that none hides in freed memory.
FUZZ_ENV = TMPDIR=$(firstword $(wildcard /dev/shm /tmp)) MALLOC_MMAP_THRESHOLD_=131072 \
  MALLOC_TRIM_THRESHOLD_=131072
test-fuzz:  ## 100,000 random flips for every parser of a file that may be hostile (JOBS=2)
	@$(SETUP) dev
	$(BIN)/python -m pytest -m fuzz --collect-only -q tests/attacks | grep :: | \
	  $(FUZZ_ENV) xargs -P $(JOBS) -n 8 $(BIN)/python -m pytest -q -m fuzz

test-api:  ## thousands of requests that schemathesis makes of the server's OpenAPI document
	@$(SETUP) clients
	$(BIN)/python -m pytest -q -m fuzz tests/serve/test_schemathesis.py

test-clients:  ## every client of the documents, against puna serve with SmolLM2
	@$(SETUP) clients
	$(BIN)/puna pull smollm2
	$(BIN)/python -m pytest -q -m 'slow or not slow' tests/serve/test_clients*.py \
	  tests/serve/test_openai_python.py tests/serve/test_ollama_python.py

test-stress:  ## 1,000 mixed requests, then a minute at 10 times what `puna serve` can answer
	@$(SETUP) dev
	$(BIN)/python -m pytest -q -m slow -o log_cli=true --log-cli-level=INFO tests/serve/test_stress.py

CHECKS = build/checks
BUILD_CHECKS = mkdir -p $(CHECKS) && sh tools/build_checks.sh
SANITIZE = $(CXX) -O1 -Wno-uninitialized -Wno-maybe-uninitialized -fno-sanitize-recover=all
test-sanitize:  ## the C++ kernels under the sanitizers of g++ (every build that runs here)
	for kind in address,undefined thread; do \
	  for part in kernels inference; do \
	    $(BUILD_CHECKS) tools/sanitize_$$part.cpp $(CHECKS)/sanitize "amx avx512 avx2 portable" \
	      $(SANITIZE) -fsanitize=$$kind && $(CHECKS)/sanitize || exit 1; \
	  done; \
	done

test-valgrind:  ## the inference engine under Valgrind, which knows no AVX-512 (a quarter of an hour)
	$(BUILD_CHECKS) tools/sanitize_inference.cpp $(CHECKS)/valgrind "avx2 portable" $(CXX) -O1
	for isa in avx2 portable; do \
	  valgrind -q --error-exitcode=1 $(CHECKS)/valgrind $$isa || exit 1; \
	done

ARM ?= aarch64-linux-gnu-g++ -static
test-arm:  ## the inference engine for Arm under qemu-aarch64: AVX2's bits, since both have fma
	$(BUILD_CHECKS) tools/sanitize_inference.cpp $(CHECKS)/x86 "avx2 portable" $(CXX) -O2
	$(BUILD_CHECKS) tools/sanitize_inference.cpp $(CHECKS)/arm portable $(ARM) -O2
	$(CHECKS)/x86 avx2 > $(CHECKS)/x86.txt
	qemu-aarch64 $(CHECKS)/arm portable | diff $(CHECKS)/x86.txt -

wheel:  ## build dist/puna-*.whl
	@$(SETUP) dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/puna-*.whl

bench:  ## training speed beside transformers' (minutes; appends to bench/history.jsonl)
	@$(SETUP) dev
	$(BIN)/python bench/train.py

docs:  ## write docs/reference/cli.md, http.md and the README's numbers again
	@$(SETUP) dev
	$(BIN)/python tools/cli_reference.py
	$(BIN)/python tools/http_reference.py
	$(BIN)/python tools/readme_numbers.py

clean:  ## remove caches and builds; .venv and demo/ stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
