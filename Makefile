# Everything starts here: `make demo` and `make test` need Python 3.11+ with venv, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

PIN := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header

.PHONY: help demo test crash crash-fleet check format bench lock schema clean

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

# The environment is made of pinned, hashed packages, and the relay itself beside them as it stands here.
$(READY): requirements-dev.lock pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## See the relay at work on this machine
	@$(BIN)/itscope-relay demo

test: $(READY) ## Run all tests
	$(BIN)/pytest -q --numprocesses 3 --dist worksteal

crash: $(READY) ## Kill relays under load, 1000 times, and count what was lost; KILLS=100 for less, SEED=1 to repeat
	$(BIN)/python -m tests.lab $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

crash-fleet: $(READY) ## The same of several relays on one PostgreSQL, which is restarted, too; KILLS=, SEED=, REPLICAS=3
	$(BIN)/python -m tests.fleet $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

check: $(READY) ## Format, lint, strict types, Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: $(READY) ## Put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure against a bare relay, side by side; BENCH=throughput for a part
	$(BIN)/python -m bench $(BENCH)

schema: $(READY) ## Write config.schema.json anew
	$(BIN)/itscope-relay schema > config.schema.json

lock: $(READY) ## Pin the newest packages that pyproject.toml allows
	$(PIN) pyproject.toml --extra fast --extra postgres -o requirements.lock
	$(PIN) pyproject.toml --extra fast --extra postgres --extra dev -o requirements-dev.lock
	$(PIN) requirements-build.in -o requirements-build.lock

clean: ## Remove what was made here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
