# `make quickstart` and `make test` are all a newcomer needs; both set up `.venv` first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart quickstart-bias test lint bench ui clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

quickstart: $(INSTALLED)
	$(BIN)/cnt run studies/quickstart.yaml

quickstart-bias: $(INSTALLED)
	$(BIN)/cnt run studies/quickstart-bias.yaml

test: $(INSTALLED)
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

ui: $(INSTALLED)
	$(BIN)/cnt ui

clean:
	rm -rf .venv .cnt .dagster
