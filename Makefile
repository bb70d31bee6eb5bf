# Everything a user or a machine runs. `make env` is the only step that installs anything.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export MPLBACKEND := Agg
export NO_MKDOCS_2_WARNING := 1

.PHONY: help env demo test test-newest check accept bench docs dist changelog clean

help:
	@echo "make env      build .venv (once; again only when pyproject.toml or constraints.txt change)"
	@echo "make demo     synthetic knees from DICOM to masks, T2, maps, classifiers, demo/report.html"
	@echo "make test     the test suite (about 12 minutes on two cores)"
	@echo "make test-newest  the core's tests on the newest Python, without constraints (.venv-newest)"
	@echo "make check    ruff, mypy, import rules, committed pages up to date"
	@echo "make accept   the slow acceptance lines; writes docs/reference/acceptance.md"
	@echo "make bench    side-by-side benchmarks, printed as ratios"
	@echo "make docs     the documentation site, into site/"
	@echo "make dist     sdist and wheel in dist/, checked, installed and tried in an empty environment"
	@echo "make changelog  the section that the news fragments in docs/changes will make"

env: $(STAMP)

# torch first, alone, by pip: resolved together with the rest it would pull gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	$(BIN)/python -m pip check
	touch $(STAMP)

demo: env
	$(BIN)/qmri-lake demo demo

test: env
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not accept" --durations=20 -rs

test-newest:
	$(PYTHON) tests/newest.py

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m docs.generate --check

accept: env
	$(BIN)/python -m tests.acceptance

bench: env
	$(BIN)/python -m benchmarks.t2_fit
	$(BIN)/python -m benchmarks.dicom_read
	$(BIN)/python -m benchmarks.lake_scale
	$(BIN)/python -m benchmarks.checksum
	$(BIN)/python -m benchmarks.mask_metrics
	$(BIN)/python -m benchmarks.distance_maps
	$(BIN)/python -m benchmarks.spherical_maps
	$(BIN)/python -m benchmarks.epg_fit
	$(BIN)/python -m benchmarks.loader
	$(BIN)/python -m benchmarks.bootstrap_roc

docs: env
	$(BIN)/python -m docs.generate
	$(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

dist: env
	rm -rf dist build
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/dist.py

changelog: env
	$(BIN)/towncrier build --draft

clean:
	rm -rf demo site build dist *.egg-info
