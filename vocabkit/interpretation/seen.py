"""Which part of a picture a vision encoder sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor

Part = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of width and height from the left and from the top."""


def seen_part(pixels: Callable[[Image.Image], Tensor], size: tuple[int, int]) -> Part:
    """What `pixels` takes of a picture of `size` (width, height); outside of 0 to 1 is padding.

    It is measured, for image processors do not tell: of a picture whose red grows from left to right and whose green
    grows from top to bottom, the colours that come out say from where each pixel was taken.

    Args:
        pixels: RGB -> (3, H, W), by scaling, cutting, padding and a linear change of each channel: that of an encoder.
    """
    width, height = size
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.round(255 * (np.arange(width) + 0.5) / width)
    ramps[..., 1] = np.round(255 * (np.arange(height) + 0.5) / height)[:, None]
    black, white = (Image.new("RGB", size, (level,) * 3) for level in (0, 255))
    dark, light, found = (pixels(image).numpy() for image in (black, white, Image.fromarray(ramps)))
    row, column = (side // 2 for side in found.shape[1:])
    left, right = _ends(dark[0, row], light[0, row], found[0, row])
    top, bottom = _ends(dark[1, :, column], light[1, :, column], found[1, :, column])
    return left, top, right, bottom


def _ends(dark: np.ndarray, light: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Where a line of pixels begins and ends: a straight line through its middle half, but for padding."""
    places = np.arange(len(found) // 4, len(found) - len(found) // 4)
    places = places[light[places] != dark[places]]
    shares = (found[places] - dark[places]) / (light[places] - dark[places])
    slope, start = np.polyfit(places + 0.5, shares, 1)
    return tuple(round(float(start + slope * at), 3) for at in (0, len(found)))  # type: ignore[return-value]
