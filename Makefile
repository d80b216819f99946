# Every target sets up what it needs: a virtual environment of its own, made anew when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
DROPIN := .venv-dropin
FRAMEWORKS := .venv-frameworks
BROWSER := .venv-browser
DOCS := .venv-docs
BIN := $(VENV)/bin

.PHONY: demo example attack test test-lowest test-dropin test-frameworks test-page lint docs bench bench-tokens bench-checks format clean

demo: $(VENV)/.ready
	@$(BIN)/safe-llm demo

example: $(VENV)/.ready
	@$(BIN)/python examples/try_hardened_route.py

attack: $(VENV)/.ready
	@PYTHONPATH=.:tests/web $(BIN)/python -m abuses

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term

# Without what no SDK takes part in: the test above has it.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -n 2 $(addprefix --ignore=tests/,stores reports cli sinks testing/test_conformance_catches.py)

test-dropin: $(DROPIN)/.ready $(VENV)/.ready
	$(DROPIN)/bin/python -m scripts.dropin
	$(BIN)/python -m scripts.dropin.readme $(DROPIN)/dropin/openai-*/

test-frameworks: $(FRAMEWORKS)/openai2/.ready $(FRAMEWORKS)/openai3/.ready $(FRAMEWORKS)/web/.ready
	$(FRAMEWORKS)/openai2/bin/python -m pytest tests/frameworks/openai2
	$(FRAMEWORKS)/openai3/bin/python -m pytest tests/frameworks/openai3
	$(FRAMEWORKS)/web/bin/python -m pytest tests/frameworks/web

test-page: $(BROWSER)/.ready
	@command -v chromium > /dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends chromium; } || \
		{ echo "test-page needs Chromium as 'chromium', which cannot be installed here: install it first." >&2; exit 1; }
	$(BROWSER)/bin/python -m pytest tests/browser/page_in_chromium.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

# Into build/docs. The tables of the references are written anew; warnings, broken links among them, are errors.
docs: $(DOCS)/.ready
	$(DOCS)/bin/python -m scripts.reference
	$(DOCS)/bin/sphinx-build -q -E -W --keep-going -c docs . build/docs

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

bench-tokens: $(VENV)/.ready
	$(BIN)/python benchmarks/tokens.py $(FILE)

bench-checks: $(VENV)/.ready
	$(BIN)/python benchmarks/checks.py $(FILE)

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) $(DROPIN) $(FRAMEWORKS) $(BROWSER) $(DOCS) .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.* build dist

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

$(LOWEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" "openai==2.45.0"
	@touch $@

$(DOCS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

$(DROPIN)/.ready: pyproject.toml scripts/dropin/suite.py
	$(PYTHON) -m venv --clear $(DROPIN)
	$(DROPIN)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	$(DROPIN)/bin/python -m scripts.dropin --prepare
	@touch $@

# One for each folder of tests/frameworks, since not all frameworks take the same SDK.
$(FRAMEWORKS)/%/.ready: pyproject.toml tests/frameworks/%/requirements.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e . -r tests/frameworks/$*/requirements.txt
	@touch $@

$(BROWSER)/.ready: pyproject.toml tests/browser/requirements.txt
	$(PYTHON) -m venv $(BROWSER)
	$(BROWSER)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[cli,report]" -r tests/browser/requirements.txt
	@touch $@
