# make run     start the server with generated credentials
# make test    install what tests need, and run all of them
# make matrix  the suites of clients and REST against 1, 2 and 4 workers, with 1 and 2 shards, and on 2 and 3 hosts
# make reload  20 reloads under load: what no client may notice is counted
# make balance a worker is killed under load, and connections move until all have the same: nobody may notice
# make storm   5 minutes of deaths: workers and shards are killed under presence and numbered streams
# make hosts   two hosts under load, and what can break between them breaks: what clients notice is counted
# make model   the model of bus and deaths, with many more examples than in make test
# make check   ruff, mypy --strict, import-linter
# make bench   the figures of docs/performance.md, measured here
# make soak    20 minutes of churn: does memory come back?

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Packages of the index are addressed by name only; `make PIP_FLAGS=...` adds options such as a mirror.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)

.PHONY: run test matrix reload balance storm hosts model check bench soak test-deps clean

run: $(VENV)/.installed
	@$(BIN)/python -m resonate.supervisor.demo

test: $(VENV)/.tested test-deps
	$(BIN)/python tests/run.py $(PYTEST_FLAGS)

matrix: $(VENV)/.tested test-deps
	$(BIN)/python tests/run.py --matrix $(PYTEST_FLAGS)

reload: $(VENV)/.tested
	$(BIN)/python tests/bench/reload.py $(RELOAD_FLAGS)

balance: $(VENV)/.tested
	$(BIN)/python tests/bench/balance.py $(BALANCE_FLAGS)

storm: $(VENV)/.tested
	$(BIN)/python tests/bench/storm.py --minutes 5 $(STORM_FLAGS)

hosts: $(VENV)/.tested
	$(BIN)/python tests/bench/hosts.py $(HOSTS_FLAGS)

model: $(VENV)/.tested
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest --quiet tests/shard/test_succession.py

check: $(VENV)/.checked build/tree
	$(BIN)/ruff check .
	cd build/tree && ../../$(BIN)/mypy --config-file ../../setup.cfg
	cd build/tree && ../../$(BIN)/lint-imports --config ../../setup.cfg

bench: $(VENV)/.tested
	$(BIN)/python tests/bench/run.py $(BENCH_FLAGS)

soak: $(VENV)/.tested
	$(BIN)/python tests/bench/soak.py $(SOAK_FLAGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.tested: setup.cfg | $(VENV)/bin/python
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.checked: setup.cfg | $(VENV)/bin/python
	$(PIP) --editable '.[check]'
	@touch $@ $(VENV)/.installed

# What is not Python: Debian's Chromium, Node, and the JavaScript clients from npm.
test-deps: tests/clients/node_modules/.installed
	@ops/test-packages

tests/clients/node_modules/.installed: tests/clients/package.json
	@ops/test-packages
	npm ci --prefix tests/clients --no-audit --no-fund --loglevel=error
	@touch $@

# `supervisor/` is the package resonate.supervisor: static tools need to see it where it will be imported from.
build/tree: $(wildcard resonate/*) supervisor
	@rm -rf build/tree && mkdir -p build/tree/resonate
	@ln -s $(CURDIR)/resonate/* build/tree/resonate/
	@ln -s $(CURDIR)/supervisor build/tree/resonate/supervisor

clean:
	rm -rf build .venv tests/clients/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
