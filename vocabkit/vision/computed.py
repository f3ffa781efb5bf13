"""Patch features of pictures, computed whenever they are asked for.

Cached features (see `features`) are faster, but hold whole pictures only; these know tiles as well.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from vocabkit.data.pictures import BrokenImage, ahead, decoding_threads, each_once
from vocabkit.data.samples import Picture
from vocabkit.vision.encoder import VisionEncoder
from vocabkit.vision.tiles import Layout

_AHEAD = 64
"""Pictures that threads decode before they are needed."""


class ComputedFeatures:
    """`features[key]` is (N, Dv), or (L, Dv) for a picture in tiles."""

    def __init__(self, encoder: VisionEncoder, pictures: Iterable[Picture]) -> None:
        """Decode each picture once; missing and broken ones are left out.

        Raises VocabkitError: two pictures with the same key.
        """
        self._encoder = encoder
        self.encoder, self.folder = encoder.info, encoder.name
        self.tokens, self.width = encoder.tokens, encoder.width
        self.layouts: dict[str, Layout] = {}
        """Of pictures in tiles, by key."""
        self._pictures: dict[str, Picture] = {}
        with decoding_threads() as threads:
            once = each_once(pictures, "put them into two files")
            asked = ((picture, threads.submit(_layout, encoder, picture)) for picture in once)
            for picture, found in ahead(asked, _AHEAD):
                try:
                    layout = found.result()
                except BrokenImage:
                    continue
                self._pictures[picture.key] = picture
                if layout is not None:
                    self.layouts[picture.key] = layout

    def __contains__(self, key: str) -> bool:
        return key in self._pictures

    def __getitem__(self, key: str) -> Tensor:
        """Compute them. Raises BrokenImage: the picture has been removed or damaged since."""
        if self._encoder.sizes is None:
            return self._encoder(self._encoder.pixels_of(self._pictures[key])[None])[0]
        tiles = self._encoder.tiles_of(self._pictures[key])
        return tiles.layout.remaining(self._encoder(tiles.pixels))


def _layout(encoder: VisionEncoder, picture: Picture) -> Layout | None:
    """None if it is shown whole. Raises BrokenImage: missing or damaged."""
    if encoder.sizes is not None:
        return encoder.tiles_of(picture).layout
    encoder.pixels_of(picture)
    return None
