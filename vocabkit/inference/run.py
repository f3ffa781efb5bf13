"""Inference from files: an adapter, models and pictures by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.devices import check_dtype, open_device
from vocabkit.errors import VocabkitError
from vocabkit.inference.infer import Inferred, infer
from vocabkit.inference.inputs import open_inputs
from vocabkit.inference.models import Models, Wanted
from vocabkit.inference.result_files import ResultFolder
from vocabkit.llms import LLM, load_llm
from vocabkit.lvlm import LVLM, Connector, encoder_of, llm_of, load_connector, visual_width
from vocabkit.targets import open_target
from vocabkit.tensor_files import fingerprint
from vocabkit.verification import checked_ids


@dataclass(frozen=True)
class Run:
    """What was computed, with what."""

    folder: Path
    device: str
    settings: dict[str, Any]
    """That the results depend on."""
    report: Inferred


def infer_files(
    adapter: str,
    inputs: Sequence[str],
    out: Path,
    wanted: Wanted,
    *,
    llm: str | None = None,
    vision: str | None = None,
    keep_cls: bool | None = None,
    pool: tuple[int, int] | None = None,
    images: Path | None = None,
    split: str = "train",
    image_column: str = "image",
    batch: int = 32,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[str, int, int | None], None] = lambda what, done, total: None,
) -> Run:
    """`infer` with an adapter, an LLM and a vision encoder by name. Inputs are those of `open_inputs`.

    Args:
        adapter: a checkpoint folder, a `.pt` file or a hub id.
        llm: NAME=SOURCE; needed for captions, and for the visual tokens of an adapter that was not transferred.
        vision, keep_cls, pool: as for `encoder_of`; by default what the adapter was trained with.
        device: by default cuda, if there is one.
        dtype: of weights, visual tokens and arithmetic; by default bfloat16 on a GPU and float32 on a CPU.

    Raises VocabkitError: anything that can't be found or does not fit.
    """
    place = open_device(device)
    chosen = dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    check_dtype(place, chosen)
    pictures, total = open_inputs(inputs, images=images, split=split, image_column=image_column)
    connector = load_connector(adapter)
    reader = _reader(connector, wanted, llm, chosen)
    settings: dict[str, Any] = {
        "adapter": _fingerprint(connector, reader),
        "llm": reader.name,
        "dtype": str(chosen).partition(".")[2],
    }
    encoder = encoder_of(connector, vision, keep_cls=keep_cls, pool=pool, device=place, dtype=chosen)
    models = Models(encoder, connector, reader.rows, reader.llm, place, chosen).moved()
    settings |= encoder.info
    del settings["name"]  # of the encoder, which may have moved
    settings["vision"] = settings.pop("fingerprint")
    settings |= dataclasses.asdict(wanted)
    values = encoder.tokens * (reader.width if wanted.visual_tokens else 0)
    folder = ResultFolder(
        out,
        settings,
        picture_bytes=values * chosen.itemsize + encoder.tokens * 16 * (wanted.top or 0) + 1,
        shared=connector.shared,
        llm=reader.name,
    )
    report = infer(
        models, wanted, pictures, folder, batch=batch, progress=lambda done: progress(encoder.name, done, total)
    )
    return Run(out, str(place), settings, report)


@dataclass(frozen=True, eq=False)
class _Reader:
    """The LLM that visual tokens are for."""

    name: str
    """Of its column in the adapter's shared vocabulary, if there is one."""
    width: int
    """D; 0 where it does not matter."""
    rows: Tensor | None = None
    """(V, D) its embeddings of the shared vocabulary, for an adapter without."""
    llm: LLM | None = None
    """For captions."""


def _reader(connector: Connector, wanted: Wanted, llm: str | None, dtype: torch.dtype) -> _Reader:
    own = llm_of(connector)
    if wanted.captions is not None:
        if llm is None:
            raise VocabkitError("--captions needs the LLM that writes them: add --llm NAME=SOURCE")
        loaded = load_llm(llm, dtype)
        rows = LVLM(loaded, connector).embeddings
        return _Reader(own if rows is None else loaded.vocabulary.name, loaded.width, rows, loaded)
    if not isinstance(connector, LangBridgeAdapter):
        if llm is not None:
            raise VocabkitError(f"--llm: the adapter gives visual tokens of {own} without it; it is for --captions")
        return _Reader(own, visual_width(connector) or 0)
    if llm is None:
        if wanted.visual_tokens:
            raise VocabkitError(
                "visual tokens of this adapter are sums of embeddings of an LLM: add --llm NAME=SOURCE, or transfer it"
            )
        return _Reader(own, 0)
    target, _ = open_target(llm)
    ids = checked_ids(connector.shared, target.vocabulary, llm)
    rows = target.embeddings.rows(ids, tokens=target.vocabulary)
    return _Reader(target.vocabulary.name, target.embeddings.width, rows)


def _fingerprint(connector: Connector, reader: _Reader) -> str:
    """Of all numbers that visual tokens depend on, and of the embeddings of the LLM that writes captions."""
    tensors = dict(connector.state_dict())
    if reader.rows is not None:
        tensors["rows"] = reader.rows
    if reader.llm is not None:
        tensors["llm"] = reader.llm.model.get_input_embeddings().weight
    return fingerprint(connector.config, tensors)
