# `make report`: set up, run the notebooks, write build/report/index.html. `make test`: set up, check, run the tests.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.PHONY: report test check install picture clean

report: $(READY)
	$(BIN)/python -m capacity report

test: check
	$(BIN)/python -m pytest -q

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

install: $(READY)

# Every version is pinned in constraints.txt, the build backend's too, hence no build isolation.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation --editable '.[dev]'
	touch $@

clean:
	rm -rf build dist
