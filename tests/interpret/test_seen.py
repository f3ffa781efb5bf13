"""The part of a picture that an encoder sees, for several image processors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from vision_models import clip, siglip

from vocabkit.interpret.interpret import seen_part
from vocabkit.vision.encoder import open_vision


def test_clip_sees_the_center_square(tmp_path: Path) -> None:
    pixels = open_vision(str(clip(tmp_path / "clip"))).pixels
    assert seen_part(pixels, (200, 100)) == pytest.approx((0.25, 0, 0.75, 1), abs=0.03)
    assert seen_part(pixels, (100, 200)) == pytest.approx((0, 0.25, 1, 0.75), abs=0.03)
    assert seen_part(pixels, (64, 64)) == pytest.approx((0, 0, 1, 1), abs=0.03)


def test_siglip_sees_the_whole_picture_at_any_aspect_ratio(tmp_path: Path) -> None:
    pixels = open_vision(str(siglip(tmp_path / "siglip"))).pixels
    assert seen_part(pixels, (200, 100)) == pytest.approx((0, 0, 1, 1), abs=0.03)


def test_efficientnet_sees_the_center_square() -> None:
    assert seen_part(open_vision("efficientnet-lite0").pixels, (300, 200)) == pytest.approx(
        (1 / 6, 0, 5 / 6, 1), abs=0.01
    )


def test_padding_shows_as_more_than_the_whole_picture() -> None:
    def padded(image: Image.Image) -> torch.Tensor:
        square = ImageOps.pad(image, (90, 90), color=(120, 120, 120))
        return torch.from_numpy(np.asarray(square, np.float32) / 7 - 3).permute(2, 0, 1)

    assert seen_part(padded, (200, 100)) == pytest.approx((0, -0.5, 1, 1.5), abs=0.05)
