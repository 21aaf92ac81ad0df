# The two commands of README.md, `make run` and `make test`, and a few more. Only Python 3.11+ and make are needed.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PARALLEL := -n auto --dist worksteal
# For what these programs start. Make 3.81, which is macOS's, does not look for a recipe's own programs there.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run check test coverage test-browser test-faults test-growth lint mutate seed rehearse bench profile requirements clean

# Pipit on this machine: the web process with reload, an embedded Redis, SQLite. Ctrl-C stops it all.
run: $(INSTALLED) .env
	@$(BIN)/honcho start || [ $$? -eq 130 ]

# For the loop of someone who edits: lint, types, and the tests that need no server. One or two minutes.
check: lint
	@$(BIN)/pytest --quick $(PARALLEL)

# Lint, types and the tests, on as many cores as there are; what can't run here is reported as skipped, with the reason.
# The tests in a browser, of faults, and of a deployment have targets of their own below.
test: lint
	@$(BIN)/pytest -m "not browser" --ignore=tests/faults --ignore=tests/growth $(PARALLEL)

# As `make test`, and report which lines of app/ no test ran.
coverage: $(INSTALLED)
	@$(BIN)/pytest -m "not browser" --ignore=tests/faults --ignore=tests/growth --cov $(PARALLEL)

# Drive the pages in a headless Chromium.
test-browser: $(INSTALLED)
	@$(BIN)/pytest -m browser $(PARALLEL)

# Kill, stop and overload real servers, and see what visitors notice. Most of these tests wait, so two run at a time.
test-faults: $(INSTALLED)
	@$(BIN)/pytest tests/faults -n 2 --dist loadfile

# Run Pipit past one machine: several of them on small plans, a follower of the database, and Redis on several servers
# that fail over under readers and writers. `pytest -s` prints the figures of docs/scaling.md. Needs redis-server.
test-growth: $(INSTALLED)
	@$(BIN)/pytest tests/growth

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Change the code slightly in 200 places, one at a time, and see that a test notices; an hour. Not for CI.
# Options: python -m tests.mutation --help.
mutate: $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check cosmic-ray==8.7.0
	@$(BIN)/python -m tests.mutation

# Fill this machine's Pipit with a believable small community.
seed: $(INSTALLED) .env
	@$(BIN)/flask db upgrade
	@$(BIN)/flask seed

# Rehearse a deployment: this machine plays Heroku, builds HEAD, deploys again under load, and migrates a million posts.
# Six minutes.
# Needs git, openssl, redis-server and PostgreSQL.
rehearse: $(INSTALLED)
	@$(BIN)/python -m pytest -vv -s tests/rehearsal/deployment.py

# Measure Pipit beside its peers, half an hour: a table and charts in bench/results/; docs/performance.md explains.
# Needs Linux, two idle cores, and Debian's packages wrk, nginx-light, nodejs and npm. Options: python -m bench --help.
bench: $(INSTALLED)
	@$(BIN)/python -m bench

# Draw flame graphs of the hot path into bench/results/. Needs wrk, and root where a process may not watch another.
profile: $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check py-spy
	@$(BIN)/python -m bench.flame

# Compile the exact versions anew from the short list in pyproject.toml.
requirements: $(INSTALLED)
	@$(BIN)/pip install --quiet uv
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-header pyproject.toml -o requirements.txt
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-header --extra test -c requirements.txt \
		pyproject.toml -o requirements-test.txt

# Forget what was installed and what was posted here; .env stays.
clean:
	@rm -rf .venv instance

$(INSTALLED): requirements.txt requirements-test.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Pipit needs Python 3.11 or newer; this is " + \
		sys.version.split()[0] + ". Name another one: make run PYTHON=python3.13")'
	@echo "Installing into .venv (only this once) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-test.txt
	@touch $(INSTALLED)

.env: | $(INSTALLED)
	@$(BIN)/python -m app.cli.first_env
