"""Vision models that can't be used are named in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    InternVLVisionConfig,
    InternVLVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PixtralVisionConfig,
    PixtralVisionModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)
from vision_models import clip, save, seeded

from vocabkit.errors import VocabkitError
from vocabkit.vision.encoder import open_vision


def edit(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def without(file: Path, name: str) -> None:
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})


def added(file: Path, name: str) -> None:
    save_file(load_file(file) | {name: torch.ones(4)}, file, metadata={"format": "pt"})


def naflex(folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    save(seeded(Siglip2VisionModel, Siglip2VisionConfig(**sizes)), folder)


def internvit(folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    save(seeded(InternVLVisionModel, InternVLVisionConfig(**sizes, image_size=[28, 28], patch_size=[7, 7])), folder)


def pixtral(folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    save(seeded(PixtralVisionModel, PixtralVisionConfig(**sizes, image_size=28, patch_size=7)), folder)


def language_model(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    save(seeded(LlamaForCausalLM, config), folder)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda v: (v / "config.json").unlink(), r"no config\.json in it"),
    "config is no json": (lambda v: (v / "config.json").write_text("{"), "transformers can't read its config"),
    "a language model": (language_model, "a llama has no fixed image_size and patch_size"),
    "patches of any number": (pixtral, "a pixtral gives each picture another number of patches; give a vision model"),
    "pixels of any size": (naflex, "a siglip2_vision_model has no fixed image_size"),
    "lists of sizes": (internvit, r"internvl_vision with a list of sizes \(image_size \[28, 28\]\), as InternViT's"),
    "no image processor": (lambda v: (v / "preprocessor_config.json").unlink(), "no image processor in it"),
    "no crop": (
        lambda v: edit(v / "preprocessor_config.json", do_center_crop=False),
        r"makes \(3, 28, 56\) of a wide picture and \(3, 56, 28\) of a tall one.*set do_center_crop",
    ),
    "another size": (
        lambda v: edit(v / "preprocessor_config.json", crop_size={"height": 14, "width": 14}),
        r"gives no hidden states for pixels \(.*14\*14",
    ),
    "nonsense settings": (lambda v: edit(v / "preprocessor_config.json", image_mean=[1]), "its image processor fails"),
    "no weights": (lambda v: (v / "model.safetensors").unlink(), "transformers can't load its weights"),
    "truncated": (lambda v: (v / "model.safetensors").write_bytes(b"\0" * 100), "transformers can't load its weights"),
    "lacks a tensor": (
        lambda v: without(v / "model.safetensors", "pre_layrnorm.bias"),
        r"its weights lack .*pre_layrnorm\.bias, one of 1 missing tensors of its vision model",
    ),
    "scales beside its weights": (
        lambda v: added(v / "model.safetensors", "vision_model.encoder.layers.0.mlp.fc1.weight_scale"),
        "its weights have 1 tensor that a clip_vision_model lacks, such as .*fc1.weight_scale'",
    ),
    "wrong shape": (lambda v: edit(v / "config.json", intermediate_size=80), "transformers can't load its weights"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_broken_model_raises(tmp_path: Path, way: str) -> None:
    breaks, words = BROKEN[way]
    folder = clip(tmp_path / "vision")
    breaks(folder)
    with pytest.raises(VocabkitError, match=f"vision: .*{words}") as caught:
        open_vision(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [-5, 4])
def test_missing_layer_raises(tmp_path: Path, layer: int) -> None:
    with pytest.raises(VocabkitError, match=f"has 4 hidden states, so there is no layer {layer}"):
        open_vision(str(clip(tmp_path / "vision")), layer=layer)


def test_missing_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"nowhere: no such path, and no valid hub id"):
        open_vision(str(tmp_path / "nowhere"))


def test_malicious_pickle_raises(tmp_path: Path) -> None:
    folder = clip(tmp_path / "vision")
    (folder / "model.safetensors").unlink()
    torch.save({"post_layernorm.bias": Path("/etc")}, folder / "pytorch_model.bin")
    with pytest.raises(VocabkitError, match="transformers can't load its weights"):
        open_vision(str(folder))


@pytest.mark.parametrize(
    ("file", "entry"), [("config.json", "AutoConfig"), ("config.json", "AutoModel"),
                        ("preprocessor_config.json", "AutoImageProcessor")],
)  # fmt: skip
def test_code_of_a_model_is_never_run(tmp_path: Path, file: str, entry: str) -> None:
    folder = clip(tmp_path / "vision")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    edit(folder / file, auto_map={entry: "code.TheirOwn"})
    open_vision(str(folder))
    edit(folder / file, model_type="theirs", image_processor_type="TheirOwn")
    with pytest.raises(VocabkitError):
        open_vision(str(folder))
    assert not (tmp_path / "run").exists()
