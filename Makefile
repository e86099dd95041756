# What CI runs, by the same commands; `make help` lists them.
#
# Environments are made under .venvs/ when first needed, with the releases that locks/ names. All but `check` hold the
# wheel of this checkout, never its source folder. Nothing has to be installed by hand but Python with venv and pip, and
# npm; the speech and FFmpeg come by apt.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SECONDEXPANSION:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
# Any build passes. TORCH_INDEX=URL names the index to take it from, such as PyTorch's of CPU builds.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
TORCHCODEC ?= torchcodec==0.12.0
# How many tests run at the same time.
JOBS ?= 2
# For pytest, the demo or the benchmarks: `make test-main ARGS="-k whisper -x"`, `make demo ARGS="--audio DIR"`.
ARGS ?=

# The modules that other Pythons and the oldest libraries are tried with, and a test of the suite's own footing.
CORE := test_errors test_conftest support/test_threads cache/test_keys cache/test_entry cache/test_golden cache/test_stats \
	cache/test_caches stores/test_local audio/test_decode audio/test_source processors/test_extractor \
	processors/test_code processors/test_own_code processors/test_own_code_pairs transform/test_cached_array \
	transform/test_references transform/test_prefetch
CORE_TESTS = $(CORE:%=tests/%.py)

# What behaves differently without torch: the room that asks for it, the main job, and what users copy. WITHOUT=. is all.
WITHOUT := processors transform/test_main_job.py test_notebooks.py

# The modules of the fault suite; `make test` runs a bounded form of each.
FAULTS := $(wildcard tests/faults/test_*.py)

VENVS := .venvs
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' hf_audio_cache/__init__.py)
WHEEL := dist/hf_audio_cache-$(VERSION)-py3-none-any.whl
# With the folders, which a removed file makes newer than the wheel.
SOURCES := setup.py setup.cfg pyproject.toml LICENSE $(wildcard README.md) \
	$(shell find hf_audio_cache -name __pycache__ -prune -o -type d -print -o -name '*.py' -print -o -name py.typed -print)

# Real speech: the user's folder, else .speech/ here.
SPEECH := $(abspath $(or $(HF_AUDIO_CACHE_SPEECH),.speech))
export HF_AUDIO_CACHE_SPEECH := $(SPEECH)

# Object stores that come by npm, for the tests.
SERVERS := .servers/node_modules/.package-lock.json

LOCKS := $(wildcard locks/*.txt)

# A source folder on PYTHONPATH would be tested in the place of the wheel.
unexport PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# transformers has thousands of modules, of which few are imported. They are compiled then, once for all processes.
unexport PYTHONDONTWRITEBYTECODE

# uv installs in seconds what takes pip a minute, and makes the lock. It reads no settings of pip: an index that is set
# there is handed on, and certificates are the system's, as pip's are. pip installs uv, and torch, which some machines
# have set up for pip alone.
TOOLS := build pip setuptools>=77 uv
TWINE := twine>=6
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS := true
PIP_INDEX = $(or $(PIP_INDEX_URL),$(shell $(PYTHON) -m pip config get global.index-url 2>/dev/null))
UV = $(if $(UV_DEFAULT_INDEX)$(PIP_INDEX),UV_DEFAULT_INDEX='$(or $(UV_DEFAULT_INDEX),$(PIP_INDEX))') $(VENVS)/build/bin/uv
UV_INSTALL = $(UV) pip install --quiet --python $(VENVS)/$(1)/bin/python

# The releases to install on a Python, if they are locked for it.
version_of = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
lock_of = $(wildcard locks/python$(call version_of,$(1)).txt)

# The full path of a Python by its version, or nothing. A pyenv shim needs the version named, also to say there is none.
find_python = $(shell PYENV_VERSION=$(1) python$(1) -c 'import sys; print(sys.executable)' 2>/dev/null)

.PHONY: help
help:  ## this list
	@grep -E '^[a-z][a-z0-9%-]*:.* ## ' $(MAKEFILE_LIST) | sed -E 's/:.* ## /\t/' | expand -t 16

# What people call

.PHONY: style format
style: $(VENVS)/main/package.stamp ## ruff, mypy and the import contracts
	$(VENVS)/main/bin/ruff check
	$(VENVS)/main/bin/ruff format --check
	$(VENVS)/main/bin/mypy
	$(VENVS)/main/bin/lint-imports --no-cache

format: $(VENVS)/main/requirements.stamp ## let ruff rewrite what `make style` would refuse
	$(VENVS)/main/bin/ruff check --fix
	$(VENVS)/main/bin/ruff format

# The files that are named after `check` are its arguments, and no goals.
ifeq (check,$(firstword $(MAKECMDGOALS)))
FILES ?= $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
.PHONY: $(FILES)
$(FILES): ; @:
endif

.PHONY: check
check: $(VENVS)/check.stamp $(SPEECH) ## make check FILE…: the tests of these files, or of your change, on the source folder
	@$(VENVS)/check/bin/python tests/check.py $(FILES) -- $(ARGS)

# The environments two at a time, then the parts one by one, the shortest first: the first failure ends it.
.PHONY: test test-all test-environments
test: ## the whole suite, in all its parts
	@$(MAKE) -j2 test-environments
	@$(MAKE) -j1 test-oldest test-py313 test-codec test-bare test-main

test-all: ## the same with what is long, more Pythons, and the fault suite in its long form
	@$(MAKE) -j2 test-environments
	@$(MAKE) -j1 test-oldest test-py312 test-py313 test-codec test-bare test-main LONG="--long -o timeout=3600" WITHOUT=.
	@$(MAKE) fuzz

test-environments: $(VENVS)/main/package.stamp $(VENVS)/bare/package.stamp $(VENVS)/codec.stamp $(SPEECH) $(SERVERS) ffmpeg \
	$(if $(call find_python,3.10),$(VENVS)/oldest/package.stamp) \
	$(if $(call find_python,3.13),$(VENVS)/py313/package.stamp)

# $(call pytest,ENVIRONMENT,MARKERS,MODULES): JOBS at a time, a module on one of them, the longest first (see
# tests/groups.py, whose scheduler takes the place of that of --dist). With ARGS, there may be nothing to run, which is status 5.
LONG :=
PARALLEL := -n $(JOBS) --dist loadscope --no-loadscope-reorder
pytest = $(VENVS)/$(1)/bin/pytest $(LONG) $(PARALLEL) -m "$(2)" $(3) $(ARGS) $(if $(ARGS),|| [ $$? = 5 ])
WITHOUT_TORCH := not torch and not torchcodec and not servers and not ray

.PHONY: test-main test-bare test-codec test-oldest test-newest
test-main: $(VENVS)/main/package.stamp $(SPEECH) $(SERVERS) ## everything but the torchcodec tests, with torch
	$(call pytest,main,not torchcodec)

# The core has been seen without torch by test-oldest and test-py313.
test-bare: $(VENVS)/bare/package.stamp $(SPEECH) ## what behaves differently without torch, in an environment without it
	$(call pytest,bare,$(WITHOUT_TORCH),$(WITHOUT:%=tests/%) $(patsubst %,--ignore=%,$(CORE_TESTS) $(FAULTS)))

test-codec: $(VENVS)/main/package.stamp $(VENVS)/codec.stamp $(SPEECH) ffmpeg ## the torchcodec tests, with torchcodec and FFmpeg
	PYTHONPATH=$(abspath $(VENVS)/codec) $(VENVS)/main/bin/pytest -m torchcodec $(ARGS)

test-oldest: $$(if $$(call find_python,3.10),$(VENVS)/oldest/package.stamp $(SPEECH)) ## the core on Python 3.10, with the oldest libraries allowed
	$(call core_part,3.10,oldest)

test-py3%: $$(if $$(call find_python,3.$$*),$(VENVS)/py3$$*/package.stamp $(SPEECH)) ## the core on that Python: test-py313
	$(call core_part,3.$*,py3$*)

# core_part VERSION,ENVIRONMENT
core_part = $(if $(call find_python,$(1)),\
	$(call pytest,$(2),$(WITHOUT_TORCH),$(CORE_TESTS)),\
	@echo "python$(1) is not on this machine: $@ is left out")

# What the lock keeps from everybody else: made anew each time.
test-newest: $(SPEECH) ## the core, and all extractors, with the releases of today
	@rm -rf $(VENVS)/newest
	@$(MAKE) $(VENVS)/newest/package.stamp
	$(call pytest,newest,$(WITHOUT_TORCH),$(CORE_TESTS) tests/processors)

.PHONY: stress fuzz
stress: $(VENVS)/main/package.stamp $(SPEECH) $(SERVERS) fuzz ## the fault suite in its long form, and fuzzing, with a closing table
	$(VENVS)/main/bin/pytest --long -o timeout=3600 -m "not torchcodec" $(FAULTS) $(ARGS)

fuzz: $(VENVS)/main/package.stamp ## the readers of entries and of packs, for FUZZ_SECONDS each
	@$(call UV_INSTALL,main) $(foreach lock,$(call lock_of,$(PYTHON)),--constraint $(lock)) -r setup.cfg --extra fuzz
	$(VENVS)/main/bin/python tests/fuzz_entry.py $(FUZZ_SECONDS)
	$(VENVS)/main/bin/python tests/fuzz_packs.py $(FUZZ_SECONDS)

FUZZ_SECONDS ?= 300

.PHONY: coverage
coverage: $(VENVS)/main/package.stamp $(SPEECH) $(SERVERS) ## which lines the main part runs
	$(VENVS)/main/bin/coverage run $(VENVS)/main/bin/pytest -m "not torchcodec" $(ARGS)
	$(VENVS)/main/bin/coverage report

# Not --quiet: what it does not show, it does not count either.
.PHONY: docs
docs: $(VENVS)/docs/requirements.stamp ## the documentation, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENVS)/docs/bin/mkdocs build --strict
	@echo "site/index.html; with its search: $(PYTHON) -m http.server --directory site"

.PHONY: demo
demo: $(VENVS)/demo/package.stamp ## the main job on real speech, cold and warm
	@$(PYTHON) tests/speech.py || unset HF_AUDIO_CACHE_SPEECH; $(VENVS)/demo/bin/hf-audio-cache demo $(ARGS)

.PHONY: picture
picture: $(VENVS)/demo/package.stamp $(VENVS)/bare/package.stamp ## the README's picture and its figures, from the demo
	@$(PYTHON) tests/speech.py || unset HF_AUDIO_CACHE_SPEECH; $(VENVS)/demo/bin/hf-audio-cache demo --format json > docs/images/demo.json
	@$(VENVS)/bare/bin/python benchmarks/picture.py docs/images/demo.json

# Speed is no test: it fails for a wrong array only. `make bench ARGS="hit epoch --rounds 21 --out FILE.json"`.
.PHONY: bench
bench: $(VENVS)/bench/package.stamp $(SPEECH) ## the benchmarks, beside what one would do instead of caching
	@$(VENVS)/bench/bin/python benchmarks/run.py $(ARGS)

# Resolved without what is there, so that all of it is of today. torch's version is TORCH, above, and what its build
# needs differs from build to build: the CUDA packages are left out.
.PHONY: lock
lock: $(VENVS)/build.stamp ## the newest releases of everything, into locks/
	@for version in 3.10 3.11 3.12 3.13; do \
		printf '%s\n' $(TOOLS:%='%') '$(TWINE)' '$(TORCH)' '$(TORCHCODEC)' | $(compile) --python-version $$version --all-extras - \
		| sed -E '/^(cuda|nvidia|triton|torch)/d' > locks/.new; \
		mv locks/.new locks/python$$version.txt; \
	done
	@printf '%s\n' $(TOOLS:%='%') | $(compile) --python-version 3.10 --extra test --constraint tests/oldest-constraints.txt - > locks/.new
	@mv locks/.new locks/oldest.txt
	@cd locks && npm update --silent --package-lock-only --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved=true > /dev/null
	@wc -l locks/*

compile = $(UV) pip compile --quiet --no-header --no-annotate --no-emit-index-url setup.cfg

.PHONY: dist
dist: $(WHEEL) ## the wheel and the source distribution, in dist/, checked as PyPI would
	@$(call UV_INSTALL,build) $(foreach lock,$(call lock_of,$(PYTHON)),--constraint $(lock)) '$(TWINE)'
	@$(VENVS)/build/bin/twine check --strict dist/*

.PHONY: clean
clean: ## remove all that was made here, environments and fetched speech too
	rm -rf $(VENVS) .servers .speech build dist site *.egg-info .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -r {} +

# What these are made of

$(WHEEL): $(SOURCES) | $(VENVS)/build.stamp
	@rm -rf dist build *.egg-info
	@$(VENVS)/build/bin/python -m build --no-isolation --outdir dist . > $(VENVS)/build/log 2>&1 || { cat $(VENVS)/build/log; exit 1; }
	@rm -rf *.egg-info
	@echo "built $@ and the source distribution"

$(VENVS)/build.stamp: $(LOCKS)
	@[ -x $(VENVS)/build/bin/pip ] || $(PYTHON) -m venv $(VENVS)/build
	@$(VENVS)/build/bin/pip install -qq $(foreach lock,$(call lock_of,$(PYTHON)),--constraint $(lock)) $(TOOLS:%='%')
	@touch $@

$(SPEECH):
	@$(PYTHON) tests/speech.py $@

$(SERVERS): locks/package.json locks/package-lock.json
	@command -v npm > /dev/null || { echo "the tests' object stores need npm: sudo apt-get install npm" >&2; exit 1; }
	@SECONDS=0; mkdir -p .servers; cp $^ .servers; \
	npm ci --silent --ignore-scripts --no-audit --no-fund --prefix .servers > /dev/null; \
	echo ".servers: Azurite, in $$SECONDS s"
	@touch $@

# An environment by its name. Each takes what the package requires when that changes, or the lock; and the wheel when
# that does.
extras = test
python = $(PYTHON)
lock = $(call lock_of,$(python))
$(VENVS)/main/requirements.stamp: extras = test servers model style train
$(VENVS)/main/requirements.stamp: $(VENVS)/main-torch.stamp
$(VENVS)/demo/requirements.stamp: extras =
$(VENVS)/bench/requirements.stamp: extras = test bench
$(VENVS)/bench/requirements.stamp: $(VENVS)/bench-torch.stamp
$(VENVS)/docs/requirements.stamp: extras = docs
$(VENVS)/oldest/requirements.stamp: python = $(call find_python,3.10)
$(VENVS)/oldest/requirements.stamp: lock = locks/oldest.txt
$(VENVS)/newest/requirements.stamp: lock =
$(VENVS)/py3%/requirements.stamp: python = $(call find_python,$(patsubst py3%,3.%,$*))

.PRECIOUS: $(VENVS)/%/requirements.stamp $(VENVS)/%/package.stamp $(VENVS)/%-torch.stamp
$(VENVS)/%/requirements.stamp: setup.cfg $(LOCKS) | $(VENVS)/build.stamp
	@SECONDS=0; \
	$(call make_environment,$(@D)); \
	$(if $(lock),,echo "$(@D): nothing is locked for this Python (locks/): these are the releases of today";) \
	$(call UV_INSTALL,$*) $(lock:%=--constraint=%) $(lock:%=--build-constraint=%) -r setup.cfg $(extras:%=--extra %); \
	echo "$(@D): $$($(@D)/bin/python -V), what the package requires, in $$SECONDS s"
	@touch $@

$(VENVS)/%/package.stamp: $(VENVS)/%/requirements.stamp $(WHEEL)
	@$(call UV_INSTALL,$*) --no-deps --reinstall $(WHEEL)
	@touch $@

# The source folder in the place of the wheel: an edit is there at once.
$(VENVS)/check.stamp: setup.cfg $(LOCKS) | $(VENVS)/build.stamp
	@SECONDS=0; \
	$(call make_environment,$(VENVS)/check); \
	$(call UV_INSTALL,check) $(lock:%=--constraint=%) $(lock:%=--build-constraint=%) --editable '.[test]'; \
	echo "$(VENVS)/check: the source folder, and what it requires, in $$SECONDS s"
	@touch $@

make_environment = [ -x $(1)/bin/python ] || $(UV) venv --quiet --python $(shell $(python) -c 'import sys; print(sys.executable)') $(1)

# torch goes first into an environment, so that nothing brings another build of it.
.PHONY: torch
torch: $(VENVS)/main-torch.stamp ## the main environment, with torch and nothing else yet
$(VENVS)/%-torch.stamp: $(LOCKS) | $(VENVS)/build.stamp
	@$(call make_environment,$(VENVS)/$*)
	@SECONDS=0; \
	pip="$(VENVS)/build/bin/pip --python $(VENVS)/$*/bin/python install -qq $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(lock:%=--constraint=%)"; \
	if $$pip --dry-run --report - | grep '"name": "nvidia-' > /dev/null; then \
		echo "$(VENVS)/$*: pip finds a build of $(TORCH) with CUDA, which is several gigabytes to fetch. Without a GPU, stop here,"; \
		echo "  and call make with TORCH_INDEX=URL, of PyTorch's index of CPU builds (https://pytorch.org/get-started)."; \
	fi; \
	$$pip --no-compile; \
	echo "$(VENVS)/$*: $(TORCH), in $$SECONDS s"
	@touch $@

# Beside the main environment, not in it: the main part runs without torchcodec.
$(VENVS)/codec.stamp: $(LOCKS) | $(VENVS)/main-torch.stamp
	@rm -rf $(VENVS)/codec
	@$(VENVS)/build/bin/pip --python $(VENVS)/main/bin/python install -qq --no-compile --no-deps --target $(VENVS)/codec $(TORCHCODEC)
	@touch $@

# After the speech: two runs of apt at a time get into each other's way.
.PHONY: ffmpeg
ffmpeg: | $(SPEECH)
	@if ! command -v ffmpeg > /dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			SECONDS=0; \
			apt-get -qq update; \
			DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends ffmpeg > /dev/null; \
			echo "FFmpeg, in $$SECONDS s"; \
		else \
			echo "torchcodec needs FFmpeg's libraries: sudo apt-get install --no-install-recommends ffmpeg" >&2; \
			exit 1; \
		fi; \
	fi
