# make demo   the whole thing on Python's own manual     make test   all tests that need no network and no GPU
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready
DATA   ?=
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test check bench ablation docs clean
.DEFAULT_GOAL := demo

# What is installed follows pyproject.toml and constraints.txt. A torch that is already there stays.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/tokay distill python-stdlib --llm recorded --base minilm --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest -m "not gpu and not network"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One table a claim. DATA is a folder of BEIR-like sets; without it the benchmarks use the demo's data alone.
bench: $(READY)
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file $(if $(DATA),--data $(DATA)) || exit 1; done

# The recipes that the default was chosen from. Cut short it goes on where it was; RUN is a run with a dev part.
RUN    ?= runs/ablation
ablation: $(READY)
	test -f $(RUN)/model/config.json || $(BIN)/tokay distill python-stdlib --llm recorded --base minilm --out $(RUN) --set split.dev_share=0.25
	$(BIN)/python benchmarks/bench_ablation.py --run $(RUN) --recipes ladder $(if $(DATA),--data $(DATA))
	$(BIN)/python benchmarks/bench_ablation.py --run $(RUN) --recipes single $(if $(DATA),--data $(DATA))

docs: $(READY)
	$(BIN)/python tools/write_cli_docs.py docs/cli.md

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
