"""Import of the published layout, `mm_projector.bin`, and the way back to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_adapters import HIDDEN, ROWS, VISION, WIDTH, assert_same_state, langbridge, normal, projector
from tiny_llms import target
from torch import Tensor
from vision_models import clip

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.adapter.partners import check_encoder
from vocabkit.errors import VocabkitError
from vocabkit.shared.maps import import_map
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.spelling import to_alphabet
from vocabkit.transfer.fold import fold
from vocabkit.transfer.published import import_published, to_published
from vocabkit.transfer.transfer import transfer
from vocabkit.vision.encoder import open_vision

PREFIXES = ["mm_projector.", "model.mm_projector.", "base_model.model.model.mm_projector."]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedVocabulary:
    """An index map in the published layout, of 64 Qwen2 tokens in an order of its own, imported with LLaMA3."""
    qwen, llama = resolve("qwen2").vocabulary, resolve("llama3").vocabulary
    ids = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:ROWS].tolist()
    path = tmp_path_factory.mktemp("published") / "64_Qwen_sub_llava_share_intersect_llama_qwen.json"
    path.write_text(json.dumps({to_alphabet(qwen.token(i)): i for i in ids}))
    return import_map(path, qwen, [llama])


def published(prefix: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A synthetic checkpoint, keyed as LangBridge's training code keys it."""
    shapes = {"0": (HIDDEN, VISION), "2": (HIDDEN, HIDDEN), "3": (ROWS, HIDDEN)}
    weights = {f"{prefix}{layer}.weight": normal(*shape, seed=int(layer)) for layer, shape in shapes.items()}
    biases = {f"{prefix}{layer}.bias": normal(shape[0], seed=9) for layer, shape in shapes.items()}
    return {name: tensor.to(dtype) for name, tensor in (weights | biases).items()}


def written(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "mm_projector.bin")
    return folder / "mm_projector.bin"


def refusal(weights: Path, shared: SharedVocabulary, llm: str = "qwen2") -> str:
    with pytest.raises(VocabkitError) as caught:
        import_published(weights, shared, llm)
    message = str(caught.value)
    assert "\n" not in message
    assert str(weights) in message
    return message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_published_layers_are_imported_bit_for_bit(
    tmp_path: Path, shared: SharedVocabulary, prefix: str, dtype: torch.dtype
) -> None:
    content = published(prefix, dtype)
    adapter = import_published(written(tmp_path, content), shared, "qwen2")
    assert adapter.config.head == "linear"
    assert (adapter.config.vision_width, adapter.config.hidden_width, adapter.config.rows) == (VISION, HIDDEN, ROWS)
    for layer, name in (("0", "linear_1"), ("2", "linear_2"), ("3", "head")):
        for part in ("weight", "bias"):
            found = adapter.state_dict()[f"{name}.{part}"]
            assert found.dtype == dtype
            assert torch.equal(found, content[f"{prefix}{layer}.{part}"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, shared: SharedVocabulary) -> LangBridgeAdapter:
    """What the layers are without anything around them."""
    return import_published(written(tmp_path_factory.mktemp("bare"), published("mm_projector.")), shared, "qwen2")


WRAPPED = {
    "DataParallel": "module.model.mm_projector.",
    "torch.compile": "_orig_mod.model.mm_projector.",
    "compiled projector": "model.mm_projector._orig_mod.",
    "FSDP": "model._fsdp_wrapped_module.mm_projector._fsdp_wrapped_module.",
    "peft": "base_model.model.model.mm_projector.modules_to_save.default.",
    "all at once": "module._orig_mod.base_model.model.model.mm_projector.",
    "transformers": "multi_modal_projector.",
    "transformers 5": "model.multi_modal_projector.",
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_wrappers_and_their_names_make_no_difference(
    tmp_path: Path, shared: SharedVocabulary, bare: LangBridgeAdapter, wrapped: str
) -> None:
    content = published(WRAPPED[wrapped])
    if "transformers" in wrapped:
        content = {key.replace(".0.", ".linear_1.").replace(".2.", ".linear_2."): t for key, t in content.items()}
    if wrapped == "peft":  # keeps the projector from before the training too
        content |= published("base_model.model.model.mm_projector.original_module.", torch.float16)
    assert_same_state(import_published(written(tmp_path, content), shared, "qwen2"), bare)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_state_dict_inside_a_checkpoint_is_found(
    tmp_path: Path, shared: SharedVocabulary, bare: LangBridgeAdapter, key: str
) -> None:
    checkpoint = {"epoch": 3, key: published("mm_projector."), "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    assert_same_state(import_published(written(tmp_path, checkpoint), shared, "qwen2"), bare)


@pytest.mark.parametrize("name", ["non_lora_trainables.bin", "adapter_model.safetensors", "adapter_model.bin"])
def test_folder_of_lora_weights_is_taken(
    tmp_path: Path, shared: SharedVocabulary, bare: LangBridgeAdapter, name: str
) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    lora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 4)}
    save_file(lora, folder / "adapter_model.safetensors")
    content = {**lora, **published("base_model.model.model.mm_projector.")}
    (save_file if name.endswith(".safetensors") else torch.save)(content, folder / name)
    assert_same_state(import_published(folder, shared, "qwen2"), bare)
    (folder / name).unlink()
    save_file(lora, folder / "adapter_model.safetensors")
    assert "no mm_projector layers in it" in refusal(folder, shared)


def test_lora_weights_of_the_projector_raise(tmp_path: Path, shared: SharedVocabulary) -> None:
    lora = {"base_model.model.model.mm_projector.0.lora_A.weight": torch.ones(2, 4)}
    message = refusal(written(tmp_path, published("mm_projector.") | lora), shared)
    assert "'base_model.model.model.mm_projector.0.lora_A.weight' is a LoRA weight of the projector" in message


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"0.weight": torch.empty(0)}, "0.weight' is empty: saved under DeepSpeed ZeRO-3"),
        (
            {"0.weight": torch.ones(99, 1).byte(), "0.weight.quant_map": torch.ones(16)},
            "0.weight' is quantised to 4 bits by bitsandbytes",
        ),
        ({"2.weight": torch.ones(99, 1).byte()}, "2.weight' is quantised to 4 bits by bitsandbytes"),
        (
            {"2.weight": torch.ones(HIDDEN, HIDDEN).char(), "2.SCB": torch.ones(HIDDEN)},
            "2.weight' is quantised to 8 bits by bitsandbytes",
        ),
        ({"2.weight": torch.ones(HIDDEN, HIDDEN).int()}, "2.weight' is not a dense tensor of 16, 32 or 64-bit floats"),
    ],
)
def test_weights_without_their_numbers_raise_under_their_own_key(
    tmp_path: Path, shared: SharedVocabulary, suffix: str, change: dict[str, Tensor], words: str
) -> None:
    prefix = "module.base_model.model.model.mm_projector."
    content = published(prefix) | {prefix + key: tensor for key, tensor in change.items()}
    file = tmp_path / f"mm_projector{suffix}"
    (torch.save if suffix == ".bin" else save_file)(content, file)
    assert f"'{prefix}{words}" in refusal(file, shared)


@pytest.mark.parametrize(("select", "keeps"), [("patch", False), ("cls_patch", True), (None, None)])
def test_features_follow_the_config_beside_the_weights(
    tmp_path: Path, shared: SharedVocabulary, select: str | None, keeps: bool | None
) -> None:
    config = {"mm_vision_tower": "openai/clip", "mm_vision_select_layer": -3, "mm_vision_select_feature": select}
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = written(tmp_path, published("mm_projector."))
    for weights in (file, tmp_path):
        found = import_published(weights, shared, "qwen2").config
        assert (found.vision_model, found.vision_layer, found.vision_keep_cls) == ("openai/clip", -3, keeps)
    told = import_published(file, shared, "qwen2", vision="mine", layer=-2).config
    assert (told.vision_model, told.vision_layer) == ("mine", -2)


@pytest.mark.parametrize("said", [{"unfreeze_mm_vision_tower": True}, {"mm_tunable_parts": "mm_vision_tower"}])
def test_vision_model_that_was_trained_is_not_the_one_that_is_named(
    tmp_path: Path, shared: SharedVocabulary, said: dict[str, Any]
) -> None:
    config = {"mm_vision_tower": "openai/clip", "mm_vision_select_layer": -3} | said
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = written(tmp_path, published("mm_projector."))
    assert f"its vision model was trained with the projector ({next(iter(said))})" in refusal(file, shared)
    assert import_published(file, shared, "qwen2", vision="mine").config.vision_model == "mine"


def test_vision_model_in_a_folder_is_recorded_by_its_fingerprint(tmp_path: Path, shared: SharedVocabulary) -> None:
    vision = clip(tmp_path / "vision")
    content = published("mm_projector.")
    file = written(tmp_path, content)
    with pytest.raises(VocabkitError, match="vision: gives features of width 32, but the adapter takes 7"):
        import_published(file, shared, "qwen2", vision=str(vision))
    content["mm_projector.0.weight"] = normal(HIDDEN, 32)
    config = import_published(written(tmp_path, content), shared, "qwen2", vision=str(vision), layer=-1).config
    assert config.vision_fingerprint == open_vision(vision).info["fingerprint"]
    check_encoder(config, open_vision(vision, layer=-1).info, vision)


def test_config_of_another_program_is_ignored(tmp_path: Path, shared: SharedVocabulary) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"mm_vision_tower": ["clip"], "model_type": "llama"}))
    found = import_published(written(tmp_path, published("mm_projector.")), shared, "qwen2").config
    assert (found.vision_model, found.vision_layer, found.vision_keep_cls) == (None, None, None)


def test_imported_adapter_equals_the_published_module(tmp_path: Path, shared: SharedVocabulary) -> None:
    content = published("mm_projector.")
    module = torch.nn.Sequential(
        torch.nn.Linear(VISION, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.Linear(HIDDEN, ROWS)
    )
    module.load_state_dict({name.removeprefix("mm_projector."): tensor for name, tensor in content.items()})
    features, embeddings = normal(4, VISION, seed=4), normal(ROWS, WIDTH, seed=5)
    adapter = import_published(written(tmp_path, content), shared, "qwen2")
    torch.testing.assert_close(adapter(features, embeddings), module(features) @ embeddings)


def test_imported_adapter_round_trips(tmp_path: Path, shared: SharedVocabulary) -> None:
    adapter = import_published(written(tmp_path, published("model.mm_projector.", torch.bfloat16)), shared, "qwen2")
    adapter.save(tmp_path / "adapter.pt")
    found = load_adapter(tmp_path / "adapter.pt")
    assert_same_state(found, adapter)
    assert isinstance(found, LangBridgeAdapter)
    assert found.shared.ids_for("llama3").tolist() == shared.ids_for("llama3").tolist()


def test_tensors_of_other_modules_are_ignored(tmp_path: Path, shared: SharedVocabulary) -> None:
    content = published("model.mm_projector.") | {"model.embed_tokens.weight": torch.full((3, 3), torch.nan)}
    found = import_published(written(tmp_path, content), shared, "qwen2").state_dict()
    assert sorted(map(float, (tensor.sum() for tensor in found.values()))) == sorted(
        float(tensor.sum()) for name, tensor in content.items() if "mm_projector" in name
    )


def test_sharded_checkpoint_gives_its_projector(tmp_path: Path, shared: SharedVocabulary) -> None:
    content = published("model.mm_projector.", torch.bfloat16)
    folder = checkpoint(tmp_path, content)
    adapter = import_published(folder, shared, "qwen2")
    assert_same_state(adapter, import_published(written(tmp_path, content), shared, "qwen2"))
    assert_same_state(import_published(folder / "model.safetensors.index.json", shared, "qwen2"), adapter)


def test_shards_without_projector_tensors_are_not_opened(tmp_path: Path, shared: SharedVocabulary) -> None:
    folder = checkpoint(tmp_path, published("model.mm_projector."))
    (folder / "llm.safetensors").unlink()
    import_published(folder, shared, "qwen2")
    (folder / "2.safetensors").unlink()
    assert "2.safetensors: no such file" in refusal(folder, shared)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "mm_projector.bin"])
def test_folder_with_one_file_gives_its_projector(tmp_path: Path, shared: SharedVocabulary, name: str) -> None:
    content = published("model.mm_projector.") | {"model.embed_tokens.weight": torch.full((3, 3), torch.nan)}
    if name.endswith("safetensors"):
        save_file(content, tmp_path / name)
    else:
        torch.save(content, tmp_path / name)
    expected = import_published(written(tmp_path / "..", content), shared, "qwen2")
    assert_same_state(import_published(tmp_path, shared, "qwen2"), expected)


def test_checkpoint_of_something_else_raises(tmp_path: Path, shared: SharedVocabulary) -> None:
    assert "not a model folder" in refusal(tmp_path, shared)
    save_file({"model.embed_tokens.weight": torch.ones(3, 3)}, tmp_path / "model.safetensors")
    assert "no mm_projector layers in it" in refusal(tmp_path, shared)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    assert "damaged" in refusal(tmp_path, shared)


def checkpoint(folder: Path, layers: Mapping[str, Tensor]) -> Path:
    """A LLaVA checkpoint: its LLM in one shard, and each layer of the projector in another."""
    folder = folder / "llava"
    folder.mkdir()
    shards = {name: f"{name.split('.')[-2]}.safetensors" for name in layers}
    for shard in set(shards.values()):
        save_file({name: layers[name] for name in layers if shards[name] == shard}, folder / shard)
    save_file({"model.embed_tokens.weight": torch.ones(3, 3)}, folder / "llm.safetensors")
    index = {"weight_map": {**shards, "model.embed_tokens.weight": "llm.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_export_and_import_round_trip(tmp_path: Path, shared: SharedVocabulary) -> None:
    content = published("model.mm_projector.", torch.bfloat16)
    again = to_published(import_published(written(tmp_path, content), shared, "qwen2"))
    assert again.keys() == content.keys()
    assert all(torch.equal(again[name], content[name]) for name in content)
    torch.save(again, tmp_path / "again.bin")
    import_published(tmp_path / "again.bin", shared, "qwen2")


def test_projector_is_exported_as_llavas_file() -> None:
    module = projector()
    layers = to_published(module)
    assert sorted(layers) == [f"model.mm_projector.{layer}.{part}" for layer in "02" for part in ("bias", "weight")]
    assert torch.equal(layers["model.mm_projector.2.weight"], module.linear_2.weight)


def test_published_softmax_head_raises() -> None:
    with pytest.raises(VocabkitError, match="softmax"):
        to_published(langbridge("softmax"))


def without(key: str) -> Callable[[dict[str, Tensor]], Mapping[str, Tensor]]:
    return lambda content: {name: tensor for name, tensor in content.items() if key not in name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("3.bias"), "lacks mm_projector.3.bias"),
        (without(".3."), "plain LLaVA projector"),
        (without("mm_projector"), "no mm_projector layers"),
        (lambda content: [content], "no mm_projector layers"),
        (lambda content: content | published("other.mm_projector."), "two projectors"),
        (lambda content: content | {"model.mm_projector.4.bias": torch.ones(1)}, "its layers are '0, 2, 3, 4'"),
        (lambda content: content | {"model.mm_projector.3.bias": torch.ones(ROWS - 1)}, "head.bias is (63,)"),
        (lambda content: content | {"model.mm_projector.2.weight": torch.ones(HIDDEN, VISION)}, "linear_2.weight"),
        (lambda content: content | {"model.mm_projector.0.weight": torch.ones(HIDDEN)}, "not matrices"),
        (lambda content: content | {"model.mm_projector.3.weight": torch.ones(63, HIDDEN)}, "63 rows"),
        (lambda content: content | {"model.mm_projector.3.bias": torch.full((ROWS,), torch.inf)}, "infinite"),
        (lambda content: content | {"model.mm_projector.3.bias": "text"}, "floats"),
    ],
)
def test_other_projector_raises(
    tmp_path: Path, shared: SharedVocabulary, change: Callable[[dict[str, Tensor]], Any], words: str
) -> None:
    assert words in refusal(written(tmp_path, change(published("model.mm_projector."))), shared)


def test_unknown_llm_raises(tmp_path: Path, shared: SharedVocabulary) -> None:
    assert "holds qwen2, llama3" in refusal(written(tmp_path, published("mm_projector.")), shared, "gemma3")


def test_damaged_and_malicious_files_raise(tmp_path: Path, shared: SharedVocabulary) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'victim'}",)

    weights = written(tmp_path, published("mm_projector.") | {"trap": Trap()})
    assert "more than plain tensors" in refusal(weights, shared)
    assert not (tmp_path / "victim").exists()
    weights.write_bytes(weights.read_bytes()[:-300])
    assert "truncated" in refusal(weights, shared)
    weights.unlink()
    assert "no such file" in refusal(weights, shared)


# ---- how pictures were prepared ----------------------------------------------------------------------------------


def llava_folder(folder: Path, **config: object) -> Path:
    """mm_projector.bin beside a config.json of LLaVA."""
    llava = {"mm_vision_tower": "openai/clip", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}
    (folder / "config.json").write_text(json.dumps(llava | config))
    written(folder, published("mm_projector."))
    return folder


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [({}, "square"), ({"image_aspect_ratio": None}, "square"), ({"image_aspect_ratio": "square"}, "square"),
     ({"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat"}, "pad")],
)  # fmt: skip
def test_aspect_ratio_of_a_checkpoint_is_recorded(
    tmp_path: Path, shared: SharedVocabulary, recorded: dict[str, object], expected: str
) -> None:
    config = import_published(llava_folder(tmp_path, **recorded), shared, "qwen2").config
    assert config.vision_aspect_ratio == expected
    assert AdapterConfig.from_json(config.to_json()) == config


def test_aspect_ratio_is_unknown_without_a_config(tmp_path: Path, shared: SharedVocabulary) -> None:
    config = import_published(written(tmp_path, published("mm_projector.")), shared, "qwen2").config
    assert config.vision_aspect_ratio is None
    assert "vision_aspect_ratio" not in config.to_json()


SIZES = [[336, 672], [672, 672], [1008, 336]]
"""Widths and heights, as LLaVA writes them."""
TILES = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": SIZES}


def with_newline(folder: Path, key: str = "model.image_newline", **config: object) -> Path:
    """A checkpoint of LLaVA-NeXT."""
    llava_folder(folder, **(TILES | config))
    written(folder, published("mm_projector.") | {key: normal(WIDTH)})
    return folder


@pytest.mark.parametrize("sizes", [SIZES, str([tuple(size) for size in SIZES])], ids=["list", "text"])
@pytest.mark.parametrize("key", ["model.image_newline", "image_newline", "base_model.model.model.image_newline"])
def test_checkpoint_of_llava_next_keeps_its_tiles(
    tmp_path: Path, shared: SharedVocabulary, key: str, sizes: object
) -> None:
    adapter = import_published(with_newline(tmp_path, key, image_grid_pinpoints=sizes), shared, "qwen2")
    config = adapter.config
    assert (config.vision_aspect_ratio, config.newline_width) == ("anyres", WIDTH)
    assert config.vision_grid_pinpoints == ((672, 336), (672, 672), (336, 1008))  # heights and widths
    assert adapter.image_newline is not None
    assert torch.equal(adapter.image_newline, normal(WIDTH))
    adapter.save(tmp_path / "adapter.pt")
    assert_same_state(load_adapter(tmp_path / "adapter.pt"), adapter)


def test_vision_model_of_tiles_is_recorded(tmp_path: Path, shared: SharedVocabulary) -> None:
    vision = clip(tmp_path / "vision", hidden_size=28)
    folder = with_newline(tmp_path)
    first = published("mm_projector.")["mm_projector.0.weight"]
    written(folder, published("mm_projector.") | {
        "mm_projector.0.weight": first.repeat(1, 4), "image_newline": normal(WIDTH)
    })  # fmt: skip
    config = import_published(folder, shared, "qwen2", vision=str(vision)).config
    assert config.vision_fingerprint == open_vision(str(vision)).info["fingerprint"]


def test_newline_without_its_numbers_raises_under_its_own_key(tmp_path: Path, shared: SharedVocabulary) -> None:
    folder = with_newline(tmp_path)
    written(folder, published("mm_projector.") | {"base_model.model.model.image_newline": torch.empty(0)})
    assert "'base_model.model.model.image_newline' is empty: saved under DeepSpeed ZeRO-3" in refusal(folder, shared)


def test_sizes_of_transformers_are_heights_and_widths(tmp_path: Path, shared: SharedVocabulary) -> None:
    config = import_published(with_newline(tmp_path, model_type="llava_next"), shared, "qwen2").config
    assert config.vision_grid_pinpoints == ((336, 672), (672, 672), (1008, 336))


def test_image_newline_moves_to_no_other_llm(tmp_path: Path, shared: SharedVocabulary) -> None:
    adapter = import_published(with_newline(tmp_path), shared, "qwen2")
    own, _ = transfer(adapter, target(tmp_path / "qwen2", "qwen2", WIDTH))
    assert torch.equal(own.image_newline, adapter.image_newline)
    assert torch.equal(fold(own).image_newline, adapter.image_newline)
    with pytest.raises(VocabkitError, match=r"image_newline, a vector of qwen2 that means nothing to llama3; .* pad"):
        transfer(adapter, target(tmp_path / "llama3", "llama3", WIDTH))


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"image_aspect_ratio": "anyres_max_9"}, r"'anyres_max_9' and mm_patch_merge_type 'spatial_unpad', which"),
        (
            {"image_aspect_ratio": "pad"},
            "'pad' and mm_patch_merge_type 'spatial_unpad', which vocabkit",
        ),
        ({"mm_patch_merge_type": "flat"}, "'anyres' and mm_patch_merge_type 'flat', which vocabkit does not compute"),
        ({"image_grid_pinpoints": None}, "no image_grid_pinpoints"),
        ({"image_grid_pinpoints": "os.system('x')"}, "no image_grid_pinpoints"),
        (None, "has no image_newline"),
    ],
)
def test_tiles_that_can_not_be_computed_raise_unless_the_whole_picture_is_chosen(
    tmp_path: Path, shared: SharedVocabulary, recorded: dict[str, object] | None, words: str
) -> None:
    folder = llava_folder(tmp_path, **TILES) if recorded is None else with_newline(tmp_path, **recorded)
    with pytest.raises(VocabkitError, match=f"{words}.*set `image_aspect_ratio` to pad to"):
        import_published(folder, shared, "qwen2")
    chosen = import_published(folder, shared, "qwen2", image_aspect_ratio="pad")
    assert (chosen.config.vision_aspect_ratio, chosen.image_newline) == ("pad", None)
