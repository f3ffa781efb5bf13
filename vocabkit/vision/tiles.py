"""Tiles of a picture, as LLaVA-NeXT shows it: `image_aspect_ratio` anyres, `mm_patch_merge_type` spatial_unpad.

The picture is shown whole, squeezed into a square, and then in tiles of the encoder's size. Together they hold it in
the size that fits it best, of a few given ones, padded with black. Patches of nothing but padding are dropped, and a
learned vector, `image_newline`, ends each row of patches. Source: LLaVA-NeXT (Liu et al., 2024), rounded as in
transformers' LlavaNextForConditionalGeneration.

Sizes: T tiles with the whole picture as the first, P patches each, L patches that remain, R rows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vocabkit.errors import VocabkitError

Sizes = tuple[tuple[int, int], ...]
"""Heights and widths in pixels that a picture may get (`image_grid_pinpoints`)."""


@dataclass(frozen=True)
class Layout:
    """Where the patches of one picture stand."""

    grid: tuple[int, int]
    """Rows and columns of patches of a tile."""
    down: int
    """Tiles from top to bottom."""
    across: int
    """Tiles from left to right."""
    top: int
    """Rows of patches that are dropped at the top, and as many at the bottom."""
    left: int
    """Columns that are dropped at the left, and as many at the right."""

    @classmethod
    def of(cls, size: tuple[int, int], sizes: Sizes, tile: int, grid: tuple[int, int]) -> Layout:
        """Lay out a picture of `size` (height, width), with tiles of `tile` x `tile` pixels."""
        from transformers.image_processing_utils import select_best_resolution  # takes seconds, and few use tiles

        height, width = size
        best = select_best_resolution(size, [list(each) for each in sizes])
        down, across = best[0] // tile, best[1] // tile
        rows, columns = down * grid[0], across * grid[1]
        top = left = 0
        if width / height > columns / rows:
            top = (rows - int(round(height * (columns / width), 7))) // 2  # 7 digits: as transformers rounds
        else:
            left = (columns - int(round(width * (rows / height), 7))) // 2
        return cls(grid, down, across, top, left)

    @property
    def rows(self) -> int:
        """R."""
        return self.down * self.grid[0] - 2 * self.top

    @property
    def columns(self) -> int:
        """Patches of a row."""
        return self.across * self.grid[1] - 2 * self.left

    @property
    def patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1] + self.rows * self.columns

    @property
    def tokens(self) -> int:
        """L + R: visual tokens."""
        return self.patches + self.rows

    def remaining(self, features: Tensor) -> Tensor:
        """(T, P, Dv) -> (L, Dv): the whole picture, then the rows of all tiles side by side."""
        height, width = self.grid
        whole, tiles = features[0], features[1:].unflatten(1, self.grid).unflatten(0, (self.down, self.across))
        joined = tiles.permute(0, 2, 1, 3, 4).reshape(self.down * height, self.across * width, -1)
        kept = joined[self.top : self.top + self.rows, self.left : self.left + self.columns]
        return torch.cat([whole, kept.flatten(0, 1)])

    def with_newlines(self, tokens: Tensor, newline: Tensor) -> Tensor:
        """(L, D) visual tokens, (D,) image_newline -> (L + R, D)."""
        whole = self.grid[0] * self.grid[1]
        rows = tokens[whole:].unflatten(0, (self.rows, self.columns))
        ends = newline.to(tokens).expand(self.rows, 1, -1)
        return torch.cat([tokens[:whole], torch.cat([rows, ends], dim=1).flatten(0, 1)])


@dataclass(frozen=True, eq=False)
class Tiles:
    """A picture in tiles."""

    pixels: Tensor
    """(T, 3, H, W)."""
    layout: Layout


def visual_tokens(
    connector: Callable[[Tensor], Tensor],
    features: Sequence[Tensor],
    layouts: Sequence[Layout | None],
    newline: Tensor | None,
) -> list[Tensor]:
    """Return the visual tokens (N, D) of each picture, whose numbers may differ.

    Args:
        connector: (L, Dv) -> (L, D) and, without tiles, (I, L, Dv) -> (I, N, D).
        features: (L, Dv) of each picture.
        layouts: None for a picture that is not in tiles, whose N is L, or what the connector makes of it.
        newline: (D,) image_newline, for those in tiles.
    """
    if all(layout is None for layout in layouts):
        return list(connector(torch.stack(list(features))))
    parts = connector(torch.cat(list(features))).split([len(each) for each in features])
    found = []
    for part, layout in zip(parts, layouts, strict=True):
        assert layout is None or newline is not None
        found.append(part if layout is None or newline is None else layout.with_newlines(part, newline))
    return found


def check_sizes(sizes: Sizes, tile: int) -> None:
    """Raise VocabkitError unless `sizes` are whole numbers of tiles."""
    if not sizes:
        raise VocabkitError("image_aspect_ratio anyres needs image_grid_pinpoints, the sizes that a picture may get")
    for height, width in sizes:
        if height < tile or width < tile or height % tile or width % tile:
            raise VocabkitError(
                f"image_grid_pinpoints has {height} x {width} pixels, which tiles of {tile} x {tile} do not fill"
            )


def largest(sizes: Sequence[tuple[int, int]], tile: int, grid: tuple[int, int]) -> int:
    """Return the most visual tokens that a picture can get."""
    return max(
        grid[0] * grid[1] * (1 + (height // tile) * (width // tile)) + height // tile * grid[0]
        for height, width in sizes
    )
