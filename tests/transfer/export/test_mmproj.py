"""The mmproj GGUF, read back, and run as llama.cpp's clip.cpp runs a LLaVA projector."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_limit import files_of_at_most
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from small_models import HIDDEN, WIDTH, llm, projector, visual_tokens
from transformers import AutoImageProcessor, CLIPVisionModel, SiglipVisionModel
from vision_models import PATCH, PATCHES, PIXELS, VISION, clip, images, registers, siglip, whole_clip

from vocabkit.errors import VocabkitError
from vocabkit.transfer.export.mmproj import export_mmproj

LAYERS, HEADS = 3, 4
IN_A_BLOCK = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj", "ln1": "layer_norm1", "ln2": "layer_norm2", "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}  # fmt: skip
"""What clip.cpp calls the parts of a layer -> what transformers calls them."""
FAMILIES: dict[str, tuple[Callable[..., Path], int]] = {"clip": (clip, 1), "siglip": (siglip, 0)}
"""How to make one, and its class tokens."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def vision(family: str, tmp_path: Path) -> Path:
    return FAMILIES[family][0](tmp_path / "vision")


def exported(vision: Path, **options: Any) -> Path:
    export_mmproj(projector(), vision, vision.parent / "mmproj.gguf", **options)
    return vision.parent / "mmproj.gguf"


def keys(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items() if not name.startswith("GGUF.")}


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Name -> float32 array in the order of torch, the dimensions of GGUF reversed."""
    return {t.name: t.data.reshape(t.shape.tolist()[::-1]).astype(np.float32) for t in GGUFReader(path).tensors}


def expected_tensors(family: str, vision: Path) -> dict[str, torch.Tensor]:
    """Name in clip.cpp -> weight of the model of transformers."""
    model: Any = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}[family].from_pretrained(vision)
    weights = {key.removeprefix("vision_model."): value for key, value in model.state_dict().items()}
    names = {"v.patch_embd.weight": "embeddings.patch_embedding.weight"}
    names |= {"v.position_embd.weight": "embeddings.position_embedding.weight"}
    if family == "clip":
        names |= {"v.class_embd": "embeddings.class_embedding"}
        names |= {f"v.pre_ln.{part}": f"pre_layrnorm.{part}" for part in ("weight", "bias")}
    else:
        names |= {"v.patch_embd.bias": "embeddings.patch_embedding.bias"}
    for layer in range(LAYERS):
        for name, key in IN_A_BLOCK.items():
            for part in ("weight", "bias"):
                names[f"v.blk.{layer}.{name}.{part}"] = f"encoder.layers.{layer}.{key}.{part}"
    found = {name: weights[key] for name, key in names.items()}
    module = projector()
    for number, linear in ((0, module.linear_1), (2, module.linear_2)):
        found |= {f"mm.{number}.weight": linear.weight.detach(), f"mm.{number}.bias": linear.bias.detach()}
    return found


# ---- content -----------------------------------------------------------------------------------------------------


def test_tensors_have_the_names_that_clip_cpp_reads(family: str, vision: Path) -> None:
    path = exported(vision)
    found, expected = tensors(path), expected_tensors(family, vision)
    assert found.keys() == expected.keys()
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(path).tensors}
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape), name
        half = name.endswith(".weight") and tensor.ndim >= 2 and name != "v.position_embd.weight"
        assert kinds[name] == (GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32), name
        stored = tensor.half().float() if half else tensor
        assert np.array_equal(found[name], stored.numpy()), name


def test_dimensions_are_in_ggml_order(vision: Path) -> None:
    dims = {tensor.name: tensor.shape.tolist() for tensor in GGUFReader(exported(vision)).tensors}
    assert dims["v.patch_embd.weight"] == [PATCH, PATCH, 3, VISION]
    assert dims["v.blk.0.ffn_up.weight"] == [VISION, 64]
    assert dims["v.blk.0.ffn_down.weight"] == [64, VISION]
    assert dims["mm.0.weight"] == [VISION, HIDDEN]
    assert dims["mm.2.weight"] == [HIDDEN, WIDTH]
    assert dims["mm.2.bias"] == [WIDTH]


def test_metadata_has_the_keys_that_clip_cpp_reads(family: str, vision: Path) -> None:
    found = keys(exported(vision))
    processor: Any = AutoImageProcessor.from_pretrained(vision)
    assert found.pop("clip.vision.image_mean") == pytest.approx(processor.image_mean)
    assert found.pop("clip.vision.image_std") == pytest.approx(processor.image_std)
    assert found.pop("clip.vision.attention.layer_norm_epsilon") == pytest.approx(1e-6 if family == "siglip" else 1e-5)
    assert found == {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.file_type": 1,
        "general.name": "Projector for small",
        "general.description": "For small only, whatever other LLM has its width. Made with vocabkit.",
        "general.base_model.count": 1,
        "general.base_model.0.name": "small",
        "clip.has_vision_encoder": True,
        "clip.has_llava_projector": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": family == "siglip",
        "clip.vision.image_size": PIXELS,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": VISION,
        "clip.vision.feed_forward_length": 64,
        "clip.vision.projection_dim": WIDTH,
        "clip.vision.block_count": LAYERS,
        "clip.vision.attention.head_count": HEADS,
        "clip.vision.feature_layer": [LAYERS - 1],
    }


@pytest.mark.parametrize(("layer", "index"), [(-1, 3), (-2, 2), (-4, 0), (0, 0), (3, 3)])
def test_feature_layer_counts_from_the_front(vision: Path, layer: int, index: int) -> None:
    assert keys(exported(vision, feature_layer=layer))["clip.vision.feature_layer"] == [index]


# ---- the graph of clip.cpp ---------------------------------------------------------------------------------------


def norm(x: np.ndarray, w: dict[str, np.ndarray], name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled: np.ndarray = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    """As ggml_gelu: the tanh approximation."""
    result: np.ndarray = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return result


def quick_gelu(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = x / (1 + np.exp(-1.702 * x))
    return result


def clip_cpp(path: Path, pixels: np.ndarray) -> np.ndarray:
    """(3, H, W) -> (P, D): the LLaVA graph of clip.cpp, with the class token first as its inputs assume."""
    w, k = tensors(path), keys(path)
    grid, eps = k["clip.vision.image_size"] // PATCH, k["clip.vision.attention.layer_norm_epsilon"]
    cut = pixels.reshape(3, grid, PATCH, grid, PATCH).transpose(1, 3, 0, 2, 4).reshape(grid * grid, -1)
    x = cut @ w["v.patch_embd.weight"].reshape(VISION, -1).T + w.get("v.patch_embd.bias", 0)  # (P, 3pp) -> (P, Dv)
    if "v.class_embd" in w:
        x = np.concatenate([w["v.class_embd"][None], x])
    x = x + w["v.position_embd.weight"]
    x = norm(x, w, "v.pre_ln", eps) if "v.pre_ln.weight" in w else x
    activation = gelu if k["clip.use_gelu"] else quick_gelu
    for layer in range(max(k["clip.vision.feature_layer"])):

        def linear(y: np.ndarray, name: str, block: str = f"v.blk.{layer}") -> np.ndarray:
            return y @ w[f"{block}.{name}.weight"].T + w[f"{block}.{name}.bias"]

        y = norm(x, w, f"v.blk.{layer}.ln1", eps)
        q, key, v = (linear(y, f"attn_{n}").reshape(len(y), HEADS, -1).transpose(1, 0, 2) for n in "qkv")
        scores = q @ key.transpose(0, 2, 1) / math.sqrt(VISION // HEADS)  # (heads, N, N)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        x = x + linear(mixed.transpose(1, 0, 2).reshape(len(y), -1), "attn_out")
        x = x + linear(activation(linear(norm(x, w, f"v.blk.{layer}.ln2", eps), "ffn_up")), "ffn_down")
    if "v.post_ln.weight" in w:
        x = norm(x, w, "v.post_ln", eps)
    patches = x[1:] if "v.class_embd" in w else x
    hidden = gelu(patches @ w["mm.0.weight"].T + w["mm.0.bias"])
    result: np.ndarray = hidden @ w["mm.2.weight"].T + w["mm.2.bias"]
    return result


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_clip_cpp_graph_gives_our_visual_tokens(family: str, vision: Path, layer: int) -> None:
    path = exported(vision, feature_layer=layer)
    processor: Any = AutoImageProcessor.from_pretrained(vision)
    pixels = processor(images(1), return_tensors="pt")["pixel_values"]
    found = clip_cpp(path, pixels[0].numpy())
    first = FAMILIES[family][1]
    expected = visual_tokens(vision, projector(), pixels, layer=layer, first=first)[0].numpy()
    assert found.shape == expected.shape == (PATCHES, WIDTH)
    spread = expected.std(axis=0).max()
    assert np.abs(found - expected).max() < 0.02 * spread
    for other in {-1, -2, 1} - {layer}:
        if other % (LAYERS + 1) != layer % (LAYERS + 1):
            wrong = visual_tokens(vision, projector(), pixels, layer=other, first=first)[0].numpy()
            assert np.abs(found - wrong).max() > 0.1 * spread


def test_exact_gelu_is_close_to_the_approximation(tmp_path: Path) -> None:
    vision = clip(tmp_path / "vision", hidden_act="gelu")
    path = exported(vision)
    assert keys(path)["clip.use_gelu"] is True
    pixels = AutoImageProcessor.from_pretrained(vision)(images(1), return_tensors="pt")["pixel_values"]
    expected = visual_tokens(vision, projector(), pixels)[0].numpy()
    assert np.abs(clip_cpp(path, pixels[0].numpy()) - expected).max() < 0.02 * expected.std(axis=0).max()


def test_vision_half_of_a_clip_is_enough(tmp_path: Path) -> None:
    path = exported(whole_clip(tmp_path / "vision"))
    assert not [name for name in tensors(path) if not name.startswith(("v.", "mm."))]


def test_hidden_layer_may_be_wider_than_the_llm(tmp_path: Path) -> None:
    export_mmproj(projector(hidden=100), clip(tmp_path / "vision"), tmp_path / "mmproj.gguf")
    assert tensors(tmp_path / "mmproj.gguf")["mm.0.weight"].shape == (100, VISION)


# ---- what is refused, and files ----------------------------------------------------------------------------------


def refused(vision: Path, **options: Any) -> str:
    out = vision.parent / "mmproj.gguf"
    with pytest.raises(VocabkitError) as caught:
        export_mmproj(options.pop("projector", projector()), vision, out, **options)
    assert not out.exists()
    assert not list(vision.parent.glob(".*"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_vision_models_raise(tmp_path: Path) -> None:
    assert "takes CLIP and SigLIP vision models, not a dinov2_with_registers" in refused(registers(tmp_path / "dino"))
    assert "has no fixed image_size and patch_size" in refused(llm(tmp_path / "llm"))
    assert "has no activation relu" in refused(clip(tmp_path / "relu", hidden_act="relu"))


def test_mismatched_parts_raise(tmp_path: Path) -> None:
    assert "features have width 40, but the adapter takes 32" in refused(clip(tmp_path / "wide", hidden_size=40))
    vision = clip(tmp_path / "vision")
    assert "has 4 hidden states, so there is no layer 4" in refused(vision, feature_layer=4)
    large = projector()
    with torch.no_grad():
        large.linear_2.weight[0, 0] = 1e5
    assert "mmproj.gguf: 'mm.2.weight' reaches 1e+05, which overflows torch.float16" in refused(vision, projector=large)
    (vision / "preprocessor_config.json").unlink()
    assert "no image processor in it" in refused(vision)


def test_earlier_mmproj_is_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vision, out = clip(tmp_path / "vision"), tmp_path / "mmproj.gguf"
    capfd.readouterr()
    export_mmproj(projector(hidden=100), vision, out)
    export_mmproj(projector(), vision, out)
    assert capfd.readouterr() == ("", "")
    assert tensors(out)["mm.0.weight"].shape != (100, VISION)
    first = out.read_bytes()
    export_mmproj(projector(), vision, out)
    assert out.read_bytes() == first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mmproj.gguf", "vision"]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_full_disk_raises_and_keeps_the_earlier_file(tmp_path: Path, share: float) -> None:
    clip(tmp_path / "clip")
    out = tmp_path / "mmproj.gguf"
    export_mmproj(projector(), tmp_path / "clip", out)
    before = out.read_bytes()
    with (
        files_of_at_most(int(share * len(before))),
        pytest.raises(VocabkitError, match="can't write here"),
    ):
        export_mmproj(projector(), tmp_path / "clip", out)
    assert out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"clip", "mmproj.gguf"}


def test_other_files_are_not_replaced(tmp_path: Path) -> None:
    vision = clip(tmp_path / "vision")
    llm_file = GGUFWriter(tmp_path / "llm.gguf", "llama")
    llm_file.write_header_to_file()
    llm_file.write_kv_data_to_file()
    llm_file.close()
    (tmp_path / "text.gguf").write_text("old")
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.gguf")}
    for name in before:
        with pytest.raises(VocabkitError, match=r"exists and is not a llama\.cpp projector"):
            export_mmproj(projector(), vision, tmp_path / name)
    with pytest.raises(VocabkitError, match=r"a llama\.cpp projector is a file named \*\.gguf"):
        export_mmproj(projector(), vision, tmp_path / "mmproj.bin")
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.gguf")} == before
