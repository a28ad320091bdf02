# `make report`: set up, run the notebooks, write build/report/index.html. `make test`: set up, check, run the tests.
# `make quick`: set up, check, run the fast tests.
PYTHON ?= python3
BIN := .venv/bin
# The embedded models' tensors are too small to be shared out: one thread is as fast, and far faster on a busy machine.
# Fits of larger models run on more (fitting.threads).
export OMP_NUM_THREADS ?= 1
READY := .venv/.installed

.PHONY: report test quick fast faults check install measured picture real train ladder gpu clean

report: $(READY)
	$(BIN)/python -m capacity report

# By file, a process more than two cores, since some tests wait; others with `make test PROCESSES=8`.
PROCESSES ?= 3
PYTEST := $(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: check
	$(PYTEST)

# Lint, types and the fast tests, side by side.
quick: $(READY)
	$(MAKE) --jobs 2 --output-sync check fast

fast: $(READY)
	$(PYTEST) -m "not slow"

# Every fault that is to be survived, each for real, as a table; kills at ten random moments where `make test` has two.
faults: $(READY)
	CAPACITY_MOMENTS=10 $(BIN)/python tests/faults.py data/measured/faults.md

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

install: $(READY)

# The rows that travel with the project, so that a first report need not wait for them, and the pictures of README.
measured: $(READY)
	$(BIN)/python -m capacity run 01_decoding_capacity 02_information_gain 03_many_vectors 05_geometry 09_exact_length \
		10_baselines --store data/measured/rows --out build/measured
	$(BIN)/python -m capacity run 11_speed --store data/measured/rows --out build/measured \
		-p speed=data/measured/speed -p compiled_lengths='[8, 64]' -p driven='[1, 16, 64, 256]'

picture: $(READY)
	$(BIN)/python -c "from pathlib import Path; from capacity.report import page; \
		executed = Path('build/report/01_decoding_capacity.ipynb'); \
		Path('data/measured/exact_length.svg').write_text(page.picture(executed, 1))"
	$(BIN)/python -m capacity cram "The ferry left the harbour before the rain began." \
		--model smollm2-135m --fetch --n-mem 1 --picture data/measured/there_and_back.svg

# Every version is pinned in constraints.txt, the build backend's too, hence no build isolation.
# pip names what it fetches and installs as it goes: torch alone may take minutes. WHEELS=folder: from there, no network.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar on --constraint constraints.txt \
	$(if $(WHEELS),--no-index --find-links "$(WHEELS)")

$(READY): pyproject.toml constraints.txt
	@echo "installing into .venv: about 110 packages, once; minutes, most of them for torch"
	$(PYTHON) -m venv .venv
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

# A pretrained model: fetched (93 MB, once), checked by its digest, tried with one sentence, and measured as the rows that
# travel were, or a part of it: `make real GRIDS=data/measured/grids/smollm2_bos.toml`. Hours on two processors.
GRIDS ?= $(wildcard data/measured/grids/smollm2_*.toml)
real: $(READY)
	$(BIN)/python -m capacity cram "The ferry left the harbour before the rain began." --model smollm2-135m --fetch
	for grid in $(GRIDS); do $(BIN)/python -m capacity sweep $$grid --store build/real || exit; done
	CAPACITY_MEASURED=build/real $(BIN)/python -m capacity run 05_geometry --store build/real --out build/real-pages \
		-p n_texts=2 -p pretrained_missing=measure
	CAPACITY_MEASURED=build/real $(BIN)/python -m capacity run 07_free_running 08_precision --store build/real \
		--out build/real-pages -p n_texts=2

# Models trained alike (data/ladder.toml) into CAPACITY_HOME, then measured; what is done is not done again, a training that
# was killed goes on, and several `make train` at once share the work. CORPUS holds books that are not part of the project.
CORPUS ?= corpus
TOKENS ?= 5_000_000
train: $(READY)
	$(BIN)/python -c "from capacity import ladder; ladder.train(ladder.read(), corpus='$(CORPUS)/books_train.parquet', \
		held_out='$(CORPUS)/books_heldout.parquet', tokens=$(TOKENS), compile=True)"

ladder: train
	$(BIN)/python -c "from capacity import ladder; ladder.write(ladder.read(), 'build/ladder.csv')"
	$(BIN)/python -m capacity run 06_scaling_laws --store build/ladder -p ladder_facts=build/ladder.csv --out build/measured

# All that is to be seen on a machine with a GPU, in about ten minutes: the tests marked `cuda`, rates, memory, searches by
# dtype; build/gpu/summary.md and a CSV file a part. What was cut goes on with the same command; MINUTES=60 for all of it.
OUT ?= build/gpu
MINUTES ?= 10
gpu: $(READY)
	CUBLAS_WORKSPACE_CONFIG=:4096:8 $(BIN)/python tests/gpu.py "$(OUT)" --minutes $(MINUTES)

clean:
	rm -rf build dist
