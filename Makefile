# make demo   the main job: an incident in the embedded PostgreSQL, the runbook, the overview page
# make test   everything that must hold: linter, types, tests, notebooks
# make lab    JupyterLab on the runbooks
# make refresh  executes the committed notebooks and writes their outputs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test lab refresh
demo: $(READY)
	$(BIN)/pgrunbooks demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --diff lib tests benchmarks
	$(BIN)/mypy
	$(BIN)/pytest -n 3 --dist worksteal

lab: $(READY)
	$(BIN)/pgrunbooks lab

refresh: $(READY)
	$(BIN)/python -m pgrunbooks.refresh

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[lab,dev]'
	touch $@
