# every target is the only command that a fresh clone needs. Overridable: PYTHON, VENV, PIP_ARGS,
# TORCH_INDEX (an extra package index that carries CPU builds of torch; see CONTRIBUTING.md), ARGS
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PIP_ARGS ?= $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
ARGS ?=
PY := $(VENV)/bin/python

.PHONY: demo test lint types bench quality quality-quick ablations gpu sanitize workflows locales pictures clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(PY) tests/demo/run.py --out out/demo $(ARGS)

test: $(VENV)/.tests
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/.tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.tests
	$(PY) -m mypy motioncache_core

bench: $(VENV)/.tests
	mkdir -p out/bench
	$(PY) tests/bench/run.py --out out/bench $(ARGS)

quality: $(VENV)/.tests
	$(PY) tests/bench/quality/run.py --out out/quality $(ARGS)
	$(PY) tests/bench/quality/run.py --out out/quality --model confirmation $(ARGS)

quality-quick: $(VENV)/.tests
	$(PY) tests/bench/quality/run.py --out out/quality-quick --quick $(ARGS)

ablations: $(VENV)/.tests
	$(PY) tests/bench/quality/ablations.py --out out/quality $(ARGS)
	$(PY) tests/bench/quality/ablations.py --out out/quality --base paper $(ARGS)
	$(PY) tests/bench/quality/attention.py --out out/quality $(ARGS)
	$(PY) tests/bench/quality/attention.py --out out/quality --model confirmation $(ARGS)

gpu: $(VENV)/.tests
	$(PY) -m pytest tests/gpu $(ARGS)

sanitize: $(VENV)/.tests
	for tool in memcheck racecheck synccheck; do \
		compute-sanitizer --tool $$tool --error-exitcode 1 $(PY) tests/gpu/sanitize.py || exit 1; \
	done

workflows: $(VENV)/.tests
	$(PY) tests/workflows/run.py $(ARGS)

locales: $(VENV)/.tests
	$(PY) tests/locales/run.py

pictures: $(VENV)/.tests
	$(PY) tests/pictures/run.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-triton out build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: tests/requirements-demo.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -r tests/requirements-demo.txt
	touch $@

$(VENV)/.tests: tests/requirements.txt tests/requirements-demo.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -r tests/requirements.txt
	touch $@ $(VENV)/.demo
