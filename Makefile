# make demo       a small marketplace through the whole chain
# make test       the whole test suite; make test-quick: what runs in two minutes
# make test-faults  every fault that the harness knows, its table in docs/reliability.md anew, an object store (long)
# make airflow    Airflow on loopback with the DAGs loaded
# make bench      what it costs, against peers (minutes); make bench-full: at the production size (hours)
PYTHON ?= python3.11
JAVA := $(if $(JAVA_HOME),$(JAVA_HOME)/bin/java,java)
BIN := .venv/bin
FAISS := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
LOCK := requirements/$(FAISS).lock
READY := .venv/ready-$(FAISS)
DEMO_HOME ?= .demo
# Two processes, each with a Spark session: one leaves half of two cores idle.
PARALLEL := -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: demo test test-quick test-faults lint docs airflow bench bench-full lock check-tools clean

demo: $(READY)
	$(BIN)/dsirm demo --home $(DEMO_HOME)

test: $(READY) lint
	$(BIN)/python -m pytest $(PARALLEL)

test-quick: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-faults: $(READY)
	FAULTS_TABLE=docs/reliability.md $(BIN)/python -m pytest $(PARALLEL) -m "" tests/faults tests/object_store tests/jobs/test_hostile_imports.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m schemas.docs > docs/tables.md

airflow: $(READY)
	$(BIN)/python -m dags.standalone

bench: $(READY)
	$(BIN)/python -m benchmarks

bench-full: $(READY)
	$(BIN)/python -m benchmarks --full

lock:
	requirements/lock.sh

clean:
	rm -rf .venv .demo .pytest_cache .ruff_cache .mypy_cache build *.egg-info

check-tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 is needed, and '$(PYTHON)' is not one: install it (Debian: apt-get install python3.11 python3.11-venv)," >&2; \
	  echo "or name yours: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(JAVA) -version 2>&1 | grep -qE 'version "17[."]' || { \
	  echo "A JDK 17 is needed, and '$(JAVA)' is $$($(JAVA) -version 2>&1 | head -n 1): install one" >&2; \
	  echo "(Debian: apt-get install openjdk-17-jdk-headless) and set JAVA_HOME to it." >&2; exit 1; }

# The stamp names what was installed: another lock, or a GPU that came or went, installs anew.
$(READY): $(LOCK) pyproject.toml | check-tools
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@
