# make demo: set everything up, train on the bundled log, interrupt, resume, detect, evaluate, say where the report is.
# make test: set everything up and run every check that CI runs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The tests of a file share what was trained for them.
TWO_AT_A_TIME := --numprocesses 2 --dist loadfile

.PHONY: demo test lint unit capture benchmark clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "ai_detect needs Python 3.10 or newer; try: make PYTHON=python3.12 " + "$(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python tests/demo.py

test: lint $(STAMP)
	$(BIN)/python -m pytest $(TWO_AT_A_TIME)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow' $(TWO_AT_A_TIME)

capture: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[capture]'
	$(BIN)/python dataset/capture.py --output_dir dataset

benchmark: $(STAMP)
	$(BIN)/python tests/benchmarks/pipeline.py --output docs/benchmarks.md
	$(BIN)/python tests/benchmarks/parsing.py --output docs/benchmarks-parsing.md
	$(BIN)/python tests/benchmarks/detection.py --output docs/benchmarks-detection.md
	$(BIN)/python tests/benchmarks/detection.py --sweep --output docs/benchmarks-detection.md
	$(BIN)/python tests/benchmarks/detection.py --ablation --output docs/benchmarks-detection.md
	$(BIN)/python tests/benchmarks/false_alarms.py --output docs/benchmarks-false-alarms.md
	$(BIN)/python tests/benchmarks/attribution.py --output docs/benchmarks-attribution.md
	$(BIN)/python tests/benchmarks/priors.py --output docs/benchmarks-priors.md

clean:
	rm -rf $(VENV) .demo build *.egg-info
