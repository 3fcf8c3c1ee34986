# Needs Python 3.11 or newer and make; everything else comes from requirements.lock into .venv.
PYTHON ?= python3
# How many processes share the tests, files side by side: they wait more than they work.
JOBS ?= 3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup
LOCK := .venv-lock/bin/uv pip compile pyproject.toml --extra speed --extra otel --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock" --quiet
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help demo test check soak docs format lock clean

help: ## these lines
	@sed -nE 's/^([a-z.]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv ## the whole of it on this machine: stand-ins of the three APIs, a worker, a load with faults, a table
	$(BIN)/planrelay demo

.venv: .venv/installed ## the set-up alone: the virtual environment from requirements.lock, planrelay in it

.venv/installed: requirements.lock pyproject.toml hatch_build.py worker/csv_records.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "planrelay needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Say which to use: make PYTHON=python3.11")'
	@echo "Installing requirements.lock into .venv (about a minute) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

test: .venv ## every test; those that need RabbitMQ skip where none answers (PLANRELAY_TEST_AMQP)
	$(PYTEST)

check: .venv ## format, lint, types, import contracts, every test, coverage floor
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/coverage erase
	@# Real brokers and real kills on a shared machine: what failed beside others (status 1) must pass by itself, or the
	@# check fails. xdist names tests by their group, so only it finds them again. Many failures are no such accident.
	$(BIN)/coverage run -m pytest -n $(JOBS) --dist loadgroup --maxfail 25 || { [ $$? = 1 ] && \
	$(BIN)/coverage run -m pytest -n 1 --dist loadgroup --last-failed --last-failed-no-failures none; }
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

soak: .venv ## the tests that run for long
	$(BIN)/python -m pytest -m soak --timeout 0 -o faulthandler_timeout=0

docs: .venv ## write the list of commands in docs/messages.md from the models
	$(BIN)/python docs/generate.py

format: .venv ## lay out the code and mend what the linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: ## choose newer versions: requirements.lock is everything, requirements-runtime.lock what an image needs of it
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv
	$(LOCK) --group dev --upgrade -o requirements.lock
	$(LOCK) --constraint requirements.lock -o requirements-runtime.lock
	rm -rf .venv-lock

clean: ## forget the virtual environment and what the tools wrote; data in var/ stays
	rm -rf .venv .venv-lock .coverage .coverage.* htmlcov dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -f worker/_csv_records.so
	find config worker tasks sandbox tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
