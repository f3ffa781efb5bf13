"""Published weights: `mm_projector.bin` of LLaVA and LangBridge, or a whole checkpoint that contains it.

A dict of `<prefix>mm_projector.<layer>.{weight,bias}`. Layers 0 and 2 are an MLP with a GELU between them; LangBridge
has a layer 3, the head. The prefix depends on how the model was wrapped. Converted for transformers, the projector is
`multi_modal_projector`, and its layers 0 and 2 are `linear_1` and `linear_2`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vocabkit.adapter.checkpoint import check_destination
from vocabkit.adapter.config import AdapterConfig, AspectRatio
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.adapter.partners import check_encoder
from vocabkit.adapter.state_dicts import own_name, unwrapped, why_unusable
from vocabkit.adapter.tensors import check_tensors, detach_copy, read_torch, write_torch
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import decode_json
from vocabkit.llm.load import LLAVA, LLAVA_OWN
from vocabkit.llm.weight_files import read_index, weights_file
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.lora import LORA_CONFIG
from vocabkit.transfer.fold import pad_hidden
from vocabkit.vision.encoder import LAYER, open_vision

LAYERS = {"0": "linear_1", "2": "linear_2", "3": "head"}
"""Published layer -> ours."""
_CONVERTED = {"linear_1": "0", "linear_2": "2"}
"""Layer in transformers -> published layer."""
_PROJECTOR = re.compile(r"(?:^|\.)(?:(?:mm|multi_modal)_projector\.|image_newline$)")
_NEWLINE = re.compile(r"(?:.*\.)?image_newline")
_WHOLE = "set `image_aspect_ratio` to pad to take its projector for the whole picture"
_KEY = re.compile(r"((?:.*\.)?(?:mm|multi_modal)_projector\.)([0-9]+|linear_[0-9]+)\.(weight|bias)")
_LINEAR = re.compile(r"(?:.*\.)?mm_projector\.(weight|bias)")
_MLP = "only LLaVA's MLP of two layers with a GELU can be adopted"
_GIVE = "give an mm_projector.bin, or the folder of a checkpoint"
_OF_LORA = ("non_lora_trainables.bin", "adapter_model.safetensors", "adapter_model.bin")
"""Files of a LoRA folder that may hold a projector: LLaVA's own, then those of peft."""


def import_published(
    weights: str | Path,
    shared: SharedVocabulary,
    llm: str,
    *,
    vision: str | None = None,
    layer: int | None = None,
    image_aspect_ratio: AspectRatio | None = None,
) -> LangBridgeAdapter:
    """Load an `mm_projector.bin` of LangBridge, whose head is linear, as an adapter. Dtypes are kept.

    Args:
        weights: the file, or the folder of a whole checkpoint, in one file or shards of safetensors or torch.save. Of a
            checkpoint, only the projector is read. A folder of LoRA weights has it in `non_lora_trainables.bin`, or in
            peft's `modules_to_save`.
        shared: its shared vocabulary, from `import_map` on the index map that it was trained with.
        llm: the name in `shared` of the tokenizer that it was trained with.
        vision, layer, image_aspect_ratio: the vision model, the hidden states and the preparation of pictures that it
            was trained with, to record. By default what a checkpoint's config.json says. Of a vision model in a folder,
            the fingerprint is recorded as well.

    Raises:
        VocabkitError: damaged, a pickle with more than tensors, not a LangBridge projector, another number of rows
            than the index map, trained on tiles of pictures, or a vision model of another width, or that was trained
            with it.
    """
    weights = Path(weights)
    if vision is None:
        check_vision(weights)
    tensors = _read_layers(weights)
    first, head = tensors["linear_1.weight"], tensors["head.weight"]
    if first.ndim != 2 or head.ndim != 2:
        raise VocabkitError(f"{weights}: layers 0 and 3 are not matrices")
    if len(head) != len(shared):
        raise VocabkitError(
            f"{weights}: its head has {len(head)} rows, but the index map has {len(shared)}; give the map that it was "
            "trained with"
        )
    recorded = _recorded_vision(weights)
    ratio = image_aspect_ratio or aspect_ratio_of(weights)
    given = {"vision_model": vision, "vision_layer": layer, "vision_aspect_ratio": ratio}
    recorded |= {name: value for name, value in given.items() if value is not None}
    if ratio == "anyres":
        tensors["image_newline"] = newline = _read_newline(weights)
        recorded |= {"vision_grid_pinpoints": _grid_pinpoints(weights), "newline_width": len(newline)}
    config = AdapterConfig.of(shared, llm=llm, vision_width=first.shape[1], hidden_width=first.shape[0], **recorded)
    if vision is not None and Path(vision).is_dir():
        config = dataclasses.replace(config, vision_fingerprint=_fingerprint(config, vision))
    return LangBridgeAdapter.from_parts(weights, config, tensors, shared)


def read_mlp(weights: Path, *, llm_inside: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the layers of an MLP projector from an `mm_projector.bin`, LLaVA's own checkpoint or one of transformers.

    Args:
        llm_inside: whether its LLM is in the checkpoint, too. If not, the config.json of LLaVA may be that of any LLM.

    Returns:
        `linear_1` and `linear_2` by name, and what a checkpoint's config.json says of the features, as fields of an
        `MLPConfig`.

    Raises:
        VocabkitError: damaged, a pickle with more than tensors, or another kind of projector, which is named.
    """
    content = llava_config(weights)
    kind, own = str(content.get("model_type", "")), content.get("mm_projector_type", "mlp2x_gelu")
    if content and kind in _OTHER_KINDS:
        raise VocabkitError(f"{weights}: its model type {quote(kind)} has {_OTHER_KINDS[kind]}; {_MLP}")
    if kind == "vocabkit_llava":
        raise VocabkitError(
            f"{weights}: an export of vocabkit, which has a head over a shared vocabulary already; `vocabkit transfer` "
            "moves the adapter that it was made of"
        )
    others = bool(content.keys() & {"text_config", "vision_config"})  # of transformers, with a projector of its own
    if content and kind not in (*LLAVA, *LLAVA_OWN) and (llm_inside or others):
        raise VocabkitError(
            f"{weights}: its model type is {quote(kind) if kind else 'missing'}, not one that is read "
            f"({', '.join(dict.fromkeys((*LLAVA, *LLAVA_OWN)))}); give such a checkpoint"
            f"{'' if others else ', or also name its LLM with `llm`'}"
        )
    activation = content.get("projector_hidden_act", "gelu")
    if own != "mlp2x_gelu" or activation != "gelu":
        other = own if own != "mlp2x_gelu" else activation
        raise VocabkitError(f"{weights}: its projector is {quote(str(other))}; {_MLP}")
    if (resampler := content.get("mm_resampler_type")) is not None:
        raise VocabkitError(f"{weights}: its projector stands behind the resampler {quote(str(resampler))}, not alone")
    if content.get("mm_use_im_start_end"):
        raise VocabkitError(
            f"{weights}: was trained with <im_start> and <im_end> around pictures (mm_use_im_start_end), which "
            "vocabkit does not put there; give a checkpoint that was trained without"
        )
    tensors = _read_layers(weights, mlp=True, biases=content.get("multimodal_projector_bias") is not False)
    if not of_transformers(content):
        return tensors, _recorded_vision(weights)
    layer = content.get("vision_feature_layer", LAYER)  # as transformers, which leaves nothing else out either
    if isinstance(layer, list) and len(layer) == 1:
        layer = layer[0]
    if not isinstance(layer, int):
        raise VocabkitError(
            f"{weights}: its vision_feature_layer is {quote(str(layer))}, not one number; a projector of features of "
            "several layers can't be adopted"
        )
    kept = content.get("vision_feature_select_strategy") == "full"
    return tensors, {"vision_model": str(weights), "vision_layer": layer, "vision_keep_cls": kept}


def check_vision(weights: Path) -> None:
    """Raise VocabkitError if the config.json beside the weights names a vision model in LLaVA's own layout that was
    trained with them, and so is no longer what it names.
    """
    content = llava_config(weights)
    in_next = re.findall(r"\w+", str(content.get("mm_tunable_parts")))  # what LLaVA-NeXT trains, by commas
    trained = {"unfreeze_mm_vision_tower": content.get("unfreeze_mm_vision_tower")}
    trained["mm_tunable_parts"] = "mm_vision_tower" in in_next
    for name in filter(trained.get, trained):
        raise VocabkitError(
            f"{weights}: its vision model was trained with the projector ({name}), and is read in the layout of "
            "transformers only: take the checkpoint converted to that (llava-hf has many), or give the vision model as "
            "`vision`"
        )


def of_transformers(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Llava or LlavaNext in the layout of transformers, not in LLaVA's own."""
    return config.get("model_type") in LLAVA and "text_config" in config


_OTHER_KINDS = {
    "blip-2": "a Q-Former", "instructblip": "a Q-Former", "instructblipvideo": "a Q-Former",
    "idefics": "a perceiver resampler", "idefics2": "a perceiver resampler", "minicpmo": "a resampler",
    "minicpmv": "a resampler", "mllama": "cross-attention layers", "vipllava": "a projector of several layers",
    "gemma3": "a projector that pools patches", "idefics3": "a projector that merges patches",
    "internvl": "a projector that merges patches", "mistral3": "a projector that merges patches",
    "qwen2_vl": "a projector that merges patches", "qwen2_5_vl": "a projector that merges patches",
    "qwen3_vl": "a projector that merges patches", "smolvlm": "a projector that merges patches",
    "paligemma": "a projector of one layer",
}  # fmt: skip
"""`model_type` -> what stands between its vision model and its LLM."""


def _fingerprint(config: AdapterConfig, vision: str) -> str:
    """The fingerprint of the vision model in a folder. Raises VocabkitError: of another width than the adapter's."""
    layer = LAYER if config.vision_layer is None else config.vision_layer
    info = open_vision(vision, layer=layer, keep_cls=bool(config.vision_keep_cls)).info
    square: dict[str, Any] = {
        "vision_aspect_ratio": None,
        "vision_grid_pinpoints": None,
        "newline_width": None,
    }  # as `info`
    known = dataclasses.replace(config, vision_fingerprint=info["fingerprint"], **square)
    check_encoder(known, info, vision)
    return info["fingerprint"]


def to_published(adapter: LangBridgeAdapter | MLPProjector) -> dict[str, Tensor]:
    """The tensors of `mm_projector.bin`, for `torch.save`: keys `model.mm_projector.{0,2,3}.{weight,bias}`.

    Raises:
        VocabkitError: a softmax head, which that layout can't tell from a linear one.
    """
    if isinstance(adapter, LangBridgeAdapter) and adapter.config.head != "linear":
        raise VocabkitError("mm_projector.bin can't record a softmax head; use save() instead")
    state = adapter.state_dict()
    return {
        f"model.mm_projector.{layer}.{part}": state[f"{name}.{part}"]
        for layer, name in LAYERS.items()
        for part in ("weight", "bias")
        if f"{name}.{part}" in state
    }


def save_published(adapter: LangBridgeAdapter | MLPProjector, path: Path) -> None:
    """Write an `mm_projector.bin` that LLaVA's code loads, whole or not at all.

    For an MLP, that code expects a hidden layer as wide as the LLM; `export_mm_projector` pads it.

    Raises:
        VocabkitError: a softmax head, or can't write here.
    """
    write_torch(path, {key: detach_copy(tensor) for key, tensor in to_published(adapter).items()})


def export_mm_projector(projector: MLPProjector, out: Path) -> None:
    """Write a projector as `mlp2x_gelu`, with its hidden layer padded with zeros to the width of the LLM.

    Raises:
        VocabkitError: the hidden layer is wider than the LLM, something else is there, or can't write here.
    """
    check_destination(out, "mm_projector")
    save_published(pad_hidden(projector, projector.config.llm_width), out)


def _recorded_vision(weights: Path) -> dict[str, Any]:
    """What LLaVA's config.json beside the weights records about the features, as fields of an AdapterConfig."""
    content = llava_config(weights)
    model, layer = content.get("mm_vision_tower"), content.get("mm_vision_select_layer")
    kept, feature = {"None": None, "patch": False, "cls_patch": True}, str(content.get("mm_vision_select_feature"))
    if feature not in kept:
        raise VocabkitError(
            f"{weights}: its mm_vision_select_feature is {quote(feature)}, but LLaVA has patch and cls_patch only"
        )
    if not isinstance(model, str) or not isinstance(layer, int):
        return {}
    return {"vision_model": model, "vision_layer": layer, "vision_keep_cls": kept[feature]}


def aspect_ratio_of(weights: Path) -> AspectRatio | None:
    """What that config.json says about pictures that are not square; None if it is not LLaVA's.

    Raises VocabkitError: they are cut into tiles, or their features are joined in another way.
    """
    content = llava_config(weights)
    if content.get("model_type") == "llava_next":  # of transformers, which has no other
        ratio, merge = "anyres", "spatial_unpad"
    elif "mm_vision_tower" in content:
        ratio = content.get("image_aspect_ratio") or "square"  # LLaVA's default
        merge = content.get("mm_patch_merge_type") or "flat"
    else:
        return None
    known: dict[tuple[object, object], AspectRatio] = {
        ("square", "flat"): "square", ("pad", "flat"): "pad", ("anyres", "spatial_unpad"): "anyres"
    }  # fmt: skip
    if (ratio, merge) in known:
        return known[ratio, merge]
    raise VocabkitError(
        f"{weights}: was trained on pictures with image_aspect_ratio {quote(str(ratio))} and mm_patch_merge_type "
        f"{quote(str(merge))}, which vocabkit does not compute; {_WHOLE}"
    )


def _grid_pinpoints(weights: Path) -> tuple[tuple[int, int], ...]:
    """The (height, width) of tiled pictures that a checkpoint's config.json names.

    Raises VocabkitError: it names none, or in another form.
    """
    content = llava_config(weights)
    found = content.get("image_grid_pinpoints")
    if isinstance(found, str):  # as LLaVA's command line takes them
        with contextlib.suppress(ValueError, SyntaxError):
            found = ast.literal_eval(found)
    try:
        pairs = msgspec.convert(found, list[tuple[int, int]])
    except msgspec.ValidationError as error:
        raise VocabkitError(
            f"{weights}: its config.json has no image_grid_pinpoints, the sizes of pictures in tiles (anyres); {_WHOLE}"
        ) from error
    if content.get("model_type") == "llava_next":
        return tuple(pairs)
    return tuple((height, width) for width, height in pairs)  # LLaVA's are the other way round


def _read_newline(weights: Path) -> Tensor:
    """The vector that ends rows of tiles. Raises VocabkitError: there is none, or in another form."""
    content = _contents(weights)
    keys = [key for key in content if isinstance(key, str) and _NEWLINE.fullmatch(own_name(key))]
    if len(keys) != 1:
        raise VocabkitError(f"{weights}: has {len(keys) or 'no'} image_newline, which tiles (anyres) need; {_WHOLE}")
    _check_usable(weights, content, keys)
    newline: Tensor = content[keys[0]]
    if newline.ndim != 1:
        raise VocabkitError(f"{weights}: image_newline is {tuple(newline.shape)}, expected one vector")
    return newline


def llava_config(weights: Path) -> dict[str, Any]:
    """The config.json in the folder of the weights; empty if there is none."""
    file = (weights if weights.is_dir() else weights.parent) / "config.json"
    return decode_json(file, dict[str, Any], "a model's config.json") if file.is_file() else {}


def _read_layers(path: Path, *, mlp: bool = False, biases: bool = True) -> dict[str, Tensor]:
    """The layers of a LangBridge projector, or of a plain MLP; without `biases`, these are zeros."""
    content = _contents(path)
    keys = _projector_keys(path, content)
    layers = {layer for layer, _ in keys}
    expected = {layer: name for layer, name in LAYERS.items() if layer != "3" or not mlp}
    if layers == {"0", "2"} and not mlp:
        raise VocabkitError(
            f"{path}: a plain LLaVA projector (layers 0 and 2), without LangBridge's head (layer 3); `vocabkit adopt` "
            "makes an adapter of it"
        )
    if layers == LAYERS.keys() and mlp:
        raise VocabkitError(f"{path}: has LangBridge's head already (layer 3); `vocabkit import` reads it")
    if not layers <= expected.keys():
        whose = "those of a plain MLP are 0 and 2" if mlp else "LangBridge's are 0, 2 and 3"
        raise VocabkitError(f"{path}: its layers are {quote(', '.join(sorted(layers)))}, but {whose}")
    _check_usable(path, content, keys.values())
    parts = ("weight", "bias") if biases else ("weight",)
    if lacking := [(layer, part) for layer in expected for part in parts if (layer, part) not in keys]:
        converted = any("multi_modal_projector." in key for key in keys.values())
        named = {
            layer: f"multi_modal_projector.{LAYERS[layer]}" if converted else f"mm_projector.{layer}"
            for layer in LAYERS
        }
        raise VocabkitError(f"{path}: lacks {', '.join(f'{named[layer]}.{part}' for layer, part in lacking)}")
    tensors = {f"{LAYERS[layer]}.{part}": content[key] for (layer, part), key in keys.items()}
    if not biases:
        weights = {name: tensors[f"{name}.weight"] for name in expected.values()}
        tensors |= {f"{name}.bias": weight.new_zeros(weight.shape[:1]) for name, weight in weights.items()}
    return tensors


def _check_usable(path: Path, content: Mapping[Any, Any], keys: Collection[str]) -> None:
    """Raise VocabkitError unless the tensors under `keys` are plain weights."""
    for key in keys:
        tensor = content[key]
        if isinstance(tensor, Tensor) and (why := why_unusable(key, tensor.shape, str(tensor.dtype), content.keys())):
            raise VocabkitError(f"{path}: {quote(key)} {why}")
    check_tensors(path, {key: content[key] for key in keys})


def _projector_keys(path: Path, content: Mapping[Any, Any]) -> dict[tuple[str, str], str]:
    """(published layer, `weight` or `bias`) -> the key of its tensor. Raises VocabkitError: none, or two projectors."""
    found: dict[tuple[str, str], str] = {}
    prefixes: dict[str, str] = {}
    for key in content:
        match = _KEY.fullmatch(own_name(key)) if isinstance(key, str) else None
        if match is None:
            if isinstance(key, str) and _PROJECTOR.search(key) and "lora_" in key:
                raise VocabkitError(
                    f"{path}: {quote(key)} is a LoRA weight of the projector; merge it (merge_and_unload of peft) first"
                )
            continue
        prefix, layer, part = match.groups()
        place = _CONVERTED.get(layer, layer), part
        other = found.get(place) or next((key for its, key in prefixes.items() if its != prefix), None)
        if other is not None:
            raise VocabkitError(f"{path}: two projectors, {quote(other)} and {quote(key)}; give one of them")
        found[place] = prefixes[prefix] = key
    if not found:
        names = [own_name(key) for key in content if isinstance(key, str)]
        if any(map(_LINEAR.fullmatch, names)):
            raise VocabkitError(f"{path}: its projector is one linear layer, as in the first LLaVA; {_MLP}")
        has = f" (it has {quote(', '.join(names[:3]), 80)}{', …' if len(names) > 3 else ''})" if names else ""
        raise VocabkitError(f"{path}: no mm_projector layers in it{has}; {_GIVE}")
    return found


def _contents(path: Path) -> Mapping[Any, Any]:
    """The tensors of a projector, and whatever else is in a file of torch.save."""
    if path.is_dir():
        return _folder_contents(path)
    if path.suffix == ".gguf":
        raise VocabkitError(f"{path}: a GGUF, of which no projector is read; {_GIVE}")
    if path.name.endswith(".index.json"):
        shards = read_index(path)
        names = sorted({shard for name, shard in shards.items() if _PROJECTOR.search(name)})
        return {key: tensor for name in names for key, tensor in _contents(path.parent / name).items()}
    if path.suffix != ".safetensors":
        content = unwrapped(read_torch(path))
        return content if isinstance(content, dict) else {}
    with reading(path):
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys() if _PROJECTOR.search(name)}  # noqa: SIM118
        except SafetensorError as error:
            raise VocabkitError(f"{path}: damaged ({quote(str(error), 80)}); download it again") from error


def _folder_contents(folder: Path) -> Mapping[Any, Any]:
    if (folder / "mm_projector.bin").is_file():
        return _contents(folder / "mm_projector.bin")
    if (folder / LORA_CONFIG).is_file() or (folder / _OF_LORA[0]).is_file():
        return {
            key: value
            for name in _OF_LORA
            if (folder / name).is_file()
            for key, value in _contents(folder / name).items()
        }
    return _contents(weights_file(folder))
