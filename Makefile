# On a machine with Python 3.11, make and git: `make demo`, `make test` and `make docs`.
PYTHON ?= python3
VENV ?= .venv
BENCH ?= .cache/bench
BIN := $(abspath $(VENV))/bin
# Every tool of the environment is found first, also by the commands that DVC starts.
export PATH := $(BIN):$(PATH)

.PHONY: demo test bench docs audit format clean

demo: $(VENV)/.installed
	gare-cache demo data/demo
	dvc repro
	@echo
	@gare-cache report
	@echo

test: $(VENV)/.installed
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	OMP_NUM_THREADS=1 pytest --numprocesses logical --dist loadfile

# Tables on the terminal and in benchmarks/results, on the machine as it is: quiet, or the ratios alone count.
# Threads wait as those of `gare-cache` do.
bench: export GOMP_SPINCOUNT := 1000
bench: $(VENV)/.installed
	python benchmarks/training_step.py --rounds 3
	python benchmarks/training_run.py --forms "no gap module" GARE "GARE, bfloat16"
	OMP_NUM_THREADS=1 python benchmarks/batched_training.py --threads 1 --rounds 2
	python benchmarks/exact_scoring.py --rounds 1
	GLIBC_TUNABLES= python benchmarks/cache_reading.py $(BENCH) --rounds 3 --open 10000 100000
	OMP_NUM_THREADS=2 python benchmarks/extraction.py --videos 32 --rounds 2 --workers 2
	OMP_NUM_THREADS=1 python benchmarks/search.py $(BENCH) --sizes 10000 --rounds 3
	python benchmarks/growth.py $(BENCH) --rounds 1
	python benchmarks/costs.py

# Needs no network: fonts, scripts and styles are part of the site.
docs: $(VENV)/.installed
	zensical build --strict --clean
	@echo
	@echo "documentation: $(abspath site/index.html)"

# Needs a network: compares the pins with the public advisories, in an environment of its own.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(abspath $(VENV)-audit)/bin/pip install --quiet pip-audit==2.10.1
	$(abspath $(VENV)-audit)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

format: $(VENV)/.installed
	ruff format .
	ruff check --fix .

# torch first and pinned: another package's open range would bring a build of gigabytes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dvc,hf,serve,ann,qdrant,ray,tensorboard,dvclive,dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-audit data/demo outputs cache .gare/state .gare/runs .gare/features .dvc/cache dvc.lock site .cache
