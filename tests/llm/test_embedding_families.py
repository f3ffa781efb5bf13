"""rows(ids) is what each model family puts in for ids, bit for bit: its own multiplier and its own rounding."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import ROWS, WIDTH, assert_same_bits, load_model, own_rows, save_model, tiny_config
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import _SQRT_WIDTH_IF_SET, open_embeddings, scale_of
from vocabkit.llm.language_model import LanguageModel

IDS = torch.tensor([5, 0, 66, 31, 5, 12, 65, 1])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "family", ["qwen2", "llama", "gemma2", "gemma3_text", "granite", "mistral", "minicpm3", "xglm"]
)
def test_rows_are_the_models_own_in_every_dtype(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save_model(tiny_config(family), tmp_path, dtype)
    table = open_embeddings(folder)
    assert (table.num_rows, table.width) == (ROWS, WIDTH)
    assert_same_bits(table.rows(IDS), own_rows(load_model(folder), IDS))


@pytest.mark.parametrize("family", ["bart", "biogpt", "deepseek_v3", "gemma3n_text", "gemma4_text", "lfm2", "mamba"])
def test_rows_are_the_models_own_under_any_table_name(family: str, tmp_path: Path) -> None:
    folder = save_model(tiny_config(family), tmp_path, torch.bfloat16)
    assert_same_bits(open_embeddings(folder).rows(IDS), own_rows(load_model(folder), IDS))


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
def test_rows_are_the_models_own_in_many_shards(family: str, tmp_path: Path) -> None:
    folder = save_model(tiny_config(family), tmp_path, torch.bfloat16, shard_size="6KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert_same_bits(open_embeddings(folder).rows(IDS), own_rows(load_model(folder), IDS))


@pytest.mark.parametrize("tied", [True, False])
def test_input_table_is_read_tied_or_not(tied: bool, tmp_path: Path) -> None:
    folder = save_model(tiny_config("llama", tie_word_embeddings=tied), tmp_path)
    assert_same_bits(open_embeddings(folder).rows(IDS), own_rows(load_model(folder), IDS))


def test_tied_model_saved_with_output_layer_only_is_read(tmp_path: Path) -> None:
    folder = save_model(tiny_config("llama", tie_word_embeddings=True), tmp_path)
    expected = own_rows(load_model(folder), IDS)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert_same_bits(open_embeddings(folder).rows(IDS), expected)


@pytest.mark.parametrize("text", ["gemma3_text", "gemma2", "qwen2", "llama"])
def test_language_model_inside_a_multimodal_model_is_read(text: str, tmp_path: Path) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = transformers.AutoConfig.for_model(
        "gemma3" if text == "gemma3_text" else "llava",
        text_config=tiny_config(text).to_dict(),
        vision_config={**vision, "model_type": "siglip_vision_model" if text == "gemma3_text" else "clip_vision_model"},
    )
    folder = save_model(config, tmp_path, torch.bfloat16, auto=AutoModelForImageTextToText, shard_size="20KB")
    expected = own_rows(load_model(folder, auto=AutoModelForImageTextToText), IDS)
    assert_same_bits(open_embeddings(folder).rows(IDS), expected)


@pytest.mark.parametrize(
    "family",
    ["afmoe", "bloom", "cohere", "exaone4", "falcon_h1", "gemma", "gemma2", "gemma3_text", "glm4", "gpt2", "gpt_neox",
     "granite", "granitemoe", "hyperclovax", "llama", "minicpm3", "mistral", "mpt", "olmo2", "opt", "phi3", "qwen2",
     "qwen3", "recurrent_gemma", "smollm3", "stablelm", "starcoder2", "vaultgemma", "xglm"],
)  # fmt: skip
def test_model_gives_the_same_logits_for_rows_and_ids(family: str, tmp_path: Path) -> None:
    """What counts in the end: wherever a family multiplies, rows given as `inputs_embeds` mean the same as ids."""
    folder = save_model(tiny_config(family), tmp_path, torch.bfloat16)
    model = load_model(folder)
    rows = open_embeddings(folder).rows(IDS)
    with torch.no_grad():
        by_ids = model(input_ids=IDS[None]).logits
        by_rows = model(inputs_embeds=rows[None]).logits
    assert torch.equal(by_rows, by_ids)


class MiniCPMLike(nn.Module):
    """As the published code of MiniCPM: it multiplies in `forward`, but only what it looked up itself."""

    def __init__(self, scale_emb: float, weight: Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(scale_emb=scale_emb)
        self.embed_tokens = nn.Embedding(*weight.shape, dtype=weight.dtype, _weight=weight)

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed_tokens(input_ids) * self.config.scale_emb
        return inputs_embeds.float().cumsum(dim=0)


@pytest.mark.parametrize("scale", [12, 11.3, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_minicpm_rows_are_multiplied(dtype: torch.dtype, scale: float, tmp_path: Path) -> None:
    model = MiniCPMLike(scale, torch.randn(ROWS, WIDTH).to(dtype))
    config = {"model_type": "minicpm", "scale_emb": scale, "torch_dtype": str(dtype).removeprefix("torch.")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.embed_tokens.weight": model.embed_tokens.weight.detach()}, tmp_path / "model.safetensors")
    rows = open_embeddings(tmp_path).rows(IDS)
    assert torch.equal(model(inputs_embeds=rows), model(input_ids=IDS))


@pytest.mark.parametrize("family", ["gemma3_text", "llama", "xglm"])
def test_other_dtype_is_rounded_as_on_loading(family: str, tmp_path: Path) -> None:
    folder = save_model(tiny_config(family), tmp_path, torch.float32)
    table = open_embeddings(folder, dtype=torch.bfloat16)
    assert table.dtype == torch.bfloat16
    assert_same_bits(table.rows(IDS), own_rows(load_model(folder, dtype=torch.bfloat16), IDS))


@pytest.mark.parametrize("said", ["bfloat16", None])
def test_dtype_is_that_of_the_config_or_the_weights(said: str | None, tmp_path: Path) -> None:
    folder = save_model(tiny_config("gemma2"), tmp_path, torch.float16)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": said}))
    table = open_embeddings(folder)
    assert table.dtype == (torch.bfloat16 if said else torch.float16)
    assert_same_bits(table.rows(IDS), own_rows(load_model(folder), IDS))


# ---- no family is forgotten --------------------------------------------------------------------------------------


def families_with_own_embedding_modules() -> list[str]:
    """The text models of all folders of transformers where a word embedding does more than look up."""
    families = []
    for code in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
        text = code.read_text("utf-8")
        if "(nn.Embedding)" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.ClassDef)
                and any(ast.unparse(base) == "nn.Embedding" for base in node.bases)
                and re.search(r"(Scaled|Normed|Word)\w*Embedding$", node.name)
            ):
                configuration = code.with_name(code.name.replace("modeling_", "configuration_")).read_text("utf-8")
                families += re.findall(r'^    model_type(?:: str)? = "([\w-]+)"', configuration, re.MULTILINE)
    return [family for family in dict.fromkeys(families) if not re.search(r"vision|audio", family)]


def test_transformers_still_has_such_families() -> None:
    assert {"gemma2", "gemma3_text", "gemma3n_text", "minicpm3", "bart"} <= set(families_with_own_embedding_modules())


@pytest.mark.parametrize("family", families_with_own_embedding_modules())
def test_families_with_own_embedding_modules_are_listed(family: str) -> None:
    model = LanguageModel("config.json", family, {"scale_embedding": True, "scale_emb": 12}, None, tied=False)
    try:
        assert scale_of(model, WIDTH) is not None
    except VocabkitError as error:
        assert "not supported" in str(error)  # noqa: PT017  either is right, a plain table is not


@pytest.mark.parametrize(
    "values",
    [{"embedding_multiplier": 12.0}, {"scale_emb": 3}, {"embed_scale": 0.5}, {"mup_embedding_multiplier": 10},
     {"scale_embedding": True}, {"mup_enabled": True}, {"embeddings_scaling": 1.5}],
)  # fmt: skip
def test_unknown_family_with_a_multiplier_raises(values: dict[str, float]) -> None:
    with pytest.raises(VocabkitError, match=r"'newcomer' is not known and its '\w+' may multiply"):
        scale_of(LanguageModel("config.json", "newcomer", values, None, tied=False), WIDTH)


@pytest.mark.parametrize(
    "values",
    [{}, {"embedding_multiplier": 1.0}, {"embed_scale": None}, {"scale_embedding": False}, {"pos_embed_rescale": 2.0},
     {"tie_word_embeddings": True, "max_position_embeddings": 4096, "rope_scaling": {"factor": 8}}],
)  # fmt: skip
def test_unknown_family_without_a_multiplier_is_plain(values: dict[str, object]) -> None:
    assert scale_of(LanguageModel("config.json", "newcomer", values, None, tied=False), WIDTH) is None


def test_family_that_multiplies_if_told_to_must_be_told() -> None:
    for family in _SQRT_WIDTH_IF_SET:
        with pytest.raises(VocabkitError, match="doesn't say `scale_embedding`, which a model of type"):
            scale_of(LanguageModel("config.json", family, {}, None, tied=False), WIDTH)


def test_unknown_gemma_raises() -> None:
    with pytest.raises(VocabkitError, match="'gemma9' is not known"):
        scale_of(LanguageModel("config.json", "gemma9", {}, None, tied=False), WIDTH)


@pytest.mark.parametrize("factor", [True, "12", None, float("nan")])
def test_invalid_multiplier_raises(factor: object) -> None:
    with pytest.raises(VocabkitError, match=r"scale_emb is '\S+', expected a number"):
        scale_of(LanguageModel("config.json", "minicpm", {"scale_emb": factor}, None, tied=False), WIDTH)
