# Everything sets itself up: `make demo` or `make test` in a fresh clone is enough.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= demo-out
SOURCES := common server client deploy

# Real CT for tests and for the demo's last step; without it they say so and go on.
ifndef STILLROOM_TEST_DATA
ifneq ($(wildcard ../shared/data/PROVENANCE.md),)
export STILLROOM_TEST_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help install demo test check format docs bench science chaos boundary doctor proof image field constraints clean

help: ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Install everything into .venv

# torch first and alone: a machine that holds a CPU wheel takes it, any other asks its index.
# With torch in place nothing after it pulls a CUDA build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@torch=$$(grep '^torch==' constraints.txt); \
	$(BIN)/python -m pip install -qq --no-index --no-deps "$$torch" 2>/dev/null \
	  || $(BIN)/python -m pip install -qq "$$torch"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## A consortium of four hospitals here: report, release, a prediction on a real CT
	@$(BIN)/python -P -m stillroom.deploy.demo --out $(OUT)

test: check ## Every check and every test; SLOW=1: those that take minutes as well
	@$(BIN)/python -P -m pytest $(if $(SLOW),-m 'slow or not slow')

check: $(STAMP) ## Lint, types, import rules, generated pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(SOURCES)
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -P -m stillroom.deploy.reference --check

format: $(STAMP) ## Format the code and sort its imports
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP) ## Rewrite the generated reference pages
	@$(BIN)/python -P -m stillroom.deploy.reference

bench: $(STAMP) ## Speed beside Flower and NVFlare, as ratios in one run; writes docs/reference/performance.md
	@$(BIN)/python -P tests/bench/bench_intake.py
	@$(BIN)/python -P tests/bench/bench_predict.py
	@$(BIN)/python -P tests/bench/bench_gate.py
	@$(BIN)/python -P tests/bench/bench_log.py
	@$(BIN)/python -P tests/bench/bench_training.py
	@$(BIN)/python -P tests/bench/performance.py

# QUICK=1 shows in minutes that all of it runs; ENCODINGS=1 runs the price of the encodings instead.
science: $(STAMP) ## Which claims of the papers hold here, with seeds and intervals; writes docs/reference/science.md
ifdef WHY
	@$(BIN)/python -P tests/science/why.py
else ifdef ENCODINGS
	@$(BIN)/python -P tests/science/encodings.py
else
	@$(BIN)/python -P tests/science/claims.py
endif

chaos: $(STAMP) ## Kill every process at every moment of a round, cut lines, fill disks
	@$(BIN)/python -P tests/chaos/run.py

boundary: $(STAMP) ## Try everything at the boundary: handshakes, smuggling, fuzzing
	@$(BIN)/python -P tests/boundary/run.py

doctor: $(STAMP) ## Inject every fault in turn and see whether the doctor names it; needs root; writes docs/reference/doctor.md
	@$(BIN)/python -P tests/doctor/matrix.py --page docs/reference/doctor.md

proof: $(STAMP) ## Tamper with a log in every way, and fail every call of a commit
	@$(BIN)/python -P tests/proof/run.py

# BASE names an image with Python 3.11 to build on, where docker.io cannot be reached.
image: $(STAMP) ## Container images of client and server, and tarballs that install them without a network
	@$(BIN)/python -P -m stillroom.deploy.images_cli --out image-out $(if $(BASE),--base $(BASE))

# SCRATCH keeps images and logs there, so that a second run does not build again. COMPOSE=1 then walks the
# pages for containers with docker-compose and Docker's engine.
field: $(STAMP) ## Three hospitals in hardened containers, firewalls, a proxy, an upgrade, a restore; needs root and podman
	@$(BIN)/python -P tests/field/run.py $(if $(SCRATCH),--scratch $(SCRATCH) --keep) $(if $(COMPOSE),--compose)

constraints: $(STAMP) ## Pin what is installed now
	@{ head -2 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove the environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
