"""The features that an encoder gives are those that the exported Llava checkpoint gives its projector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import llm, loaded, projector
from torch import Tensor
from torch.testing import assert_close
from vision_models import clip, images, siglip, whole_clip

from vocabkit.transfer.export.llava import export_llava
from vocabkit.vision.encoder import open_vision


@pytest.mark.parametrize("layer", [-2, -1, 1])
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
