"""Partners of an adapter: its shared vocabulary, its vision encoder and its LLM, with one check for each.

Every command asks here, so that a partner that does not belong is an error and never a wrong answer. docs/transfer.md
lists what is compared.

An LLM is recognised by a sample of its embedding table, as it is stored: a hash would tell a rounded or quantised copy
from the original, but not how far the two are apart.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.config import SKETCH, AdapterConfig, AspectRatio, LLMInfo, MLPConfig, sampled_ids
from vocabkit.arrow.arrow_file import take, token_buffers
from vocabkit.errors import VocabkitError, quote, warn
from vocabkit.shared.shared_vocabulary import SharedVocabulary, Spellings
from vocabkit.shared.verify import other_ids
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

EXACT = 1e-6
"""Relative difference of equal rows, above the rounding of a sketch to float32."""
OTHER_TOKENS = 0.01
"""Share of the sampled text tokens that may differ within one tokenizer: fine-tuning renames reserved ones."""


WHOLE = "import its projector with `image_aspect_ratio` pad to show it the whole picture"
"""What to do with an adapter of tiles where there are none."""


class EncoderInfo(TypedDict):
    """A vision encoder and its settings. Encoders with equal info give equal features, up to rounding."""

    name: str
    layer: int | None
    keep_cls: bool
    pool: tuple[int, int] | None
    image_aspect_ratio: NotRequired[AspectRatio]
    """Features of earlier versions, which lack it, are square."""
    grid_pinpoints: NotRequired[tuple[tuple[int, int], ...]]
    """Only for anyres."""
    grid: tuple[int, int]
    """Rows and columns of patches, after pooling."""
    tokens: int
    """N."""
    width: int
    """Dv."""
    precision: str
    """The dtype that the encoder computes in."""
    fingerprint: str
    """Of its weights and its preprocessing."""


def check_shared(config: AdapterConfig, shared: SharedVocabulary | None) -> None:
    """Raise VocabkitError unless `shared` is the V_shared whose rows are those of the adapter's head."""
    if shared is None:
        raise VocabkitError("its shared vocabulary is missing, without which the head's rows have no meaning")
    if shared.fingerprint != config.shared_fingerprint:
        raise VocabkitError(
            f"the shared vocabulary is {quote(shared.fingerprint[:19])}…, but the head was trained on "
            f"{quote(config.shared_fingerprint[:19])}…; pass the one it was trained on"
        )
    if len(shared) != config.rows:
        raise VocabkitError(f"the head has {config.rows} rows, but the shared vocabulary has {len(shared)}")
    shared.spellings_for(config.llm)  # raises if the column is missing or has gaps
    if config.output_llm not in shared.names:
        raise VocabkitError(f"the shared vocabulary has no column of the target {config.output_llm}")


def check_encoder(config: AdapterConfig | MLPConfig, info: EncoderInfo, source: str | Path) -> None:
    """Raise VocabkitError unless features of `info`, read from `source`, are those that the adapter was trained on.

    Settings that the config does not record are not compared; where it records no fingerprint, a warning says so.
    """
    if info["width"] != config.vision_width:
        what = "projector" if isinstance(config, MLPConfig) else "adapter"
        raise VocabkitError(
            f"{source}: gives features of width {info['width']}, but the {what} takes {config.vision_width}; use the "
            "vision model that it was trained with"
        )
    known: dict[str, tuple[object, object]] = {}
    if config.vision_layer is not None:
        known["layer"] = config.vision_layer, info["layer"]
    if config.vision_keep_cls is not None:
        known |= {"keep_cls": (config.vision_keep_cls, info["keep_cls"]), "pool": (config.vision_pool, info["pool"])}
    if config.vision_aspect_ratio is not None:
        known["image_aspect_ratio"] = config.vision_aspect_ratio, info.get("image_aspect_ratio", "square")
    if config.vision_aspect_ratio == "anyres" and info.get("image_aspect_ratio") != "anyres":
        raise VocabkitError(
            f"{source}: gives features of whole pictures, but the adapter was trained on tiles of them "
            f"(image_aspect_ratio anyres), which only infer, export, and validate without `features` compute; {WHOLE}"
        )
    for name, (wanted, found) in known.items():
        if wanted != found:
            raise VocabkitError(
                f"{source}: gives features with {name} {_shown(found)}, but the adapter was trained with {name} "
                f"{_shown(wanted)}; use the same"
            )
    if config.vision_fingerprint is None:
        unknown_encoder(config, source)
    elif config.vision_fingerprint != info["fingerprint"]:
        own = "another one" if config.vision_model is None else quote(config.vision_model, 200)
        raise VocabkitError(
            f"{source}: not the vision encoder that the adapter was trained with, {own}: its weights or its image "
            "preprocessing differ"
        )


def unknown_encoder(config: AdapterConfig | MLPConfig, source: str | Path) -> None:
    """Warn that an encoder can't be compared."""
    own = config.vision_model
    named = "" if own is None or own == str(source) else f", {quote(own, 200)}"
    warn(f"{source}: taken as the adapter's own vision encoder{named}, of which it records no fingerprint to compare")


@dataclass(frozen=True, eq=False)
class LLMTable:
    """An LLM as its tokenizer and its embedding table."""

    source: str
    """What the user called it, for messages."""
    vocabulary: Vocabulary
    height: int
    """Rows of the table, padding included."""
    width: int
    """D."""
    read: Callable[[np.ndarray], Tensor]
    """(R,) ascending ids -> (R, D) rows as they are stored: without the model's multiplier, whose rounding depends on
    the dtype that it runs in."""
    rounding: float = 0.0
    """See `LLMInfo`."""


def llm_info(llm: LLMTable) -> LLMInfo:
    """Return what `llm` is recognised by. Reads `SAMPLE` rows."""
    ids = min(len(llm.vocabulary), llm.height)
    sample = sampled_ids(ids)
    rows = _narrow(llm.read(sample))
    return LLMInfo(
        _text_fingerprint(llm.vocabulary, ids),
        ids,
        base64.b64encode(_token_hashes(llm.vocabulary, sample).tobytes()).decode(),
        (llm.height, llm.width),
        str(rows.dtype).removeprefix("torch."),
        llm.rounding,
        base64.b64encode(_sketch(rows).astype("<f4").tobytes()).decode(),
    )


def check_llm(
    config: AdapterConfig | MLPConfig,
    shared: SharedVocabulary | None,
    llm: LLMTable,
    *,
    rows: Tensor | None = None,
    other_weights: bool = False,
) -> float:
    """Raise VocabkitError unless `llm` is the one that the adapter's visual tokens are for.

    An adapter that was not transferred is for the LLM that it was trained with, and for any other whose tokenizer has a
    column in its V_shared. What an adapter does not record is not compared, and a warning says so.

    Args:
        shared: the adapter's V_shared, None for a projector.
        rows: (V, D) the embedding rows that a transferred adapter carries. One of an earlier version, which records
            nothing else of its LLM, is compared by them.
        other_weights: accept other embedding rows under the same tokenizer: those of an LLM that was tuned since.

    Returns:
        The relative difference of the embedding rows; 0 if they are equal up to rounding, or can't be compared.
    """
    name, source = config.output_llm, llm.source
    if isinstance(config, AdapterConfig) and shared is not None and config.output_width is None:
        llm_spellings(shared, llm.vocabulary, source)
        config.check_newline(llm.vocabulary.name, llm.width)
        if llm.vocabulary.name != name:
            return 0.0
    elif shared is not None:
        _check_ids(shared, name, llm.vocabulary, source)
    if config.output_width not in (None, llm.width):
        raise VocabkitError(
            f"{source}: its embeddings have width {llm.width}, but the adapter gives visual tokens of width "
            f"{config.output_width} for {name}; name that LLM, or transfer the adapter as it was trained"
        )
    own = config.output_info
    if own is not None:
        _check_tokenizer(own, name, llm)
        difference = _difference(own, llm)
    elif shared is not None and rows is not None:
        difference = _difference_of_rows(shared, name, rows, llm)
    else:
        what = "width" if shared is None else "tokenizer"
        warn(f"{source}: only its {what} is compared with that of {name}, whose weights the adapter does not record")
        return 0.0
    if not difference:
        return 0.0
    relative = f"relative difference {difference:.2g}"
    if own is not None and llm.height < own.ids:
        relative = f"{llm.height:,}, fewer than its {own.ids:,} tokens"
    if not other_weights:
        raise VocabkitError(
            f"{source}: other embedding rows than {name} had for the adapter ({relative}); name that LLM, or set "
            "`other_weights` if this one was tuned from it since"
        )
    warn(f"{source}: taken as {name}, with other embedding rows than it had for the adapter ({relative})")
    return difference


def llm_spellings(shared: SharedVocabulary, llm: Vocabulary, source: str) -> Spellings:
    """Return the LLM's ids for each row of `shared`, from the column with the name of `llm`.

    Raises VocabkitError: no such column, a column with gaps, or with ids of another tokenizer.
    """
    if llm.name not in shared.names:
        raise VocabkitError(
            f"{source}: the shared vocabulary has columns of {', '.join(shared.names)}, none of {llm.name}; if "
            "it is one of them, name it so: NAME=SOURCE; if not, `vocabkit transfer` moves the adapter to it"
        )
    _check_ids(shared, llm.name, llm, source)
    return shared.spellings_for(llm.name)


def _check_ids(shared: SharedVocabulary, name: str, llm: Vocabulary, source: str) -> None:
    if difference := other_ids(shared, name, llm):
        raise VocabkitError(f"{source}: {difference}; is it another LLM?")


def _check_tokenizer(own: LLMInfo, name: str, llm: LLMTable) -> None:
    if _text_fingerprint(llm.vocabulary, own.ids) == own.tokenizer:
        return
    hashes = own.token_hashes
    found = _token_hashes(llm.vocabulary, own.sample)
    text = (hashes > 0) & (found > 0)
    other = int((hashes != found)[text].sum())
    if not text.any() or other > OTHER_TOKENS * text.sum():
        raise VocabkitError(
            f"{llm.source}: its tokenizer is not that of {name}, the LLM that the adapter gives visual tokens for "
            f"({other} of {int(text.sum())} ids looked up have other tokens); name that LLM"
        )


def _difference(own: LLMInfo, llm: LLMTable) -> float:
    """The relative difference between the sampled rows of `llm` and the recorded ones; 0 if rounding explains it."""
    if llm.width != own.table[1] or llm.height < own.ids:
        return 1.0  # not a row in common
    rows = _narrow(llm.read(own.sample))
    recorded = getattr(torch, own.dtype)
    allowed = max(EXACT, own.rounding, llm.rounding)
    if rows.dtype != recorded and rows.dtype.itemsize == 2:  # both may be roundings of a third
        allowed = max(allowed, torch.finfo(rows.dtype).eps / 2, torch.finfo(recorded).eps / 2)
    rows = rows.to(recorded)  # a wider copy of the recorded rows becomes equal to them
    sums = own.sums.astype(np.float64)
    difference = _relative(_sketch(rows) - sums, sums)
    return difference if not difference <= allowed else 0.0


def _difference_of_rows(shared: SharedVocabulary, name: str, rows: Tensor, llm: LLMTable) -> float:
    """The same for the rows (V, D) inside a transferred adapter, whatever their multiplier."""
    spellings = shared.spellings(name)
    known = np.flatnonzero(spellings.lengths == 1)
    ids = spellings.ids[spellings.offsets[known]]
    order = np.argsort(ids, kind="stable")[sampled_ids(len(ids))]
    known, ids = known[order], ids[order]
    if int(ids.max(initial=-1)) >= llm.height:
        return 1.0
    own = rows[torch.from_numpy(known)].double().cpu().numpy()
    found = llm.read(ids).double().cpu().numpy()
    factor = float((own * found).sum() / max((found * found).sum(), np.finfo(np.float64).tiny))
    allowed = max(torch.finfo(torch.bfloat16).eps / 2, llm.rounding)
    difference = _relative(own - factor * found, own)
    return difference if not difference <= allowed else 0.0


def _narrow(rows: Tensor) -> Tensor:
    """The rows in the narrowest dtype that holds them: a model loaded in float32 has rows as rounded as its file's."""
    narrow = (rows.to(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32))
    return next((found for found in narrow if torch.equal(found.to(rows.dtype), rows)), rows)


def _relative(difference: np.ndarray, of: np.ndarray) -> float:
    return float(np.linalg.norm(difference) / max(np.linalg.norm(of), np.finfo(np.float64).tiny))


def _sketch(rows: Tensor) -> np.ndarray:
    """(R, D) -> (SKETCH,) float64, linear in the rows.

    Each number is the sum of every `SKETCH`-th element under a random sign, so the squared length of the sketch is on
    average that of the rows (Alon, Matias and Szegedy, 1996), and any changed row changes it.
    """
    numbers = rows.detach().cpu().flatten()
    # RandomState, because its stream never changes between versions of numpy
    signs = np.frombuffer(np.random.RandomState(0).bytes(-(-len(numbers) // 8)), np.uint8)
    # a part at a time: all of them in float64 take 100 MB, and torch starts threads for more than 32,768
    sums, step = np.zeros((1, SKETCH)), 64 * SKETCH
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step].double().numpy()
        positive = np.unpackbits(signs[start // 8 : (start + step) // 8])[: len(part)]
        signed = part * (2.0 * positive - 1.0)
        if len(signed) % SKETCH:
            signed = np.pad(signed, (0, -len(signed) % SKETCH))
        sums = np.concatenate([sums, signed.reshape(-1, SKETCH)]).sum(axis=0, keepdims=True)
    first: np.ndarray = sums[0]
    return first


def _text_fingerprint(vocabulary: Vocabulary, ids: int) -> str:
    """sha256 of the text tokens among the first `ids`, and of their ids."""
    offsets, data = token_buffers(vocabulary.tokens)
    text = np.flatnonzero(vocabulary.kinds[:ids] <= Kind.BYTE)
    lengths = np.diff(offsets)
    digest = hashlib.sha256(b"vocabkit text tokens 1\n")
    digest.update(text.astype("<i4").data)
    digest.update(lengths[text].astype("<i4").data)
    is_text = np.zeros(len(vocabulary), bool)
    is_text[text] = True
    digest.update(data[np.repeat(is_text, lengths)].data)
    return f"sha256:{digest.hexdigest()}"


def _token_hashes(vocabulary: Vocabulary, ids: np.ndarray) -> np.ndarray:
    """(R,) -> (R,) uint8: see `LLMInfo.tokens`."""
    is_text = ids < len(vocabulary)
    is_text[is_text] = vocabulary.kinds[ids[is_text]] <= Kind.BYTE
    tokens = take(vocabulary.tokens, ids[is_text]).to_pylist()
    hashes = np.zeros(len(ids), np.uint8)
    hashes[is_text] = [1 + hashlib.sha256(token).digest()[0] % 255 for token in tokens]
    return hashes


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
