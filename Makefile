# `make ladder` trains and compares the five stages; `make test` runs the tests. Each target sets up
# what it needs first. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
PIP_FLAGS := --quiet --disable-pip-version-check
# Installs several times as fast as pip, which takes over where uv or its index can't be reached.
UV := uv==0.13.9
RUNS ?= runs/ladder
# `make ladder PRESET=smoke` takes seconds.
PRESET ?=

.PHONY: help setup setup-gpu lock ladder dashboard docs test quick long test-all soak lint notebooks peers interop gpu-compile scaling gpu-check bench bench-losses bench-sweep bench-checkpoint bench-growth bench-prepare bench-mapped bench-playground speedrun comparison ideas ideas-by-depth texts figures clean
.DELETE_ON_ERROR:

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

setup: .venv/setup.stamp  ## Install what a run needs into .venv.

.venv/setup.stamp: requirements.txt requirements-data.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("PYTHON=$(PYTHON): expected Python 3.11 or newer; run make PYTHON=python3.12")'
	@echo "Setting up .venv: some hundred packages, 1.2 GB on the disk, half a minute or a few."
	@$(call create,$(PYTHON),.venv)
	@touch $@

# $(call create,PYTHON,VENV) makes an environment with what every command needs.
create = $(1) -m venv $(2) \
  && { $(2)/bin/pip install $(PIP_FLAGS) $(UV) || true; } 2>/dev/null \
  && { $(call install,$(2),--require-hashes -r requirements.txt); } \
  && { $(call install,$(2),--no-deps --require-hashes -r requirements-data.txt); }
# $(call install,VENV,PACKAGES) installs packages into it. Python keeps what it compiled of a package at
# the first import; where it is told not to, as in many containers, each import would compile again.
install = $(1)/bin/uv pip install --quiet $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode) \
  --python $(1)/bin/python $(2) 2>/dev/null \
  || $(1)/bin/pip install $(PIP_FLAGS) $(2)

lock: .venv/setup.stamp  ## Pin all packages of requirements*.in.
	@for name in requirements requirements-docs requirements-dev requirements-notebooks requirements-gpu requirements-gpu-cuda12; do \
	  .venv/bin/uv pip compile --universal --generate-hashes --python-version 3.11 --no-annotate --quiet \
	    --custom-compile-command "make lock" $$name.in -o $$name.txt \
	    $$([ $$name = requirements ] || echo --constraint requirements.txt) \
	    $$([ $$name != requirements-notebooks ] || echo --constraint requirements-dev.txt) || exit; \
	done

# 13 needs driver 580 or newer, 12 needs 525.
CUDA ?= 13
setup-gpu: .venv/setup.stamp  ## Install JAX for an NVIDIA GPU into .venv: CUDA=13 or 12.
	$(call install,.venv,--require-hashes -r requirements-gpu$(if $(filter 12,$(CUDA)),-cuda12).txt)

.venv/docs.stamp: .venv/setup.stamp requirements-docs.txt
	@$(call install,.venv,--require-hashes -r requirements-docs.txt)
	@touch $@

# Tests build the site.
.venv/dev.stamp: .venv/docs.stamp requirements-dev.txt
	@$(call install,.venv,--require-hashes -r requirements-dev.txt)
	@.venv/bin/python tests/browser.py >/dev/null 2>&1 || { $(INSTALL_CHROMIUM); } >/dev/null 2>&1 \
	  || echo "No Chrome or Chromium found, and installing one failed: tests of pages need one."
	touch $@

# Root installs Debian's chromium, for the tests that open pages.
INSTALL_CHROMIUM := [ "$$(id -u)" = 0 ] && apt-get -qq update \
  && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium

# Skips finished stages and resumes interrupted ones, so a second call is safe.
ladder: .venv/setup.stamp  ## Train the five stages and compare them: runs/ladder/report.html.
	@.venv/bin/python ladder.py --workdir=$(RUNS) --preset=$(PRESET)

dashboard: .venv/setup.stamp  ## Show the ladder's runs in W&B's dashboard for the terminal.
	@.venv/bin/python -m tracking.dashboard $(RUNS)

docs: .venv/docs.stamp  ## Build the documentation: docs/_site/index.html.
	@rm -rf docs/_site
	@.venv/bin/python -m sphinx -W -q --fresh-env -d docs/_doctrees -D course_runs=$(RUNS) docs docs/_site
	@echo "docs: docs/_site/index.html"

.venv/notebooks.stamp: .venv/setup.stamp requirements-notebooks.txt
	@$(call install,.venv,--require-hashes -r requirements-notebooks.txt)
	@touch $@

# A notebook is made once: what a reader changes in it stays. Remove it for a fresh one.
NOTEBOOKS := $(patsubst %.py,%.ipynb,$(wildcard notebooks/*.py))
$(NOTEBOOKS): notebooks/%.ipynb: | notebooks/%.py .venv/notebooks.stamp
	@.venv/bin/jupytext --quiet --to ipynb --output $@ notebooks/$*.py

# `make notebooks JUPYTER="lab --no-browser"` opens no browser.
JUPYTER ?= lab
notebooks: .venv/notebooks.stamp $(NOTEBOOKS)  ## Open the notebooks of the course, one a stage.
	@cd notebooks && ../.venv/bin/jupyter $(JUPYTER)

# One worker runs all tests of a file, so that they share fixtures.
PYTEST := .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: .venv/dev.stamp lint  ## Lint, then run all tests but the long ones: ten minutes.
	$(PYTEST) -m "not long" --durations=20

quick: .venv/dev.stamp  ## Run the three quarters of the tests that take a few minutes together.
	$(PYTEST) -m "not slow" -q

# Whole ladders, kills, several processes, servers: each takes more than five seconds.
long: .venv/dev.stamp  ## Run the long tests, which make test leaves out: most of an hour.
	$(PYTEST) -m long --durations=40

# In one go, tests share more of what they compile.
test-all: .venv/dev.stamp lint  ## Lint, then run all tests, the long ones, too: fifty minutes.
	$(PYTEST) --durations=40

KILLS ?= 200
SEED ?= 1
soak: .venv/dev.stamp  ## Kill training runs 200 times and load a text of 1 GiB; takes a while.
	.venv/bin/python -m tests.faults.harness --kills=$(KILLS) --seed=$(SEED)
	.venv/bin/python -m tests.faults.of_processes --kills=24 --seed=$(SEED)
	LARGE_TEXT_MIB=1024 .venv/bin/python -m pytest tests/faults/test_large_text.py

WORKERS ?= 2
COMPARED := runs/comparison
# The sweeps of docs/comparison.md, in its order.
COMPARISONS := compare_stages_equal_flops compare_stages heads depth context_length dropout learning_rate architecture
comparison: .venv/setup.stamp  ## Redo what docs/comparison.md measures: a night on two cores; killed, it continues.
	.venv/bin/python sweeps/tune_stages.py --workdir=$(COMPARED)/tune_stages --workers=$(WORKERS)
	@$(call run_all,$(COMPARED),$(COMPARISONS))

TAKEN_AWAY := runs/ideas
# The sweeps of the course's pages, docs/stages: each idea, and when its gain holds.
IDEAS := ideas
BY_DEPTH := ideas_by_depth ideas_by_length
ideas: .venv/setup.stamp  ## Train each stage without each of its ideas: docs/measured/ideas.json.
	@$(call run_all,$(TAKEN_AWAY),$(IDEAS))

ideas-by-depth: .venv/setup.stamp  ## The same for two ideas by depth, optimizer and length.
	@$(call run_all,$(TAKEN_AWAY),$(BY_DEPTH))

# $(call run_all,FOLDER,SWEEPS) runs sweeps in FOLDER and draws them. One with failed runs, which ends
# with code 1, is told at the end and keeps none of the others from a night's work.
run_all = failed=; for sweep in $(2); do \
	  code=0; \
	  .venv/bin/python sweeps/run.py sweeps/$$sweep.yaml --workdir=$(1)/$$sweep --workers=$(WORKERS) || code=$$?; \
	  [ $$code -le 1 ] || exit $$code; \
	  [ $$code = 0 ] || failed="$$failed $$sweep"; \
	done; \
	$(call draw,$(1),$(2),$$failed)

# $(call draw,FOLDER,SWEEPS,FAILED) writes what docs/measured and docs/figures keep of sweeps in FOLDER.
# The end names those with failed runs, FAILED, and those without a report, for none of their runs began.
draw = set -e; failed="$(3)"; undrawn=; for sweep in $(2); do \
	  folder=$(1)/$$sweep; \
	  [ -d $$folder ] || { echo "left as they are: figures of $$folder, which is not there"; continue; }; \
	  .venv/bin/python report.py $$folder --output=$$folder/report.html \
	    --data=docs/measured/$$sweep.json --figures=$$folder/figures \
	    || { undrawn="$$undrawn $$sweep"; continue; }; \
	  $(call copy,$$folder/figures,$$sweep); \
	done; \
	[ -z "$$failed" ] || echo "error: runs failed, see above, in:$$failed" >&2; \
	[ -z "$$undrawn" ] || echo "error: no report, see above, of:$$undrawn" >&2; \
	[ -z "$$failed$$undrawn" ]
# $(call copy,FOLDER,NAME) copies each figure CHART.svg that docs/figures has as NAME-CHART.svg.
copy = for figure in docs/figures/$(2)-*.svg; do \
	    [ ! -e $$figure ] || cp $(1)/$${figure\#docs/figures/$(2)-} $$figure; \
	  done

# Sweeps of docs/gpt2.md that docs/comparison.md does not need.
EXPLORED := scaling vocabulary width_transfer
figures: .venv/setup.stamp  ## Write docs/measured and docs/figures anew, from the runs that are there.
	@if [ -d $(RUNS) ]; then set -e; \
	  .venv/bin/python report.py $(RUNS) --output=$(RUNS)/report.html; \
	  .venv/bin/python look_inside.py $(RUNS) --data=docs/measured/inside.json --figures=$(RUNS)/figures; \
	  $(call copy,$(RUNS)/figures,inside); \
	else echo "left as they are: figures of $(RUNS), which is not there: make ladder"; fi
	@$(call draw,$(TAKEN_AWAY),$(IDEAS) $(BY_DEPTH))
	@$(call draw,runs,texts)
	@[ ! -d runs/induction ] || { $(call induction); }
	@$(call draw,$(COMPARED),$(COMPARISONS) $(EXPLORED))

texts: .venv/setup.stamp  ## Train the stages on made texts that need one idea each: docs/measured/texts.json.
	@$(call run_all,runs,texts)
	.venv/bin/python -m benchmarks.induction --workdir=runs/induction
	@$(call induction)

induction = .venv/bin/python report.py runs/induction --output=runs/induction/report.html \
	  --figures=runs/induction/figures; \
	  $(call copy,runs/induction/figures,induction)

lint: .venv/dev.stamp  ## Check style and formatting.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .

peers: .venv-peers/setup.stamp  ## Install PyTorch, transformers and lm-eval into .venv-peers.

.venv-peers/setup.stamp: requirements.txt requirements-data.txt requirements-peers.txt requirements-engine.txt
	@$(call create,$(PYTHON),.venv-peers)
	.venv-peers/bin/pip install $(PIP_FLAGS) -r requirements-peers.txt
	.venv-peers/bin/pip install $(PIP_FLAGS) --no-deps -r requirements-engine.txt
	touch $@

interop: .venv-peers/setup.stamp  ## Test against PyTorch, transformers and lm-eval.
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 .venv-peers/bin/python -m pytest -o addopts=--strict-markers tests/interop

# The first Python 3.12 or newer on this machine: newer JAX needs it.
NEW_PYTHON ?= $(shell for python in $(PYTHON) python3.12 python3.13 \
  "$$(pyenv prefix 3.12 2>/dev/null)/bin/python" "$$(uv python find '>=3.12' 2>/dev/null)"; do \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null \
  && { echo "$$python"; break; }; done)

.venv-gpu-compile/setup.stamp: requirements.txt requirements-data.txt requirements-gpu-compile.txt
	@test -n "$(NEW_PYTHON)" || { echo "NEW_PYTHON is empty: expected Python 3.12 or newer, and none \
	was found; run make gpu-compile NEW_PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(call create,$(NEW_PYTHON),.venv-gpu-compile)
	@$(call install,.venv-gpu-compile,--no-deps -r requirements-gpu-compile.txt)
	touch $@

# `make gpu-compile EXPERIMENT=gpt2.py:medium FLAGS=--config.train.batch_size=4` compiles that one.
gpu-compile: .venv-gpu-compile/setup.stamp  ## Compile training for an H100, without one.
	.venv-gpu-compile/bin/python -m benchmarks.gpu_compile \
	  $(if $(EXPERIMENT),--config=experiments/$(EXPERIMENT) $(FLAGS))

scaling: .venv-gpu-compile/setup.stamp  ## Compile GPT-2 of all sizes for 1, 8 and 64 H100s: benchmarks/scaling.json.
	.venv-gpu-compile/bin/python -m benchmarks.scaling

gpu-check: .venv/setup.stamp  ## Check and measure one GPU, for 400 s: benchmarks/gpu.json.
	.venv/bin/python -m benchmarks.gpu_check --output=benchmarks/gpu.json

# `make bench WORKS=laptop,baby` measures those rows and keeps the others.
bench: .venv-peers/setup.stamp  ## Time everything against PyTorch, for hours: benchmarks/results.json.
	.venv-peers/bin/python -m benchmarks.compare $(if $(WORKS),--works=$(WORKS))

bench-losses: .venv/setup.stamp  ## Train with fast and reference implementations: benchmarks/losses.json.
	.venv/bin/python -m benchmarks.losses

bench-sweep: .venv/setup.stamp  ## Time a sweep against its commands in sequence: benchmarks/sweep.json.
	.venv/bin/python -m benchmarks.sweep

bench-checkpoint: .venv/setup.stamp  ## Measure the cost of saving: benchmarks/checkpointing.json.
	.venv/bin/python -m benchmarks.checkpointing

bench-prepare: .venv/setup.stamp  ## Time prepare.py on a corpus of 2 GB, and its memory.
	.venv/bin/python -m benchmarks.preparation

bench-mapped: .venv/setup.stamp  ## Time training on a billion mapped tokens against memory.
	.venv/bin/python -m benchmarks.mapped

bench-growth: .venv-peers/setup.stamp  ## Time growing contexts, widths and texts: benchmarks/growth.json.
	.venv-peers/bin/python -m benchmarks.growth

bench-playground: .venv/setup.stamp  ## Time the page with the models of runs/ladder: benchmarks/playground.json.
	.venv/bin/python -m benchmarks.playground

speedrun: .venv/setup.stamp  ## Train the speedruns with three seeds: benchmarks/speedrun.json.
	.venv/bin/python -m benchmarks.speedrun

clean:  ## Remove the environments and caches; runs stay.
	rm -rf .venv .venv-peers .venv-gpu-compile .pytest_cache .ruff_cache .mypy_cache .hypothesis docs/_site docs/_doctrees
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
