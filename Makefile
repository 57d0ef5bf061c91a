# Everything a fresh machine needs: python3.11 or newer with venv, make, and a package registry.
# Where pip would fetch a CUDA build of torch and you want the CPU one:
#     make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Tests run on every core already: more threads in each would only get in the way.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
TORCH := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)

.PHONY: setup demo test test-all lint bench bench-env docs clean

setup: .venv/.ready  ## make .venv with the package and its tools

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "memberwise needs Python 3.11 or newer; say which: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "python3 -m venv does not work here; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PIP) $(TORCH) -e '.[dev]'
	@touch $@

demo: setup  ## fit, evaluate and rank on bundled real data (a few minutes)
	$(BIN)/memberwise demo

test: setup  ## the fast tests
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2

test-all: setup  ## all tests, and the kernels once more with bounds checking
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2 -m ""
	$(ONE_THREAD) NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$$(mktemp -d) $(BIN)/python -m pytest -q -n 2 tests/test_bounds.py tests/data tests/nn tests/bayes tests/graph tests/meta

lint: setup  ## style, types, and the floors of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-env: setup  ## the environment that the peers run in
	$(BIN)/python benchmarks/_harness.py --make-env

bench: setup  ## every benchmark, one after the other (long)
	@for f in benchmarks/[a-z]*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

docs: setup  ## the JSON Schema of project.yaml and the reference of the command line, into docs/
	$(BIN)/memberwise schema > docs/project.schema.json
	$(BIN)/typer memberwise.cli utils docs --name memberwise --title "Command line" --output docs/cli.md

clean:
	rm -rf .venv .venv-bench runs build dist *.egg-info
