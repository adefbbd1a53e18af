# Every target sets up what it needs. `make demo` and `make test` are all a newcomer has to know.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo demo-vision test test-fast studies test-studies lint docs benchmarks clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## .venv with the package and its development tools

# Pins live in constraints.txt: the package itself has lower bounds only.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tunestudy needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no venv module: on Debian, apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV) (once; a few minutes) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]' setuptools
	@DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation 'deepspeed>=0.18'  # its build looks for torch
	@touch $@

demo-vision: $(READY)  ## run the demo on images; print its table and the path of the report
	@$(BIN)/tunestudy run studies/demo_vision.yaml

demo: $(READY)  ## run the demo study; print its table and the path of the report
	@$(BIN)/tunestudy run studies/demo.yaml

# Several processes for what needs neither ranks nor clocks; two for what starts processes of its own and often waits
# for them; one after the other, undisturbed, what watches clocks or has hosts of its own.
LONG := slow or browser or lab or slurm
WHOLE := study or killed_study
UNDISTURBED := alone or lab or slurm
SIDE_BY_SIDE := -n logical --maxprocesses 8 --dist worksteal
TWO_AT_A_TIME := -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY)  ## every test
	$(BIN)/pytest $(SIDE_BY_SIDE) -m 'not ($(LONG) or $(WHOLE))'
	$(BIN)/pytest $(TWO_AT_A_TIME) -m '($(LONG)) and not ($(UNDISTURBED))'
	$(BIN)/pytest -m '($(LONG)) and ($(UNDISTURBED))'

test-fast: $(READY)  ## tests that need no ranks, no browser, no hosts
	$(BIN)/pytest $(SIDE_BY_SIDE) -m 'not ($(LONG) or $(WHOLE))'

studies: $(READY)  ## the five studies of studies/ in small, whole, one after the other
	$(BIN)/pytest tests/studies -m study

test-studies: $(READY)  ## the same, and each killed at three random moments on its way
	$(BIN)/pytest tests/studies -m '$(WHOLE)'

lint: $(READY)  ## style, types, arrows between rooms, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/size_watch.py

docs: $(READY)  ## the book of docs/ in site/; open site/index.html
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html"

benchmarks: $(READY)  ## measure the figures of benchmarks/RESULTS.md anew (about half an hour)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/all.py

clean:  ## remove the environment, keep results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
