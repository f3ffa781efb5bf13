"""Which tensor is the embedding table: told by its name, never guessed."""

from __future__ import annotations

import pytest

from vocabkit.errors import VocabkitError
from vocabkit.llm.weight_files import LanguageModel, embedding_name

OTHERS = [
    "lm_head.weight",
    "model.norm.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.61.embed_tokens.weight",  # DeepSeek-V3's further prediction head
    "model.language_model.embed_tokens_per_layer.weight",  # Gemma 3n
    "model.embed_vision.embedding.weight",
    "model.vision_tower.vision_model.embeddings.position_embedding.weight",
    "vision_tower.vision_model.embeddings.patch_embedding.weight",
    "transformer.wpe.weight",
    "talker.model.embed_tokens.weight",
    "model.embed_positions.weight",
]


def model(*, tied: bool = False) -> LanguageModel:
    """Of an unknown family."""
    return LanguageModel("config.json", "llama", {}, None, tied)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "embed_tokens.weight",
        "transformer.wte.weight",
        "wte.weight",
        "gpt_neox.embed_in.weight",
        "transformer.word_embeddings.weight",
        "language_model.model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "model.tok_embeddings.weight",
        "backbone.embeddings.weight",
        "thinker.model.embed_tokens.weight",
        "llm.model.embed_tokens.weight",
        "transformer.embedding.word_embeddings.weight",
        "tok_embeddings.weight",
    ],
)
def test_names_of_all_families_are_found(name: str) -> None:
    assert embedding_name([*OTHERS, name], model(), "file") == name


def test_tied_output_layer_is_the_table() -> None:
    assert embedding_name(OTHERS, model(tied=True), "file") == "lm_head.weight"


def test_untied_output_layer_is_not_the_table() -> None:
    with pytest.raises(
        VocabkitError, match=r"no tensor is named like the embedding table of a model of type llama \(it has"
    ):
        embedding_name(OTHERS, model(), "file")


def test_several_candidates_raise() -> None:
    names = ["model.embed_tokens.weight", "language_model.model.embed_tokens.weight"]
    with pytest.raises(
        VocabkitError, match=r"several tensors look like .*'language_model.*', 'model\.embed_tokens\.weight'"
    ):
        embedding_name([*OTHERS, *names], model(), "file")


def test_no_candidate_lists_the_tensors() -> None:
    with pytest.raises(VocabkitError, match=r"it has 'classifier\.bias'"):
        embedding_name(["classifier.bias"], model(), "file")
    with pytest.raises(VocabkitError, match="it has none"):
        embedding_name([], model(), "file")


@pytest.mark.parametrize(
    ("family", "values", "is_encoder"),
    [
        ("bert", {}, True),
        ("xlm-roberta", {"architectures": ["XLMRobertaForSequenceClassification"]}, True),
        ("unheard-of", {"architectures": ["UnheardOfForMaskedLM"]}, True),
        ("nomic_bert", {}, True),
        ("bert", {"is_decoder": True, "architectures": ["BertLMHeadModel"]}, False),
        ("modernbert-decoder", {"architectures": ["ModernBertDecoderForCausalLM"]}, False),
        ("llama", {"architectures": ["LlamaForCausalLM"]}, False),
        ("llama", {"architectures": "damaged"}, False),
        ("bart", {"architectures": ["BartForConditionalGeneration"]}, False),
    ],
)
def test_encoders_are_recognised(family: str, values: dict[str, object], is_encoder: bool) -> None:
    assert LanguageModel("config.json", family, values, None, tied=False).is_encoder == is_encoder
