# make setup   .venv with everything in it; does nothing when it is current
# make check   format, lint, types, layers
# make test    the tests, shared out among JOBS=2 processes; ARGS="..." goes to pytest
# make test-auth   those that use a server, on one with access control, by users of streamq's roles; see docs/security.md
# make demo    a run to look at; DIR="..." keeps its data there
# make chaos   faults on a set of three nodes, MINUTES=60 long, by SEED=n; see docs/reliability.md
# make fuzz    whatever others may have stored or typed, MINUTES=10 long; see docs/security.md
# make audit   known vulnerabilities of all packages that streamq brings with it, where a database of them can be reached
# make test-lowest   the tests with the lowest versions that pyproject.toml allows; ARGS="tests/unit" for some of them
# make simulate  the runtime in virtual time, SEEDS=10000 runs from SEED=n on, on all cores; see docs/reliability.md
# STREAMQ_MODEL_EXAMPLES=20000 make test ARGS="tests/model -k real_store"   the stores compared for longer; see the same page
# make bench-peers   streamq beside other queues (ARGS="--rounds 1"); see bench/README.md
# make clean   removes what the others made

.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
# mypy takes it ill when one of them holds no file yet.
TYPED := $(foreach d,src tests bench examples docs,$(if $(shell find $(d) -name '*.py' 2>/dev/null | head -n 1),$(d)))

# A python3 that starts and is 3.11 or later. A name on PATH proves nothing: a pyenv shim may exist and not work.
PYTHONS := $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14
PYTHON_FOUND := $(shell for p in $(PYTHONS); do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && command -v "$$p" && break; done)

# The stamp's name changes with the interpreter and with the place, both of which are written all over a .venv.
STAMP := .venv/.ready-$(shell [ -z "$(PYTHON_FOUND)" ] || { \
	"$(PYTHON_FOUND)" -c 'import sys; print(sys.version, sys.base_prefix)'; pwd; } | cksum | cut -d' ' -f1)

.PHONY: setup check test test-auth demo chaos simulate fuzz audit test-lowest bench-peers clean

setup: $(STAMP)
	@:

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON_FOUND)" ]; then \
		echo "make setup: Python 3.11 or later is needed; tried: $(PYTHONS)." >&2; \
		echo "Install one (Debian: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi
	@echo "Setting up .venv with $$("$(PYTHON_FOUND)" -V) (a minute or so) ..."
	@[ -e "$@" ] || rm -rf .venv
	@if uv --version >/dev/null 2>&1; then \
		{ [ -e "$@" ] || uv venv --quiet --python "$(PYTHON_FOUND)" .venv; } && \
		uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else \
		{ [ -e "$@" ] || "$(PYTHON_FOUND)" -m venv .venv || { \
			echo "make setup: python's venv module does not work (Debian: apt-get install python3-venv)." >&2; \
			rm -rf .venv; exit 1; }; } && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch "$@"

# Recipes exec what they run, so that its exit code and Ctrl-C go straight through.

check: setup
	@exec $(BIN)/ruff format --check .
	@exec $(BIN)/ruff check .
	@exec $(BIN)/mypy $(TYPED)
	@exec $(BIN)/lint-imports

# JOBS=0: in one process, one after the other, for a debugger.
test: setup
	@exec $(BIN)/python -m pytest -n $(or $(JOBS),2) --dist worksteal $(ARGS)

test-auth: setup
	@exec $(BIN)/python -m pytest --auth -n $(or $(JOBS),2) --dist worksteal $(or $(ARGS),$(foreach d, \
		conformance integration runtime acceptance model,tests/$(d)))

# DIR reaches the program whole, whatever characters it holds.
demo: setup
	@exec $(BIN)/python -m streamq.demo $(if $(DIR),--dir '$(subst ','\'',$(value DIR))')

chaos: setup
	@exec $(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulate: setup
	@exec $(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) $(if $(SEED),--seed $(SEED)) $(ARGS)

# Each tool in an environment of its own, which is made when it is first asked for: no test of ours needs one.
TOOL = .tools/$(1)/.ready-$(shell cksum < pyproject.toml | cut -d' ' -f1)
FRESH = @echo "Setting up $(@D) (a minute or so) ..."; rm -rf $(@D) && "$(PYTHON_FOUND)" -m venv $(@D) && \
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check

# Half of the time for the readers, led by coverage; then the hypothesis tests with other examples than those of CI.
fuzz: setup $(call TOOL,fuzz)
	@for one in task event payload; do \
		.tools/fuzz/bin/python -m tests.fuzz $$one $$(($(or $(MINUTES),10) * 10)) || exit 1; \
	done
	@FUZZ=$(or $(MINUTES),10) exec $(BIN)/python -m pytest tests/fuzz tests/integration/test_cli_fuzz.py $(ARGS)

$(call TOOL,fuzz):
	$(FRESH) -e . hypothesis atheris
	@touch $@

audit: setup $(call TOOL,audit)
	@exec $(BIN)/python -m tests.house.audit .tools/audit/bin/pip-audit

$(call TOOL,audit):
	$(FRESH) pip-audit && touch $@ || echo "make audit: pip-audit cannot be installed from here"

test-lowest: $(call TOOL,lowest)
	@exec .tools/lowest/bin/python -m pytest $(or $(ARGS),tests/unit tests/conformance tests/runtime tests/integration)

# What tests with is of today: what tests is tried at its lowest.
$(call TOOL,lowest):
	$(FRESH) uv
	@$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --resolution lowest-direct -e '.[cli,embedded,bench]'
	@$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python \
		pytest pytest-trio pytest-xdist hypothesis cryptography pyyaml types-PyYAML mypy
	@touch $@

# The peers' packages, pinned, in an environment of their own: their drivers need not be ours.
PEERS := .peers/.ready-$(shell cat bench/peers/requirements.txt bench/peers/package.json | cksum | cut -d' ' -f1)

bench-peers: setup $(PEERS)
	@exec $(BIN)/python -m bench.peers $(or $(ARGS),--page)

$(PEERS):
	@echo "Setting up .peers (a minute or so) ..."
	@rm -rf .peers && mkdir -p .peers/node
	@if uv --version >/dev/null 2>&1; then \
		uv venv --quiet --python "$(PYTHON_FOUND)" .peers/venv && \
		uv pip install --quiet --python .peers/venv/bin/python -r bench/peers/requirements.txt; \
	else \
		"$(PYTHON_FOUND)" -m venv .peers/venv && \
		.peers/venv/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers/requirements.txt; \
	fi
	@if npm --version >/dev/null 2>&1; then \
		cp bench/peers/package.json .peers/node/ && \
		npm install --prefix .peers/node --no-audit --no-fund --silent; \
	else \
		echo "npm is not installed (Debian: apt-get install nodejs npm): graphile-worker will not take part."; \
	fi
	@touch "$@"

clean:
	@rm -rf .venv .peers .tools build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
