# The everyday commands. `make` alone lists them; CONTRIBUTING.md explains them.

CARGO ?= cargo
# The committed Cargo.lock decides the versions. To change dependencies: make ... LOCKED=
LOCKED ?= --locked

# A Python with onnx and numpy, for make hostile.
PYTHON ?= python3
# How long make soak looks.
SOAK_MINUTES ?= 60
# And how long it then fuzzes each reader of files.
FUZZ_MINUTES ?= 60
# The models that make bench measures: a directory each, with model.onnx, inputs.npz and expected.npz.
ZOO ?=
# Further options of scripts/bench.py.
BENCH ?=
# Which part of the mutants make mutants tries, for example 0/16; all where empty.
SHARD ?=

.DEFAULT_GOAL := help
# Cargo is parallel already; two cargos at once would only wait for each other's lock.
.NOTPARALLEL:

.PHONY: help setup setup-rust setup-llvm setup-ptxas
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: setup-rust setup-llvm setup-ptxas ## Check Rust; install LLVM 22 (apt) and ptxas (PyPI) where missing

setup-rust:
	@scripts/check-rust.sh rustfmt clippy

setup-llvm:
	@scripts/setup-llvm.sh

setup-ptxas:
	@scripts/setup-ptxas.sh

.PHONY: build demo test test-no-llvm
build: setup-llvm ## Build the fuse binary and library, optimised
	$(CARGO) build $(LOCKED) --release

demo: setup-llvm setup-ptxas ## Trace an LSTM, show its fused kernel and PTX, run it and time it
	$(CARGO) build $(LOCKED) --release
	@scripts/demo.sh

# The cheap checks stand first, so that a failure shows early.
test: setup fmt lint doc ## Everything a change must pass: fmt, clippy, docs, all tests
	$(CARGO) test $(LOCKED) --workspace

test-no-llvm: ## Run the tests of the build without LLVM (CPU through Cranelift only)
	$(CARGO) test $(LOCKED) --workspace --no-default-features

.PHONY: fmt lint doc
fmt: ## Check the formatting (cargo fmt rewrites it)
	$(CARGO) fmt --all --check

lint: ## Clippy without warnings, with LLVM and without
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --workspace --all-targets --no-default-features -- -D warnings

doc: ## Build the API documentation, without warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps

.PHONY: coverage soak hostile mutants conformance interop bench spills microbench clean
coverage: setup-llvm ## Line coverage of ir/ and rewrite/; fails below 85 %
	@scripts/coverage.sh --minimum 85

soak: setup-llvm ## Look for unsound rules in random programs for SOAK_MINUTES (60), then fuzz each reader for FUZZ_MINUTES (60)
	@CARGO="$(CARGO)" scripts/soak.sh $(SOAK_MINUTES) 100000 $(FUZZ_MINUTES)

hostile: ## Write the files of tests/hostile/ anew (needs Python with onnx and numpy; PYTHON names it)
	@$(PYTHON) scripts/hostile-corpus.py

mutants: ## Whether a test notices each change of a rule (cargo-mutants, hours; SHARD=0/16 for a part)
	@CARGO="$(CARGO)" scripts/mutants.sh $(SHARD)

conformance: setup-llvm ## Run ONNX's node tests with the fuse binary and write the table of docs/onnx.md
	$(CARGO) build $(LOCKED) --release --bin fuse
	@scripts/python-env.sh onnx==1.23.2 numpy
	.cache/python/bin/python scripts/conformance.py target/release/fuse --table docs/onnx.md

interop: ## Export the models of tests/interop again, with PyTorch, TensorFlow and JAX (large downloads)
	@scripts/python-env.sh onnx==1.23.2 numpy torch onnxscript
	.cache/python/bin/python tests/interop/varlen.py
	.cache/python/bin/python tests/interop/pytorch.py
	@PYTHON_ENV=.cache/python-tensorflow scripts/python-env.sh tensorflow-cpu tf2onnx 'numpy<2.2'
	.cache/python-tensorflow/bin/python tests/interop/from_tensorflow.py
	@PYTHON_ENV=.cache/python-jax scripts/python-env.sh jax jax2onnx onnx
	.cache/python-jax/bin/python tests/interop/from_jax.py

bench: setup-llvm ## Time the models of ZOO=DIR in fuse, ONNX Runtime and OpenVINO; writes docs/perf/cpu.md
	@test -n "$(ZOO)" || { echo "make bench: ZOO=DIR has to name the models; docs/perf/cpu.md tells how" >&2; exit 2; }
	$(CARGO) build $(LOCKED) --release --bin fuse
	@scripts/python-env.sh numpy onnxruntime openvino
	.cache/python/bin/python scripts/bench.py --zoo "$(ZOO)" $(BENCH)

spills: setup-llvm setup-ptxas ## Registers and spills of the models of ZOO=DIR, as ptxas says; fails where one spills
	@test -n "$(ZOO)" || { echo "make spills: ZOO=DIR has to name the models" >&2; exit 2; }
	$(CARGO) build $(LOCKED) --release --bin fuse
	@scripts/spills.sh "$(ZOO)"

microbench: setup-llvm ## Run the criterion benchmarks: compile time, single kernels, whole models
	$(CARGO) bench $(LOCKED) -p fuse

clean: ## Remove what cargo built and what setup fetched into .cache
	$(CARGO) clean
	rm -rf .cache
