"""Which tensor is the embedding table: told by its name, or by role and size, or by the user; never guessed."""

from __future__ import annotations

import pytest

from vocabkit.errors import VocabkitError
from vocabkit.llm.embedding_names import embedding_name
from vocabkit.llm.language_model import LanguageModel

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
        "language.model.embed_tokens.weight",  # DeepSeek-VL2
        "vlm.lang_model.model.embed_tokens.weight",  # xgen-mm
        "model.transformer.wte.embedding",  # Molmo
        "transformer.token_embeddings.weight",  # OpenELM
        "text_model.transformer.embd.wte.weight",  # moondream1
        "model.text.wte",  # moondream2
        "transformer.embd.wte.weight",  # Phi-2 as first published
        "layers.0.wte.weight",  # Phi-1.5 as first published
        "module.model.embed_tokens.weight",
        "_orig_mod.model.embed_tokens.weight",
        "_forward_module.model._orig_mod.embed_tokens.weight",
        "_fsdp_wrapped_module.model._fsdp_wrapped_module.embed_tokens.weight",
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.model.embed_tokens.modules_to_save.default.weight",
        "module.base_model.model.transformer.wte.modules_to_save.mine.weight",
    ],
)
def test_names_of_all_families_are_found(name: str) -> None:
    assert embedding_name([*OTHERS, name], model(), "file") == name


NEW = [  # further rows of Molmo, xgen-mm and Idefics, and what peft keeps of the table before its training
    "model.transformer.wte.new_embedding",
    "vlm.lang_model.model.embed_tokens.additional_embedding.weight",
    "base_model.model.model.embed_tokens.original_module.weight",
]


def test_rows_beside_the_table_are_not_the_table() -> None:
    with pytest.raises(VocabkitError, match="no tensor is named like"):
        embedding_name([*OTHERS, *NEW], model(), "file")


def test_table_under_an_unforeseen_name_is_told_by_its_role_and_size() -> None:
    config = LanguageModel("config.json", "llama", {"vocab_size": 67, "d_model": 32}, None, tied=False)
    shapes = dict.fromkeys(OTHERS, (67, 31)) | {"brain.tokenEmbedder.weight": (67, 32), "brain.out.weight": (67, 32)}
    assert embedding_name(shapes, config, "file", shapes.get) == "brain.tokenEmbedder.weight"
    for shape in ((66, 32), (32, 67), (67, 31), (67, 32, 1)):
        wrong = shapes | {"brain.tokenEmbedder.weight": shape}
        with pytest.raises(VocabkitError, match=r"no tensor is named like.*; name it: `embedding_tensor`"):
            embedding_name(wrong, config, "file", wrong.get)
    with pytest.raises(VocabkitError, match=r"several tensors look like.*'brain.emb', 'brain.tokenEmbedder.weight'"):
        embedding_name([*shapes, "brain.emb"], config, "file", (shapes | {"brain.emb": (67, 32)}).get)


@pytest.mark.parametrize("wanted", ["module.brain.rows", "brain.rows"])
def test_table_that_the_user_names_is_taken(wanted: str) -> None:
    names = [*OTHERS, "model.embed_tokens.weight", "module.brain.rows"]
    assert embedding_name(names, model(), "file", wanted=wanted) == "module.brain.rows"


def test_wrong_name_lists_the_tensors_of_the_right_height() -> None:
    shapes = {"brain.rows": (70, 8), "brain.emb": (67, 8), "lm_head.weight": (67, 8), "out.bias": (67,), "big": (99, 8)}
    config = LanguageModel("config.json", "llama", {"vocab_size": 67}, None, tied=False)
    with pytest.raises(VocabkitError) as caught:
        embedding_name(shapes, config, "file", shapes.get, "brain.row")
    listed = "'brain.emb (67 x 8)', 'lm_head.weight (67 x 8)'"
    assert str(caught.value) == f"file: no tensor 'brain.row' in it; tensors of 67 rows are {listed}"
    with pytest.raises(VocabkitError, match=r"tensors of 99 rows are 'big \(99 x 8\)'$"):
        embedding_name(shapes, model(), "file", shapes.get, "brain.row")
    other = LanguageModel("config.json", "llama", {"vocab_size": 66}, None, tied=False)
    with pytest.raises(VocabkitError, match=r"no matrix has 66 rows$"):
        embedding_name(shapes, other, "file", shapes.get, "brain.row")


def test_name_that_fits_several_tensors_raises() -> None:
    with pytest.raises(
        VocabkitError, match=r"'a.rows' may be '_orig_mod.a.rows', 'module.a.rows'; give the whole name"
    ):
        embedding_name(["module.a.rows", "_orig_mod.a.rows"], model(), "file", wanted="a.rows")


def test_unmerged_lora_on_the_table_raises() -> None:
    names = [
        "base_model.model.model.embed_tokens." + name for name in ("base_layer.weight", "lora_embedding_A.default")
    ]
    with pytest.raises(VocabkitError, match=r"'base_model\.\S+base_layer\.weight' has LoRA weights beside it; merge"):
        embedding_name(names, model(), "file")


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
