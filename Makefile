# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-fast check format bench gpu soak screenshots clean
.DELETE_ON_ERROR:

# The user's install: the package and what it needs, at the versions of constraints.txt.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attribatch needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (several minutes the first time: torch is large)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

# The developer's install: the same, and the test and check tools.
.venv/installed-dev: .venv/installed
	@echo "installing the test tools into .venv"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What the benchmarks need beside: captum and more photographs.
.venv/installed-bench: .venv/installed
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

demo: .venv/installed
	@$(BIN)/attribatch demo

# All tests, or those of one room, folder or module: `make test M=analysis`, `M=faults`, `M=reuse`; ARGS goes to pytest.
TESTS = $(if $(M),$(or $(wildcard tests/unit/$(M) tests/$(M) tests/*/test_$(M)*.py tests/unit/*/test_$(M)*.py),$(error no tests are named $(M))))
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: .venv/installed-dev
	$(PYTEST) $(TESTS) $(ARGS)

# Before a commit: every room, without what takes over a second, trains networks, or starts processes or servers.
test-fast: .venv/installed-dev
	$(PYTEST) -m "not slow" $(TESTS) $(ARGS)

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.prose

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks $(ARGS)

# Measures a CUDA GPU in under 8 minutes, prints Markdown; on a CPU: `make gpu ARGS="--small --device cpu"`.
gpu: .venv/installed-bench
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

# Kills, pauses and outages at random; `make soak ARGS="--seed 7 --seconds 600"` for others.
soak: .venv/installed-dev
	$(BIN)/python -m tests.faults.soak $(ARGS)

# The pictures of the web page in docs/; needs Chromium.
screenshots: .venv/installed-dev
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
