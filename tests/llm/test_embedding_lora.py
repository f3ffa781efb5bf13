"""Embedding tables that LoRA weights of peft changed: the merged model's rows, bit for bit, wherever they are read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_models import byte_tokenizer
from tiny_models import ROWS, assert_same_bits, load_model, own_rows, save_model, tiny_config

from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.llm.load import llm_folder, quiet_transformers
from vocabkit.llm.load import load_model as load_with_lora
from vocabkit.tokenizer.catalog import resolve

IDS = torch.tensor([5, 0, 66, 31, 5, 12, 65, 1])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Peft warns about tied embeddings, and about saving them."""
    with quiet_transformers(), warnings.catch_warnings(action="ignore"):
        yield


def lora(base: Path, folder: Path, config: Any, *, rows: int | None = None, **options: Any) -> PeftModel:
    """Save random weights of peft for the LLM in `base` to `folder`, and return the trained model, unmerged."""
    torch.manual_seed(1)
    model = load_model(base)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    trained = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape) * (0.3 if "lora" in name else 0.02)
                parameter.copy_(parameter.float().abs() + 0.1 if "magnitude" in name else noise)
    trained.save_pretrained(folder, **options)
    return trained.eval()


def merged_rows(base: Path, folder: Path, rows: int | None = None) -> torch.Tensor:
    """What peft's merged model looks up."""
    model = load_model(base)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return own_rows(merged, IDS)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS[None]).logits.float()


QV = ["q_proj", "v_proj"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "embed_tokens saved": lambda: LoraConfig(r=2, target_modules=QV, modules_to_save=["embed_tokens"]),
    "both saved": lambda: LoraConfig(r=2, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"]),
    "lm_head saved": lambda: LoraConfig(r=2, target_modules=QV, modules_to_save=["lm_head"]),
    "no embeddings": lambda: LoraConfig(r=2, target_modules=QV),
    "LoRA": lambda: LoraConfig(r=3, lora_alpha=7, target_modules=[*QV, "embed_tokens"]),
    "rslora": lambda: LoraConfig(r=3, lora_alpha=7, target_modules=["embed_tokens"], use_rslora=True),
    "patterns": lambda: LoraConfig(
        r=3, target_modules=[*QV, "embed_tokens"], rank_pattern={"embed_tokens": 5}, alpha_pattern={"embed_.*": 11}
    ),
    "DoRA": lambda: LoraConfig(r=3, target_modules=["embed_tokens"], use_dora=True),
    "LoRA on both": lambda: LoraConfig(r=3, target_modules=["embed_tokens", "lm_head"]),
    "LoRA on lm_head": lambda: LoraConfig(r=3, target_modules=["lm_head"]),
    "tokens": lambda: LoraConfig(r=2, target_modules=QV, trainable_token_indices=[5, 66, 3]),
    "tokens by module": lambda: LoraConfig(
        r=2, target_modules=QV, trainable_token_indices={"embed_tokens": [5, 66, 3]}
    ),
    "tokens alone": lambda: TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[5, 66, 3]),
}
CHANGED = CONFIGS.keys() - {"lm_head saved", "no embeddings", "LoRA on lm_head"}


def llm(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
    """A Llama with an output layer of its own, or a Gemma, whose output layer is tied and whose rows are multiplied."""
    save_model(tiny_config(family, tie_word_embeddings=family != "llama"), folder, dtype)
    byte_tokenizer().save_pretrained(folder)
    return folder


ON_TIED_HEAD = {"LoRA on both", "LoRA on lm_head"}
"""What peft merges into the table as well, though in training it was on the output layer alone."""


FAMILIES = ("llama", "gemma3_text")
HALF = [
    (how, family, (torch.float32, torch.bfloat16)[(at + of) % 2])
    for at, how in enumerate(CONFIGS)
    for of, family in enumerate(FAMILIES)
]
"""Each change with each family, in alternate dtypes."""


@pytest.mark.parametrize(("how", "family", "dtype"), HALF, ids=str)
def test_rows_are_those_of_the_merged_model(how: str, family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = llm(tmp_path / "base", family, dtype)
    trained = lora(base, tmp_path / "lora", CONFIGS[how]())
    opened = open_embeddings(tmp_path / "lora")
    rows = opened.rows(IDS)
    assert opened.source.endswith(" with lora") == (how in CHANGED)
    if family == "llama" or (
        "lm_head" not in how and "both" not in how
    ):  # peft merges what is on a tied head into both
        assert_same_bits(rows, merged_rows(base, tmp_path / "lora"))
    assert torch.equal(rows, open_embeddings(base).rows(IDS)) == (how not in CHANGED)
    # the LLM as it is loaded for inference, and as it is exported
    loaded, _ = load_with_lora(str(tmp_path / "lora"), "auto")
    with llm_folder(str(tmp_path / "lora")) as folder:
        exported = load_model(folder)
        assert_same_bits(open_embeddings(folder).rows(IDS), rows)
    for model in (loaded, exported):
        assert_same_bits(own_rows(model, IDS), rows)
        if dtype == torch.float32:  # peft adds bfloat16 weights in another order when they are not merged
            torch.testing.assert_close(logits(model), logits(trained), atol=1e-5, rtol=1e-5)


def test_rows_are_merged_in_the_dtype_of_the_llm_whatever_it_runs_in(tmp_path: Path) -> None:
    base = llm(tmp_path / "base", dtype=torch.bfloat16)
    lora(base, tmp_path / "lora", CONFIGS["LoRA"]())
    wide, _ = load_with_lora(str(tmp_path / "lora"), torch.float32)
    assert_same_bits(own_rows(wide, IDS), open_embeddings(tmp_path / "lora").rows(IDS).float())


RESIZED = {
    "saved by the user": lambda: LoraConfig(r=2, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"]),
    "saved by peft": lambda: LoraConfig(r=2, target_modules=QV),
    "LoRA": lambda: LoraConfig(r=2, target_modules=[*QV, "embed_tokens"]),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", RESIZED)
def test_table_that_was_resized_for_new_tokens_has_all_rows(how: str, family: str, tmp_path: Path) -> None:
    base = llm(tmp_path / "base", family)
    trained = lora(base, tmp_path / "lora", RESIZED[how](), rows=ROWS + 3)
    table = open_embeddings(tmp_path / "lora")
    ids = torch.tensor([ROWS + 2, 3, ROWS])
    assert table.num_rows == ROWS + 3
    with llm_folder(str(tmp_path / "lora")) as folder:
        exported = load_model(folder)
    assert exported.config.vocab_size == ROWS + 3
    assert_same_bits(table.rows(ids), own_rows(exported, ids))
    known = ROWS if (how, family) == ("LoRA", "llama") else ROWS + 3  # peft saves no new rows of the output layer then
    torch.testing.assert_close(logits(exported)[..., :known], logits(trained)[..., :known], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(table.rows(ids), own_rows(trained, ids))


@pytest.mark.parametrize("how", ["LoRA", "DoRA", "tokens", "embed_tokens saved"])
def test_file_of_torch_save_and_names_with_the_adapters_name_are_read(how: str, tmp_path: Path) -> None:
    base = llm(tmp_path / "base")
    lora(base, tmp_path / "lora", CONFIGS[how]())
    expected = open_embeddings(tmp_path / "lora").rows(IDS)
    file = tmp_path / "lora/adapter_model.safetensors"
    named = {"lora_embedding_A", "lora_embedding_B", "trainable_tokens_delta"}
    tensors = {
        f"{name}.default" if name.rpartition(".")[2] in named else name: tensor.clone()
        for name, tensor in load_file(file).items()
    }
    file.unlink()
    torch.save(tensors, tmp_path / "lora/adapter_model.bin")
    assert_same_bits(open_embeddings(tmp_path / "lora").rows(IDS), expected)


def test_lora_weights_on_lora_weights_are_merged_one_after_the_other(tmp_path: Path) -> None:
    base = llm(tmp_path / "base")
    lora(base, tmp_path / "first", CONFIGS["LoRA"]())
    with llm_folder(str(tmp_path / "first")) as folder:
        lora(folder, tmp_path / "second", CONFIGS["tokens"]())
        expected = merged_rows(folder, tmp_path / "second")
    config = json.loads((tmp_path / "second/adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"mine={tmp_path / 'first'}"
    (tmp_path / "second/adapter_config.json").write_text(json.dumps(config))
    assert_same_bits(open_embeddings(tmp_path / "second").rows(IDS), expected)
    assert_same_bits(own_rows(load_with_lora(str(tmp_path / "second"), "auto")[0], IDS), expected)


def test_only_the_tokenizer_of_the_llm_is_taken_if_the_weights_have_none(tmp_path: Path) -> None:
    base = llm(tmp_path / "base")
    lora(base, tmp_path / "lora", CONFIGS["LoRA"]())
    assert resolve(f"mine={tmp_path / 'lora'}").vocabulary.fingerprint == resolve(str(base)).vocabulary.fingerprint
    byte_tokenizer(image_token=True).save_pretrained(tmp_path / "lora")
    assert b"<image>" in resolve(f"mine={tmp_path / 'lora'}").vocabulary.tokens.to_pylist()
    assert len(load_with_lora(str(tmp_path / "lora"), "auto")[1]) == len(byte_tokenizer(image_token=True))


# ---- what is not known is refused by name ------------------------------------------------------------------------

KEY = "base_model.model.model.embed_tokens"
A, B = torch.ones(2, ROWS), torch.ones(32, 2)


@pytest.mark.parametrize(
    ("tensors", "config", "says"),
    [
        ({f"{KEY}.hada_w1_a": A}, {}, f"'{KEY}.hada_w1_a' may change the embedding table in an unknown way; merge"),
        ({"base_model.model.brain.lora_embedding_A": A}, {}, "'base_model.model.brain.lora_embedding_A' may change"),
        ({f"{KEY}.lora_embedding_A": A}, {}, f"has '{KEY}.lora_embedding_A': an unknown change; merge"),
        ({f"{KEY}.lora_embedding_A": A, f"{KEY}.lora_embedding_B": B[:7]}, {}, "LoRA of (7, 2) x (2, 67) does not fit"),
        ({f"{KEY}.lora_embedding_A": A[:, 1:], f"{KEY}.lora_embedding_B": B}, {}, "LoRA of (32, 2) x (2, 66) does not"),
        ({f"{KEY}.lora_embedding_A": A, f"{KEY}.lora_embedding_B": B}, {"alora_invocation_tokens": [3]}, "'alora_inv"),
        ({f"{KEY}.lora_embedding_A": A, f"{KEY}.lora_embedding_B": B}, {"ensure_weight_tying": True}, "'ensure_weight"),
        ({f"{KEY}.lora_embedding_A": A, f"{KEY}.lora_embedding_B": B}, {"peft_type": "VERA"}, "'peft_type VERA'"),
        (
            {f"{KEY}.lora_embedding_A": A, f"{KEY}.lora_embedding_B": B},
            {"lora_alpha": None},
            "no number for lora_alpha",
        ),
        (
            {f"{KEY}.lora_embedding_A": A, f"{KEY}.lora_embedding_B": B},
            {"alpha_pattern": {"(": 3}},
            "no number for lora_alpha",
        ),
        ({f"{KEY}.token_adapter.trainable_tokens_delta": B.T}, {}, "does not say which tokens were trained"),
        (
            {f"{KEY}.token_adapter.trainable_tokens_delta": B.T},
            {"trainable_token_indices": [3, 67]},
            "(2, 32) trained rows for 2 tokens do not fit an embedding table of 67 x 32",
        ),
        ({f"{KEY}.weight": torch.empty(0)}, {}, f"'{KEY}.weight' is empty: saved under DeepSpeed ZeRO-3"),
        ({f"{KEY}.weight": torch.ones(ROWS, 32).int()}, {}, f"'{KEY}.weight' is stored as torch.int32"),
        (
            {
                f"{KEY}.weight": torch.ones(ROWS, 32),
                "base_model.model.model.decoder.embed_tokens.weight": torch.ones(9, 32),
            },
            {},
            "two embedding tables",
        ),
        (
            {"base_model.model.lm_head.weight": torch.ones(ROWS, 32)},
            {"ensure_weight_tying": True},
            "trains an output layer with embeddings tied to it; merge",
        ),
    ],
)
def test_unknown_change_of_the_table_raises(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    base = llm(tmp_path / "base")
    (tmp_path / "lora").mkdir()
    values = {"peft_type": "LORA", "lora_alpha": 4, "base_model_name_or_path": str(base)} | config
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps(values))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "lora/adapter_model.safetensors"
    )
    with pytest.raises(VocabkitError) as caught:
        open_embeddings(tmp_path / "lora")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "damaged, not JSON"),
        ("[]", "not the config of LoRA weights"),
        ('{"base_model_name_or_path": null}', "names no LLM"),
        ('{"base_model_name_or_path": "nowhere"}', "'nowhere': not found"),
        ('{"base_model_name_or_path": "BASE"}', "no adapter_model.safetensors beside it"),
    ],
)
def test_damaged_lora_folder_raises(config: str, says: str, tmp_path: Path) -> None:
    base = llm(tmp_path / "base")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text(config.replace("BASE", str(base)))
    with pytest.raises(VocabkitError, match=says):
        open_embeddings(tmp_path / "lora")
