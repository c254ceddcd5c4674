# Every target builds .venv first if it is missing: Python 3.11 and pip are all that is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/digits
# Modules that annotate shapes are checked at run time; all types are checked by mypy.
SHAPED = $(shell grep -rl --include=*.py 'from jaxtyping' castling | sed 's/\.py$$//; s,/,.,g' | paste -sd, -)
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal --jaxtyping-packages=$(SHAPED),beartype.beartype

.PHONY: search test test-slow test-faults lint types smoke clean

search: $(VENV)/.installed ## The main job: search, report and export the winner to $(RUN)/best.
	$(BIN)/castling search digits --out $(RUN) $(if $(wildcard $(RUN)/config.yaml),--resume)
	$(BIN)/castling report $(RUN)
	test -e $(RUN)/best/metrics.json || $(BIN)/castling export $(RUN) --out $(RUN)/best --onnx

test: $(VENV)/.installed ## The fast tests, with shapes checked at run time.
	$(PYTEST)

test-slow: $(VENV)/.installed ## All tests, the slow ones too, and ten times the examples.
	HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "not gpu and not faults"

test-faults: $(VENV)/.installed ## Kills, full disks, lost machines: each test takes minutes, one at a time.
	$(BIN)/python -m pytest tests/faults -m faults -v

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

smoke: $(VENV)/.installed ## A complete search in about a minute, in a temporary folder.
	run=$$(mktemp -d) && $(BIN)/castling search smoke --out $$run && $(BIN)/castling report $$run && \
	$(BIN)/castling export $$run --out $$run/best && $(BIN)/castling evaluate $$run/best && rm -r $$run

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
