# `make demo` and `make test` are all a newcomer needs; each makes the virtual environment first if it isn't there.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Threads that wait for each other sleep: the tests' two workers have more of them than there are cores.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test chaos lint format bench report quickreport serve proto constraints clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1|/' | column -t -s '|'

# The environment depends on what is declared, so a change there installs again.
$(READY): pyproject.toml constraints.txt
	@echo "== installing into $(VENV) (the first time: about 3 GB, one to three minutes)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$$(sed -n 's/^# uv==//p' constraints.txt)"
	@$(BIN)/uv pip install --system-certs --python $(BIN)/python -c constraints.txt -e '.[all]'
	@touch $(READY)

demo: $(READY) ## real groceries, a real Neo4j, a trained model, ten explained products over gRPC
	@$(BIN)/kgrank demo

test: $(READY) ## all tests, on two workers; says which took longest
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --durations=15

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

# These have to be given something: a model, a snapshot, ../shared/data; demo, room for a clone that it installs (9 GB).
GIVEN := check_baseline check_tifuknn demo encoder_forms finetune newcomers past_searches reasons refit search_quality \
	time_to_best
# These load a server with ghz, which is not of Python: Go's module proxy has it.
GHZ := go install github.com/bojand/ghz/cmd/ghz@v0.120.0
WITH_GHZ := endurance events overload processes rank recommend search
LIBRARIES := server_load synthetic_shop
ALONE := $(filter-out $(GIVEN) $(WITH_GHZ) $(LIBRARIES),$(sort $(notdir $(basename $(wildcard benchmarks/*.py)))))

bench: $(READY) ## the benchmarks that need to be given nothing, in an hour: JSON lines of ours and a peer in the same run
	@trap 'exit 130' INT; failed=; names="$(ALONE) $(WITH_GHZ)"; \
	if ! command -v ghz >/dev/null; then \
		echo "== skipped, for ghz is not on PATH ($(GHZ)): $(WITH_GHZ)" >&2; names="$(ALONE)"; fi; \
	for name in $$names; do \
		echo "== $$name" >&2; $(BIN)/python -m benchmarks.$$name || failed="$$failed $$name"; done; \
	if [ "$$failed" ]; then echo "== failed:$$failed" >&2; exit 1; fi

# A comparison that misses some of its data says so in the report; one that misses all of them leaves its tables as they
# are and fails, and the others go on. Finished cells are kept under KGRANK_HOME.
WORKERS ?= $(shell nproc)
REPORTS := beauty beauty-cold completejourney completejourney-cold ml-100k gift-cards ablation ablation-beauty finetune \
	finetune-small stability

report: $(READY) ## every comparison on test data; rewrites the tables of docs/quality.md (many hours)
	@trap 'exit 130' INT; failed=; for name in $(REPORTS); do \
		echo "== $$name"; $(BIN)/kgrank compare configs/compare/$$name.toml --workers $(WORKERS) --test \
		--docs docs/quality.md || failed="$$failed $$name"; done; \
	if [ "$$failed" ]; then echo "== failed, and not in docs/quality.md:$$failed" >&2; exit 1; fi

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

# The graphs that are stopped are those of the homes that are removed, whatever the shell's variables name.
HOMES := .kgrank .kgrank-demo
clean: ## remove the environment and everything a run made
	@for home in $(HOMES); do if [ -d $$home ] && [ -x $(BIN)/kgrank ]; then \
		env -u KGRANK_CONFIG -u KGRANK_NEO4J_URI KGRANK_HOME=$$home $(BIN)/kgrank graph stop >/dev/null 2>&1 || true; \
	fi; done
	rm -rf $(VENV) $(HOMES) .kgrank-finetune examples/go/bin examples/go/kgrankv1 constraints.new \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
