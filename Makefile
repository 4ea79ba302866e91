# `make demo` and `make test` are all a newcomer needs; each makes the virtual environment first if it isn't there.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test chaos lint format bench report quickreport serve proto constraints clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1|/' | column -t -s '|'

# The environment depends on what is declared, so a change there installs again.
$(READY): pyproject.toml constraints.txt
	@echo "== installing into $(VENV) (the first time: about 3 GB, one to three minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$$(sed -n 's/^# uv==//p' constraints.txt)"
	@$(BIN)/uv pip install --system-certs --python $(BIN)/python -c constraints.txt -e '.[all]'
	@touch $(READY)

demo: $(READY) ## real groceries, a real Neo4j, a trained model, ten explained products over gRPC
	@$(BIN)/kgrank demo

test: $(READY) ## all tests, on two workers
	@$(BIN)/python -m pytest -n 2 --dist loadgroup

chaos: $(READY) ## the long forms of what kills, floods and attacks (an hour)
	@$(BIN)/python -m pytest -m chaos -n 1 --dist loadgroup

lint: $(READY) ## format, lint, types, import rules, contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/released.binpb

format: $(READY) ## put the code into the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# These are about a model or a snapshot that they have to be given.
GIVEN := $(addprefix benchmarks/,check_baseline.py check_tifuknn.py newcomers.py past_searches.py \
	reasons.py refit.py search_quality.py time_to_best.py)

bench: $(READY) ## the benchmarks that need no model: one JSON line each, ours and a peer in the same run
	@for script in $(filter-out $(GIVEN) benchmarks/synthetic_shop.py,$(wildcard benchmarks/*.py)); do echo "== $$script" >&2; $(BIN)/python $$script || exit 1; done

# A comparison that misses its data says so in the report; finished cells are kept under KGRANK_HOME.
WORKERS ?= $(shell nproc)
REPORTS := beauty beauty-cold completejourney completejourney-cold ml-100k gift-cards ablation finetune stability

report: $(READY) ## every comparison on test data; rewrites the tables of docs/quality.md (many hours)
	@for name in $(REPORTS); do \
		echo "== $$name"; $(BIN)/kgrank compare configs/compare/$$name.toml --workers $(WORKERS) --test --docs docs/quality.md || exit 1; done

quickreport: $(READY) ## the same on the coffee shop of examples/, in a minute: shows that it works, says nothing more
	@$(BIN)/kgrank compare configs/compare/quick.toml --test

serve: $(READY) ## the gRPC server on what the demo made (KGRANK_HOME names another home)
	@KGRANK_HOME="$${KGRANK_HOME:-.kgrank-demo}" $(BIN)/kgrank serve

proto: $(READY) ## generate the stubs from the .proto files
	$(BIN)/python proto/generate.py

constraints: $(READY) ## resolve the newest versions that fit pyproject.toml, by name and version
	@{ sed -n '/^#/p' constraints.txt; \
	   $(BIN)/uv pip compile --system-certs pyproject.toml --all-extras --upgrade -q --no-header --no-annotate \
	   --python-version 3.11; } > constraints.new && mv constraints.new constraints.txt

clean: ## remove the environment and everything a run made
	@if [ -x $(BIN)/kgrank ]; then $(BIN)/kgrank graph stop >/dev/null 2>&1 || true; fi
	rm -rf $(VENV) .kgrank .kgrank-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
