# The commands that people and CI run. Everything happens in .venv; nothing else is touched.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints/constraints.txt

.PHONY: quickstart install test check bench golden base clean

quickstart: $(VENV)/.train          ## RL from the shipped base on generated games, before/after report
	$(BIN)/agentrl train configs/quickstart.toml $(ARGS)

install: $(VENV)/.train             ## what `agentrl` needs to train

test: $(VENV)/.test $(VENV)/.openenv ## the whole test set; lists what was skipped and why
	AGENTRL_OPENENV_PYTHON=$(VENV)/openenv/bin/python $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.check               ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	PYTHONPATH=. $(BIN)/lint-imports

bench: $(VENV)/.test $(VENV)/.openenv               ## every speed measurement
	for what in credit services store rollout train; do $(BIN)/agentrl bench $$what || exit 1; done

golden: $(VENV)/.test               ## rewrite the golden files that we ourselves record (a diff needs a reason)
	AGENTRL_WRITE_GOLDEN=1 $(BIN)/python -m pytest -q tests/test_golden_episodes.py

base: $(VENV)/.train                ## rebuild the shipped base model from its recipe
	$(BIN)/agentrl train configs/base.toml
	$(BIN)/agentrl train configs/base_more.toml

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@
$(VENV)/.train: $(VENV)/.venv pyproject.toml constraints/constraints.txt
	$(PIP) -e '.[train]'
	touch $@
$(VENV)/.test: $(VENV)/.train
	$(PIP) -e '.[train,serve,test]'
	touch $@
$(VENV)/.check: $(VENV)/.test
	$(PIP) -e '.[train,serve,test,check]'
	touch $@
# OpenEnv's own client and server, for the tests and the benchmark: they do not fit into one environment with us.
$(VENV)/.openenv: $(VENV)/.venv constraints/openenv.txt
	$(PYTHON) -m venv $(VENV)/openenv
	$(VENV)/openenv/bin/python -m pip install -q --disable-pip-version-check -c constraints/openenv.txt \
		openenv-core httptools uvloop
	touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache
