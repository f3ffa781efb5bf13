"""Transformers' Llava with an adapter in place of its projector: any head, pooled patches, spelled visual tokens.

`import vocabkit.serving` registers these classes, so that transformers' auto classes load what `vocabkit export --as
hf` writes. Names of tensors are those of Llava; the adapter's are under `model.multi_modal_projector`.
"""

from __future__ import annotations

import base64
import os
import urllib.request
from functools import cached_property
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL.Image import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
    LlavaProcessor,
)
from transformers.processing_utils import MultiModalData

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.data.pictures import as_rgb, check_shape, load_image
from vocabkit.data.samples import Picture
from vocabkit.data.urls import LARGEST
from vocabkit.errors import VocabkitError, quote
from vocabkit.llm.load import first_line
from vocabkit.shared.shared_vocabulary import Spellings
from vocabkit.vision.encoder import chosen_features

_CLASS_TOKENS = 8
"""The most class and register tokens that a vision model puts before its patches; known ones have up to five."""


class VocabkitLlavaConfig(LlavaConfig):
    """Llava's config, the adapter's, and how hidden states of the vision model become features.

    `image_seq_length` is the number of visual tokens of an image. Hidden states come whole, with class tokens
    (`vision_feature_select_strategy` full); the adapter's config says which of them it takes.
    """

    model_type = "vocabkit_llava"
    adapter: dict[str, Any] | None = None
    """The adapter's config, as in its checkpoint."""
    vision_grid: list[int] | None = None
    """Rows and columns of patches, before pooling."""

    def __post_init__(self, **fields: Any) -> None:
        """Check what the adapter needs. Raises VocabkitError: settings that no adapter has, or not of these models."""
        super().__post_init__(**fields)  # type: ignore[no-untyped-call]
        if self.adapter is not None:
            self.parsed()

    def parsed(self) -> tuple[AdapterConfig, tuple[int, int]]:
        """Return the adapter's config and the grid. Raises VocabkitError: missing, wrong, or not of these models."""
        try:
            config = AdapterConfig.from_json(msgspec.convert(self.adapter, dict[str, Any]))
            rows, columns = msgspec.convert(self.vision_grid, tuple[int, int])
        except msgspec.ValidationError as error:
            raise VocabkitError(f"config.json: the adapter's settings are wrong: {error}") from error
        _check(config, (rows, columns), self)
        return config, (rows, columns)


def _check(config: AdapterConfig, grid: tuple[int, int], llava: Any) -> None:
    """Raise VocabkitError unless the three parts fit each other."""
    pool = config.vision_pool or grid
    patches = pool[0] * pool[1]
    shown = config.visual_tokens(patches)
    # the number of kept class tokens is not recorded, so it shows in image_seq_length alone
    fits = llava.image_seq_length >= shown if config.vision_keep_cls else llava.image_seq_length == shown
    layers, layer, token = llava.vision_config.num_hidden_layers, llava.vision_feature_layer, llava.image_token_index
    wrong = {
        "the adapter was not transferred": config.transfer is None,
        "the adapter takes tiles of pictures": config.newline_width is not None,
        f"vision_grid {list(grid)} and vision_pool {list(pool)} do not go together": not (
            1 <= pool[0] <= grid[0] and 1 <= pool[1] <= grid[1]
        ),
        f"image_seq_length {llava.image_seq_length} should be {shown}": not fits,
        "vision_feature_select_strategy should be full": llava.vision_feature_select_strategy != "full",
        f"vision_feature_layer {layer} should be one of its {layers} layers": not (
            type(layer) is int and -layers - 1 <= layer <= layers
        ),
        f"image_token_index {token} should be a token of the LLM": not (
            type(token) is int and 0 <= token < llava.text_config.vocab_size
        ),
        f"the vision model has width {llava.vision_config.hidden_size}, but the adapter takes {config.vision_width}": (
            llava.vision_config.hidden_size != config.vision_width
        ),
        f"the LLM has width {llava.text_config.hidden_size}, but the adapter gives {config.output_width}": (
            llava.text_config.hidden_size != config.output_width
        ),
    }
    for problem, found in wrong.items():
        if found:
            raise VocabkitError(f"config.json: {problem}; export the adapter again")


class Connector(LangBridgeAdapter):
    """A transferred adapter without its shared vocabulary, which takes all hidden states of a layer."""

    lengths: Tensor | None
    """(V,) int64 how many embeddings each row has, if visual tokens are spelled out by several."""
    counts: Tensor | None
    """(V,) int64 how often each row occurs in the corpus, if visual tokens are spelled out."""

    def __init__(self, config: AdapterConfig, grid: tuple[int, int]) -> None:
        """Make one with torch's initial weights; the target's rows are uninitialised.

        Args:
            grid: rows and columns of patches, before pooling.
        """
        nn.Module.__init__(self)
        self._grid = grid
        self._make_layers(config)
        of_several = config.transfer is not None and config.transfer.pieces is not None
        for name, needed in (("lengths", of_several), ("counts", config.spelled is not None)):
            self.register_buffer(name, torch.empty(config.rows, dtype=torch.int64) if needed else None)

    def forward(self, states: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C + P, Dv) hidden states -> (B, N, D) visual tokens."""
        config = self.config
        keep_cls, pool = bool(config.vision_keep_cls), config.vision_pool
        before = states.shape[1] - self._grid[0] * self._grid[1]
        if not 0 <= before <= _CLASS_TOKENS:
            rows, columns = self._grid
            raise VocabkitError(
                f"config.json: vision_grid [{rows}, {columns}] is not that of the vision model, which gives "
                f"{states.shape[1]} hidden states; export the adapter again"
            )
        with torch.autocast(states.device.type, enabled=False):  # hidden states and the head have one dtype
            return super().forward(chosen_features(states, self._grid, keep_cls=keep_cls, pool=pool))

    @property
    def _counts(self) -> Tensor:
        assert self.counts is not None
        return self.counts

    @cached_property
    def _spellings(self) -> Spellings:
        """Where the embeddings of each row are."""
        lengths = [1] * self.config.rows if self.lengths is None else self.lengths.tolist()
        return Spellings(np.arange(sum(lengths), dtype=np.int32), np.cumsum([0, *lengths], dtype=np.int64))


class VocabkitLlavaModel(LlavaModel):
    """Vision model, adapter and body of the LLM."""

    config_class = VocabkitLlavaConfig

    def __init__(self, config: VocabkitLlavaConfig) -> None:
        """Raises VocabkitError: see `VocabkitLlavaConfig.parsed`."""
        LlavaPreTrainedModel.__init__(self, config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector: Any = Connector(*config.parsed())
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]


class VocabkitLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """Vision model, adapter and LLM."""

    config_class = VocabkitLlavaConfig

    def __init__(self, config: VocabkitLlavaConfig) -> None:
        """Raises VocabkitError: see `VocabkitLlavaConfig.parsed`."""
        LlavaPreTrainedModel.__init__(self, config)
        self.model = VocabkitLlavaModel(config)
        text: Any = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **options: Any
    ) -> Any:
        """Load as transformers does. Raises VocabkitError: damaged, or tensors are missing or of another shape."""
        path, asked = pretrained_model_name_or_path, options.pop("output_loading_info", False)
        load: Any = super().from_pretrained
        try:
            model, found = load(path, *args, output_loading_info=True, **options)
        except (SafetensorError, RuntimeError, ValueError) as error:
            if isinstance(error, VocabkitError):
                raise
            raise VocabkitError(
                f"{path}: its tensors are damaged or not those of its config ({first_line(error)})"
            ) from error
        if missing := sorted(found["missing_keys"]):
            raise VocabkitError(
                f"{path}: its weights lack {quote(missing[0], 120)}, one of {len(missing)} missing tensors"
            )
        if others := sorted(found["unexpected_keys"]):
            raise VocabkitError(
                f"{path}: its config.json is not that of its weights, which also have {quote(others[0], 120)}"
            )
        return (model, found) if asked else model


class VocabkitLlavaProcessor(LlavaProcessor):
    """Llava's processor for pictures of any origin, with a number of image tokens that the adapter sets."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:  # type: ignore[override]
        """Load as transformers does, but with Pillow's image processor also where torchvision is installed.

        torchvision's, which transformers prefers, resizes to slightly other pixels than those of the training.
        """
        found: Any = super().from_pretrained(pretrained_model_name_or_path, **options)
        own = {**options, "backend": "pil"}
        found.image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, **own)
        return found

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        **options: Any,
    ) -> None:
        """See LlavaProcessor.

        Args:
            image_seq_length: visual tokens of an image, as in the model's config.
        """
        if type(image_seq_length) is not int or image_seq_length < 1:
            raise VocabkitError(
                "processor_config.json: image_seq_length is missing or not a number of visual tokens; export the "
                "adapter again"
            )
        self.image_seq_length = image_seq_length
        super().__init__(  # type: ignore[no-untyped-call]
            image_processor, tokenizer, chat_template=chat_template, image_token=image_token, **options
        )

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        """Open pictures by the rules of `load_image`, then as LlavaProcessor.

        Args:
            images: opened ones, arrays and tensors, paths, URLs, data URLs, base64; lists of them.

        Raises VocabkitError, naming the picture by its number: unreadable, or of an extreme size or proportions.
        """
        return super().__call__(images=None if images is None else self.opened(images), text=text, **options)

    def opened(self, images: Any) -> Any:
        """Pictures as `load_image` gives them, in nested lists like `images`; arrays and tensors as they are.

        Raises VocabkitError: see `__call__`.
        """
        numbers = count(1)
        pad = bool(getattr(self.image_processor, "do_pad", False))

        def one(image: Any) -> Any:
            if isinstance(image, list | tuple):
                return [one(each) for each in image]
            name = f"picture {next(numbers)}"
            if isinstance(image, str | Path | bytes):
                image = load_image(Picture(name, _source(name, image)))
            elif isinstance(image, Image):
                image = as_rgb(image, name)
            else:
                return image
            try:
                check_shape(image, pad=pad)
            except VocabkitError as error:
                raise VocabkitError(f"{name}: {error}") from error
            return image

        return one(images)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """Return the image tokens of a picture."""
        return str(self.image_token * self.image_seq_length)

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **_: Any) -> MultiModalData:
        counts = [] if image_sizes is None else [self.image_seq_length] * len(image_sizes)
        return MultiModalData(num_image_tokens=counts, num_image_patches=[1] * len(counts))


def _source(name: str, image: str | Path | bytes) -> Path | bytes:
    """A file, or the content of one. Raises VocabkitError: neither a file, nor a URL, nor base64."""
    if not isinstance(image, str):
        return image
    if image.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(image, timeout=60) as reply:
                found = bytes(reply.read(LARGEST + 1))
        except (OSError, ValueError, HTTPException) as error:
            raise VocabkitError(f"{name}: can't be fetched from {quote(image, 200)} ({first_line(error)})") from error
        if len(found) > LARGEST:
            raise VocabkitError(f"{name}: {quote(image, 200)} has more than {LARGEST:,} bytes, too many for a picture")
        return found
    content = image.partition(",")[2] if image.startswith("data:") else image
    if content is image and os.path.isfile(image):  # noqa: PTH113 - Path refuses names that are too long
        return Path(image)
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except ValueError as error:
        raise VocabkitError(f"{name}: {quote(image)} is neither a file, nor a URL, nor base64") from error
