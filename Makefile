# make setup   .venv with everything in it; does nothing when it is current
# make check   format, lint, types, layers
# make test    the tests, shared out among JOBS=2 processes; ARGS="..." goes to pytest
# make demo    a run to look at; DIR="..." keeps its data there
# make chaos   faults on a set of three nodes, MINUTES=60 long, by SEED=n; see docs/reliability.md
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

.PHONY: setup check test demo chaos bench-peers clean

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

# DIR reaches the program whole, whatever characters it holds.
demo: setup
	@exec $(BIN)/python -m streamq.demo $(if $(DIR),--dir '$(subst ','\'',$(value DIR))')

chaos: setup
	@exec $(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) $(ARGS)

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
	@rm -rf .venv .peers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
