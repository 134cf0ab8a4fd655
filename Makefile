# Two commands do everything: `make tutorial` and `make test`. The README says what to type without make.
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu   a CPU build of PyTorch on Linux (gigabytes smaller)
#   PYTHON=python3.12                                  another interpreter, 3.11 or newer
#   KNEECLIP_DATA=DIR                                  the real knees: the tests that need them run too
#   JOBS=4                                             tests at a time, on a machine with more cores and memory

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FLOOR := $(VENV)/floor
JOBS ?= 2
# Two processes of one thread finish sooner than one process of two. A file stays in one process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.PHONY: tutorial test lab kit floor kill fuzz notebooks badges clean

tutorial: $(STAMP)
	$(BIN)/kneeclip tutorial --out build/tutorial

test: $(STAMP) floor
	$(BIN)/ruff check kneeclip tests tools notebooks results
	$(BIN)/ruff format --check kneeclip tests tools
	$(PYTEST) tests
	$(PYTEST) --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 notebooks

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

# For a class with a bad network, wheels, sources and pages for a USB stick: make kit KIT="--platform win_amd64 macos_arm64"
kit: $(STAMP)
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python tools/kit.py $(KIT)

# The lower bounds of pyproject.toml, laid over the environment: do the rooms next to Transformers work there too?
floor: $(FLOOR)/.installed
	PYTHONPATH=$(FLOOR) $(PYTEST) tests/test_losses.py tests/test_prompts.py tests/test_model.py tests/test_training.py tests/test_adapting.py

# The suite kills three trainings and fuzzes for seconds; these do it at length.
kill: $(STAMP)
	KNEECLIP_KILLS=25 $(BIN)/python -m pytest tests/test_kill.py -rP

fuzz: $(STAMP)
	KNEECLIP_FUZZ=5000 $(BIN)/python -m pytest tests/test_fuzz.py

# For those who change the notebooks: run them on phantoms and keep their outputs; move the badges to another address.
notebooks: $(STAMP)
	$(BIN)/python tools/notebooks.py run
	$(BIN)/python tools/notebooks.py figures
	$(BIN)/python tools/notebooks.py guide

badges: $(STAMP)
	$(BIN)/python tools/notebooks.py badges $(ADDRESS)

clean:
	rm -rf build runs .pytest_cache .ruff_cache .hypothesis

# Each done once; again only when its requirements change. pip would lay a new floor over the old one, and keep both.
$(FLOOR)/.installed: tests/floor.txt | $(STAMP)
	rm -rf $(FLOOR)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(FLOOR) -r tests/floor.txt
	touch $@

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kneeclip needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(INDEX) -c constraints.txt -e '.[notebooks,test]'
	touch $@
