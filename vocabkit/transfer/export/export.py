"""Export an adapter for one LLM in the format of another program.

Other programs expect a two-layer projector. An MLP is one. A transferred adapter with a linear head folds into one,
exactly. For any other transferred adapter, a projector is fitted on patch features, which is an approximation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch

from vocabkit.adapter.checkpoint import check_destination, locate
from vocabkit.adapter.checkpoint import read_config as read_adapter_config
from vocabkit.adapter.config import AdapterConfig, AspectRatio, MLPConfig
from vocabkit.adapter.description import EXPORTS
from vocabkit.adapter.model import Adapter, LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.adapter.partners import check_encoder, check_llm, unknown_encoder
from vocabkit.data.llava import read_llava
from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.devices import open_device
from vocabkit.llm.load import down_to_llm, llm_folder, llm_source, llm_table, model_folder, read_config
from vocabkit.llm.weight_files import read_weights, weight_files
from vocabkit.llm.write import HEAD, config_dtype
from vocabkit.tokenizer.gguf import read_tensor_table
from vocabkit.tokenizer.lora import is_lora
from vocabkit.transfer.distill import Distillation, check_distillable, distil
from vocabkit.transfer.export.hf import check_adapter, export_hf
from vocabkit.transfer.export.llava import check_vision, export_llava
from vocabkit.transfer.export.mmproj import export_mmproj, gguf_tensors
from vocabkit.transfer.export.vision import LLAVA_NEXT, check_features, vision_tensors
from vocabkit.transfer.fold import check_folds, check_padding, fold, folded_config
from vocabkit.transfer.published import export_mm_projector
from vocabkit.vision.encoder import encoder_of, open_vision
from vocabkit.vision.features import Features, open_features
from vocabkit.vision.transformers_model import read_vision_config

Form = Literal["hf", "projector", "llava", "llava-next", "mmproj", "mm_projector"]
"""hf: a checkpoint for transformers with the adapter as it is. projector: a checkpoint of vocabkit. llava, llava-next:
a Hugging Face Llava or LlavaNext checkpoint. mmproj: a GGUF for llama.cpp. mm_projector: LLaVA's `mm_projector.bin`."""
_WHOLE_MODELS = ("llava", "llava-next")


@dataclass(frozen=True)
class ExportOptions:
    """What an export needs besides the adapter. Most forms need nothing."""

    llm: str | None = None
    """For hf and llava: the LLM, as `load_llm` takes it."""
    other_weights: bool = False
    """Accept an LLM that was tuned since the adapter was made for it."""
    vision: str | None = None
    """For hf, llava and mmproj: the vision model that the adapter was trained with, a folder or a hub id. For hf, by
    default that which the adapter records, and `efficientnet-lite0` too."""
    keep_cls: bool = False
    """For hf and llava: whether class tokens become visual tokens. If False, they do only if the adapter records it."""
    image_aspect_ratio: AspectRatio | None = None
    """For hf and llava: how pictures become square, if the adapter does not record it. For mmproj: pad, to accept that
    llama.cpp pads pictures although the adapter was trained on others."""
    features: str | Path | None = None
    """Folder of patch features to distil on; None to fold."""
    data: tuple[str | Path, ...] = ()
    """LLaVA JSON or JSONL files with the pictures to distil on; by default all pictures in `features`."""
    hidden_width: int | None = None
    """Hidden units of a distilled projector; by default as many as the LLM is wide, the most that Llava can hold."""
    steps: int = 2000
    """Optimizer steps of the distillation."""
    seed: int = 0
    """Seed of the distillation."""
    device: str = "cpu"
    """Device of the distillation."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    config: MLPConfig | AdapterConfig
    """The configuration of the projector; for hf, of the adapter."""
    bytes: int
    """Size of all tensors, without the row of a new image token."""
    distillation: Distillation | None
    """How well a projector was fitted; None if it is exact."""


def check_place(out: str | Path, form: Form) -> None:
    """Raise VocabkitError if an export in this form can't be written to `out` (see `check_destination`)."""
    check_destination(out, EXPORTS[form])


def export(
    adapter: Adapter | str | Path,
    form: Form,
    out: str | Path,
    options: ExportOptions = ExportOptions(),
    *,
    progress: Progress = no_progress,
) -> Exported:
    """Write `adapter` as `form` to `out`. Everything that can be checked is checked before the work.

    Args:
        adapter: a transferred adapter or an MLP, in memory or as a folder, `.pt` file or hub id.
        progress: reports the steps of a distillation, and the bytes of an LLM.

    Raises:
        VocabkitError: options that do not go together, an adapter that was not transferred, does not fold, or does not
            fit the form, the vision model or the LLM; or `out` can't be written.
    """
    out = Path(out)
    _check_options(form, options)
    check_place(out, form)
    if not isinstance(adapter, LangBridgeAdapter | MLPProjector):
        path = locate(adapter)
        if form in (*_WHOLE_MODELS, "mm_projector") and options.features is None:
            _check_recorded_width(read_adapter_config(path))
        adapter = load_adapter(path)
    if form == "hf":
        return _export_hf(adapter, out, options, progress)
    features = None if options.features is None else open_features(Path(options.features))
    config = _projector_config(adapter, features, form, options.hidden_width)
    layer = -2 if config.vision_layer is None else config.vision_layer
    keep_cls = options.keep_cls or bool(config.vision_keep_cls)
    aspect_ratio = options.image_aspect_ratio
    if form == "mm_projector" and config.newline_width is not None:
        raise VocabkitError(
            "the adapter was trained on tiles of pictures, whose rows end in image_newline, which mm_projector.bin "
            "does not hold; export llava-next, or projector"
        )
    name = LLAVA_NEXT if form == "llava-next" else "a Llava checkpoint"
    if form in _WHOLE_MODELS:
        check_features(name, config, keep_cls=keep_cls, aspect_ratio=aspect_ratio)
    elif form == "mmproj":
        check_features("llama.cpp", config, keep_cls=False, aspect_ratio=None)
        check_padding_of_llama_cpp(config, aspect_ratio)
    if isinstance(adapter, LangBridgeAdapter) and features is None:  # last: its advice would not help against the above
        check_folds(adapter.config.head)
    if form in (*_WHOLE_MODELS, "mm_projector"):
        check_padding(config.hidden_width, config.llm_width, mlp=isinstance(adapter, MLPProjector))
    vision = None if options.vision is None else model_folder(options.vision)
    if form in _WHOLE_MODELS and vision is not None:
        check_vision(config, vision, layer, keep_cls=keep_cls, aspect_ratio=aspect_ratio)
    if options.vision is not None:
        _check_fingerprint(config, options.vision, layer, keep_cls=keep_cls)
    tuned = 0.0
    if options.llm is not None:
        table = llm_table(options.llm)
        own = getattr(adapter, "embeddings", None)
        tuned = check_llm(adapter.config, adapter.shared, table, rows=own, other_weights=options.other_weights)
    dtype = next(iter(adapter.parameters())).dtype if isinstance(adapter, MLPProjector) else _rows_dtype(adapter)
    size = export_size(form, config, dtype, vision, options.llm)
    projector, distillation = _projector(adapter, features, options, progress)
    projector.config = dataclasses.replace(projector.config, vision_aspect_ratio=config.vision_aspect_ratio)
    if form == "projector":
        projector.save(out)
    elif form == "mm_projector":
        export_mm_projector(projector, out)
    elif form == "mmproj":
        assert vision is not None
        export_mmproj(projector, vision, out, feature_layer=layer)
    else:
        assert vision is not None
        assert options.llm is not None
        if projector.config.vision_model is None:  # for the model card
            projector.config = dataclasses.replace(projector.config, vision_model=options.vision)
        progress(f"preparing {options.llm}", 0, None)  # minutes, if a GGUF is dequantised or LoRA weights are merged
        with llm_folder(options.llm) as llm:
            if is_lora(llm_source(options.llm)):  # which may add rows, or an output layer of its own
                size = export_size(form, config, dtype, vision, str(llm))
            export_llava(
                projector, vision, llm, out, feature_layer=layer, keep_cls=keep_cls,
                image_aspect_ratio=aspect_ratio, tuned=tuned, progress=progress,
            )  # fmt: skip
    return Exported(projector.config, size, distillation)


def _export_hf(adapter: Adapter, out: Path, options: ExportOptions, progress: Progress) -> Exported:
    """Write the adapter as it is, with its vision model and LLM."""
    assert options.llm is not None
    if isinstance(adapter, MLPProjector):
        raise VocabkitError("an MLP projector has no head; export llava, which needs no vocabkit to run")
    check_adapter(adapter)
    encoder = encoder_of(
        adapter, options.vision, keep_cls=options.keep_cls or None, image_aspect_ratio=options.image_aspect_ratio
    )
    tuned = check_llm(
        adapter.config,
        adapter.shared,
        llm_table(options.llm),
        rows=adapter.rows,
        other_weights=options.other_weights,
    )
    progress(f"preparing {options.llm}", 0, None)  # minutes, if a GGUF is dequantised or LoRA weights are merged
    with llm_folder(options.llm) as llm:
        size = export_hf(adapter, encoder, llm, out, tuned=tuned, progress=progress)
    return Exported(adapter.config, size, None)


def _check_options(form: Form, options: ExportOptions) -> None:
    if form == "hf":
        if options.llm is None:
            raise VocabkitError("hf holds the LLM: give `llm`")
        if options.features is not None or options.data:
            raise VocabkitError(
                "hf holds the adapter as it is, so nothing is distilled; leave `features` and `data` out"
            )
        return
    needs_vision = form in (*_WHOLE_MODELS, "mmproj")
    if needs_vision and options.vision is None:
        raise VocabkitError(f"{form} holds the vision model that the adapter was trained with: give `vision`")
    if needs_vision and options.vision == "efficientnet-lite0":
        raise VocabkitError(
            f"efficientnet-lite0 is not a vision transformer, so {form} can't hold it; export hf or projector"
        )
    if form in _WHOLE_MODELS and options.llm is None:
        raise VocabkitError("a Llava checkpoint holds the LLM: give `llm`")
    if options.keep_cls and form != "llava":  # tiles go without
        raise VocabkitError(f"`keep_cls` is only for llava, not {form}; leave it out")
    if options.image_aspect_ratio is not None and not needs_vision:
        raise VocabkitError(f"{form} says nothing about pictures; leave `image_aspect_ratio` out")
    for name, used in (("vision", needs_vision), ("llm", form in _WHOLE_MODELS)):
        if getattr(options, name) is not None and not used:
            raise VocabkitError(f"{form} holds no such model; leave `{name}` out")
    if options.data and options.features is None:
        raise VocabkitError("`data` chooses pictures to distil on: give `features`")
    if options.hidden_width is not None and options.features is None:
        raise VocabkitError("`hidden_width` is of a distilled projector: give `features`")


def _check_recorded_width(config: Mapping[str, Any]) -> None:
    """As `check_padding`, by a config as plain JSON: before gigabytes of rows are read and verified."""
    own = config.get("adapter", config)
    if not isinstance(own, dict) or own.get("head", "linear") != "linear" or own.get("vision_pool") is not None:
        return  # damaged, or another obstacle comes first
    hidden, width = own.get("hidden_width"), config.get("target_width", config.get("llm_width"))
    if isinstance(hidden, int) and isinstance(width, int):
        check_padding(hidden, width, mlp="llm_width" in config)


def check_padding_of_llama_cpp(config: MLPConfig, accepted: AspectRatio | None) -> None:
    """Raise VocabkitError if the adapter was trained on pictures that are not padded, which llama.cpp does to all."""
    if accepted == "square" or (config.vision_aspect_ratio == "square" and accepted is None):
        raise VocabkitError(
            "llama.cpp pads every picture to a square, but the adapter was trained with image_aspect_ratio square; to "
            "accept other visual tokens of pictures that are not square, set `image_aspect_ratio` to pad"
        )


def _projector_config(adapter: Adapter, features: Features | None, form: Form, hidden_width: int | None) -> MLPConfig:
    """Return the configuration of the projector that will be written, as far as it is known before the work."""
    if isinstance(adapter, MLPProjector):
        if features is not None:
            raise VocabkitError("an MLP projector needs no distillation; leave `features` out")
        return adapter.config
    if adapter.embeddings is None:
        raise VocabkitError("the adapter was not transferred: it has no embedding rows; run `vocabkit transfer` first")
    if adapter.config.spelled is not None:
        raise VocabkitError(
            f"its visual tokens are spelled out, but {form} holds a projector, which gives a mix for each patch; "
            "export it as hf, or mix them again: `vocabkit transfer --visual-tokens mix`"
        )
    if features is not None:
        check_distillable(adapter, features)
        config = folded_config(adapter.config)
        ratio = config.vision_aspect_ratio or features.encoder.get("image_aspect_ratio", "square")
        return dataclasses.replace(config, hidden_width=hidden_width or config.llm_width, vision_aspect_ratio=ratio)
    return folded_config(adapter.config)


def _check_fingerprint(config: MLPConfig, vision: str, layer: int, *, keep_cls: bool) -> None:
    """Raise VocabkitError if `vision` is not the adapter's own encoder, which takes its weights to tell."""
    if config.vision_fingerprint is None:
        unknown_encoder(config, vision)
    else:
        aspect_ratio = config.vision_aspect_ratio or "square"  # not part of the fingerprint
        pool = config.vision_pool
        info = open_vision(
            vision, layer=layer, keep_cls=keep_cls, pool=pool, image_aspect_ratio=aspect_ratio,
            grid_pinpoints=config.vision_grid_pinpoints,
        ).info  # fmt: skip
        check_encoder(config, info, vision)


def _rows_dtype(adapter: LangBridgeAdapter) -> torch.dtype:
    assert adapter.embeddings is not None
    return adapter.embeddings.dtype


def _projector(
    adapter: Adapter, features: Features | None, options: ExportOptions, progress: Progress
) -> tuple[MLPProjector, Distillation | None]:
    if isinstance(adapter, MLPProjector):
        return adapter, None
    if features is None:
        return fold(adapter), None
    keys: set[str] | None = None
    if options.data:
        keys = {image.key for file in options.data for sample in read_llava(Path(file)) for image in sample.images}
    device = open_device(options.device)
    return distil(
        adapter,
        features,
        keys=keys,
        hidden_width=options.hidden_width,
        steps=options.steps,
        seed=options.seed,
        device=device,
        progress=progress,
    )


def export_size(
    form: Form, config: MLPConfig, dtype: torch.dtype, vision: Path | None = None, llm: str | None = None
) -> int:
    """Bytes of all tensors that an export writes, without the row of a new image token. Reads configs and headers only.

    Args:
        config: of the projector, which is in `dtype` unless the LLM of a Llava checkpoint has another one.
        vision: folder of the vision model, for `llava` and `mmproj`.
        llm: as `llm_folder` takes it, for `llava`. It is downloaded if necessary.

    Raises:
        VocabkitError: a model that is damaged or missing.
    """
    if form in (*_WHOLE_MODELS, "mm_projector"):
        config = dataclasses.replace(config, hidden_width=config.llm_width)
    numbers = sum(map(prod, config.shapes().values()))
    if vision is None:
        return numbers * dtype.itemsize
    vision_config = read_vision_config(vision)
    if form == "mmproj":
        with torch.device("meta"):
            tensors = gguf_tensors(MLPProjector(config), vision, vision_config)
        return sum(tensor.numel() * kind.itemsize for tensor, kind in tensors.values())
    numbers += sum(tensor.numel() for tensor in vision_tensors(vision, vision_config).values())
    assert llm is not None
    source = down_to_llm(llm_source(llm))[-1]
    if source.is_file():
        shapes = [place.shape for place in read_tensor_table(source)[1].values()]
        return (numbers + sum(map(prod, shapes))) * torch.bfloat16.itemsize
    llm_config = read_config(source)
    weights = [
        tensor
        for file in weight_files(source)
        for key, tensor in read_weights(file).items()
        if not (key == HEAD and llm_config.tie_word_embeddings)
    ]
    used = config_dtype(llm_config) or weights[0].dtype
    return numbers * used.itemsize + sum(tensor.nbytes for tensor in weights)
