"""The features that an encoder gives are those that the exported Llava checkpoint gives its projector."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import llm, loaded, projector
from torch import Tensor
from torch.testing import assert_close
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from vision_models import clip, images, siglip, whole_clip

from vocabkit.errors import VocabkitError
from vocabkit.transfer.export.llava import export_llava, padding_processor
from vocabkit.vision.encoder import open_vision


@pytest.mark.parametrize("layer", [-2, -1, 0, 1])
@pytest.mark.parametrize(
    ("make", "keep_cls"), [(clip, False), (clip, True), (whole_clip, False), (siglip, False)],
    ids=["clip", "clip with class token", "whole clip", "siglip"],
)  # fmt: skip
def test_exported_features_equal_ours(make: Callable[[Path], Path], keep_cls: bool, layer: int, tmp_path: Path) -> None:
    vision = make(tmp_path / "vision")
    out = export_llava(
        projector(), vision, llm(tmp_path / "llm"), tmp_path / "llava", feature_layer=layer, keep_cls=keep_cls
    )
    model, processor = loaded(out.folder)
    inputs = processor(text="<image>\n<image>\nCompare.", images=images(2), return_tensors="pt")
    taken: list[Tensor] = []
    model.model.multi_modal_projector.register_forward_pre_hook(lambda _, arguments: taken.append(arguments[0]))
    with torch.no_grad():
        model(**inputs)

    encoder = open_vision(str(vision), layer=layer, keep_cls=keep_cls)
    pixels = torch.stack([encoder.pixels(image) for image in images(2)])
    assert torch.equal(pixels, inputs["pixel_values"])
    assert encoder.tokens == out.image_tokens
    assert_close(encoder(pixels), taken[0])


@pytest.mark.parametrize("size", [(60, 40), (40, 61), (28, 28)])
@pytest.mark.parametrize("make", [clip, siglip])
def test_padded_pixels_equal_ours(make: Callable[[Path], Path], size: tuple[int, int], tmp_path: Path) -> None:
    vision = make(tmp_path / "vision")
    padded = projector()
    padded.config = replace(padded.config, vision_aspect_ratio="pad")
    out = export_llava(padded, vision, llm(tmp_path / "llm"), tmp_path / "llava")
    settings = json.loads((out.folder / "preprocessor_config.json").read_text())
    assert (settings["image_processor_type"], settings["do_pad"]) == ("LlavaImageProcessor", True)
    _, processor = loaded(out.folder)
    picture = images(1)[0].resize(size)
    found = processor(text="<image>", images=picture, return_tensors="pt")
    assert torch.equal(found["pixel_values"][0], open_vision(str(vision), image_aspect_ratio="pad").pixels(picture))
    assert int((found["input_ids"] == out.image_token_id).sum()) == out.image_tokens
    assert processor._get_num_multimodal_tokens([size])["num_image_tokens"] == [out.image_tokens]


def test_aspect_ratio_other_than_the_recorded_one_raises(tmp_path: Path) -> None:
    padded = projector()
    padded.config = replace(padded.config, vision_aspect_ratio="pad")
    with pytest.raises(VocabkitError, match="was trained with image_aspect_ratio pad, not square"):
        export_llava(
            padded, clip(tmp_path / "clip"), llm(tmp_path / "llm"), tmp_path / "out", image_aspect_ratio="square"
        )


def test_image_processor_that_llavas_own_can_not_imitate_raises(tmp_path: Path) -> None:
    vision = clip(tmp_path / "vision")
    ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.5).save_pretrained(vision)
    with pytest.raises(VocabkitError, match=r"can't do what its image processor does .ConvNextImageProcessor."):
        padding_processor(vision)
