"""What a transfer will give, told before any weights are read: from the adapter's config, V_shared and the target's
tokenizer. Needs no torch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vocabkit.adapter.config import AdapterConfig, Spelled, why_not_foldable
from vocabkit.adapter.description import describe
from vocabkit.errors import VocabkitError, quote, warn
from vocabkit.hub import hub_id
from vocabkit.shared.shared_vocabulary import SharedVocabulary, TokenizerInfo
from vocabkit.shared.verify import other_ids
from vocabkit.tokenizer.catalog import Resolved, catalog, resolve, without_name
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.vocabulary import Vocabulary

Missing = Literal["error", "drop", "compose"]
"""How to handle rows whose token the target lacks. error: refuse. drop: leave them out, which renormalises a softmax
and takes their share from a linear head. compose: use the mean embedding of the tokens that the target's tokenizer
cuts their bytes into."""
EXAMPLES = 8
"""Missing tokens that a report lists."""


@dataclass(frozen=True)
class MissingToken:
    """A row of V_shared whose token the target lacks."""

    row: int
    token: bytes
    share: float | None
    """Of the corpus counts; None if V_shared has no counts."""
    spelled: tuple[bytes, ...]
    """The target's tokens that spell it; empty if none do."""


@dataclass(frozen=True)
class Norms:
    """Lengths of embedding rows."""

    rms: float
    """Root mean square of their elements."""
    shortest: float
    """Euclidean norm of the shortest row."""
    median: float
    longest: float


@dataclass(frozen=True)
class Unread:
    """The embedding table of the target, which was not read yet, as far as it is known."""

    tensor: str | None
    """Its name."""
    file: str | None
    """The file of the repository that holds it."""
    bytes: int | None
    """Its size in bfloat16, which is what will be read, beside headers."""


@dataclass(frozen=True)
class Preflight:
    """Transfer summary, known before anything is written."""

    head: str
    source: str
    """The LLM that the adapter was trained with."""
    target: str
    embeddings: str
    """Where the target's embedding rows were read, or will be."""
    rows: int
    """Rows of the adapter's V_shared."""
    found: int
    """Rows whose token the target has or, of words, that it spells."""
    spelled: int
    """Other rows whose bytes the target's tokens spell: what `compose` keeps."""
    composed: int
    dropped: int
    mass_found: float | None
    """Share of the corpus counts on found rows; None if V_shared has no counts."""
    mass_spelled: float | None
    mass_dropped: float | None
    examples: tuple[MissingToken, ...]
    """The missing tokens, the most frequent first; at most `EXAMPLES`."""
    scale: float
    vision_width: int
    hidden_width: int
    width: int | None
    """D of the target LLM; None if only its tokenizer is known."""
    parameters: int | None
    """Numbers in all tensors of the result; None if the width is unknown."""
    folds: bool
    """Whether the result is exactly a stock two-layer projector."""
    folding: str
    """Why, in words."""
    unread: Unread | None = None
    """What is still to be read of `embeddings`; None if it was read."""
    table_rows: int | None = None
    """Rows of the target's embedding table; None if unknown."""
    norms: Norms | None = None
    """Lengths of the target's rows; None if they were not read."""
    dtype: str | None = None
    """Of the rows; None if they were not read."""
    bytes: int | None = None
    """Size of all tensors of the result; None if the rows were not read."""
    visual_rms: float | None = None
    """Root mean square of the elements of visual tokens, scale included; None without features."""
    visual_tokens: Spelled | None = None
    """How visual tokens are spelled out; None if they are mixes."""
    of_several: int | None = None
    """Words found that the target spells with several tokens, whose mean embedding is their row; None if rows are
    tokens."""

    @property
    def undecided(self) -> int:
        """Missing rows of which nobody has said how to handle them."""
        return self.rows - self.found - self.composed - self.dropped


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows a transferred adapter will have, and how each is made."""

    target: str
    """Its name."""
    shared: SharedVocabulary
    """V_shared of the adapter, with a column of the target."""
    lacking: np.ndarray
    """Rows, in ascending order, whose token the target lacks."""
    pieces: dict[int, list[int]]
    """Those of them that the target's tokens spell, with their ids in order."""

    @property
    def longest(self) -> int:
        """Ids of the longest row."""
        return int(self.shared.spellings(self.target).lengths.max(initial=0))

    def must_refuse(self, missing: Missing) -> bool:
        """Whether rows are lacking that can't be handled so: words can't be composed."""
        return len(self.lacking) > 0 and (missing == "error" or (missing == "compose" and self.shared.of_words))

    def kept(self, missing: Missing) -> np.ndarray:
        """Rows of the result, in ascending order."""
        out = np.setdiff1d(self.lacking, list(self.pieces)) if missing == "compose" else self.lacking
        return np.delete(np.arange(len(self.shared)), out)


def plan(config: AdapterConfig, shared: SharedVocabulary, target: Vocabulary, width: int | None) -> Plan:
    """Look up the rows of an adapter in the tokenizer `target`, which V_shared need not know: by their bytes.

    Args:
        width: D of the target, if it is known.

    Raises VocabkitError: it has none of them, has other ids for some, or the adapter was trained on tiles.
    """
    name = target.name
    config.check_newline(name, width)
    shared = _with_target(shared, target)
    lacking = np.flatnonzero(~shared.mask_for(name))
    if len(lacking) == len(shared):
        raise VocabkitError(
            f"{name} has none of the {len(shared):,} {'words' if shared.of_words else 'tokens'} of this adapter"
        )
    return Plan(name, shared, lacking, _spelled(shared, lacking, target))


def _with_target(shared: SharedVocabulary, vocabulary: Vocabulary) -> SharedVocabulary:
    """`shared` with a column of the target.

    A tokenizer of the same name may differ in what no row depends on, such as roles or further tokens; then the
    target's record replaces the one there. Other ids for the rows are an error.
    """
    name = vocabulary.name
    vocabulary = dataclasses.replace(vocabulary, origin=None)  # adapters are published: without paths of this machine
    if name not in shared.names:
        return shared.extend(vocabulary)
    if difference := other_ids(shared, name, vocabulary):
        raise VocabkitError(f"{name}: {difference}; if it is another tokenizer, give it another name: NAME=TARGET")
    records = [TokenizerInfo.of(vocabulary) if info.name == name else info for info in shared.tokenizers]
    return dataclasses.replace(shared, tokenizers=tuple(records))


def _spelled(shared: SharedVocabulary, lacking: np.ndarray, vocabulary: Vocabulary) -> dict[int, list[int]]:
    """Row -> the target's ids whose bytes join to its token, for the rows that can be spelled, which roles can't; words
    are already.
    """
    if shared.of_words or not len(lacking):
        return {}
    rows = lacking.tolist()
    try:
        found = Segmenter(vocabulary).ids_of_each([shared.tokens[row].as_py() for row in rows])
    except VocabkitError:  # its file does not say how it cuts text
        return {}
    return {row: ids for row, ids in zip(rows, found, strict=True) if ids}


def refusal(plan: Plan) -> str:
    """Say which tokens the target lacks, and what to do."""
    shared, lacking = plan.shared, plan.lacking
    tokens = [shared.tokens[int(row)].as_py().decode("utf-8", "backslashreplace") for row in lacking[:5]]
    listed = ", ".join(map(quote, tokens)) + (", …" if len(lacking) > 5 else "")
    mass = "" if shared.counts is None else f", {_share(shared.counts, lacking):.2%} of the corpus mass"
    if shared.of_words:
        return (
            f"{plan.target} can't spell {len(lacking):,} of the {len(shared):,} words of this adapter{mass} ({listed}"
            "), so they can't be composed; set `missing` to drop"
        )
    return (
        f"{plan.target} lacks {len(lacking):,} of the {len(shared):,} tokens of this adapter{mass} ({listed}); "
        "set `missing` to drop or compose"
    )


def note_spelled(spelled: Spelled | None, scale: float, longest: int) -> None:
    """Warn of visual tokens that are spelled out but not as in text: scaled, or with words cut off.

    Args:
        longest: token ids of the longest word.
    """
    if spelled is None:
        return
    if spelled.positions is not None and spelled.positions < longest:
        warn(f"the longest word has {longest} tokens, but `positions` is {spelled.positions}: such words are cut off")
    if scale != 1:
        warn(f"visual tokens are spelled out, but scaled by {scale:g}: an LLM reads them as it reads text at `scale` 1")


_LARGEST_SCALE = 1e6
"""Beyond it, visual tokens overflow float16, in which many LLMs run."""


def check_factor(scale: float) -> None:
    """Raise VocabkitError if no visual tokens should be scaled by `scale`."""
    if not 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE:
        raise VocabkitError(f"`scale` is {scale}: choose rms or a number from 1e-6 to 1e6")


def as_trained(config: AdapterConfig) -> AdapterConfig:
    """The config with the LLM that the adapter was trained with last."""
    before = config.transfer
    if before is None or not before.trained:
        return config
    return dataclasses.replace(config, llm=before.target, llm_info=before.llm_info)


def how_made(config: AdapterConfig, visual_tokens: Spelled | Literal["mix"] | None) -> Spelled | None:
    """How a transferred adapter's visual tokens are spelled out; None if they are mixed. By default as before."""
    return config.spelled if visual_tokens is None else None if visual_tokens == "mix" else visual_tokens


def preflight(
    config: AdapterConfig,
    plan: Plan,
    target: Vocabulary,
    *,
    missing: Missing,
    width: int | None,
    embeddings: str,
    scale: float,
    visual_tokens: Spelled | None,
) -> Preflight:
    """Sum up what the transfer of an adapter will give; `embeddings` says where its rows are, or will be, read."""
    counts, spelled = plan.shared.counts, np.array(list(plan.pieces), np.int64)
    found = np.delete(np.arange(len(plan.shared)), plan.lacking)
    order = plan.lacking if counts is None else plan.lacking[np.argsort(-counts[plan.lacking], kind="stable")]
    kept = plan.kept(missing)
    dropped = np.setdiff1d(plan.lacking, kept) if missing != "error" else plan.lacking[:0]
    reason, hidden = why_not_foldable(config.head), config.hidden_width
    return Preflight(
        head=config.head,
        source=as_trained(config).llm,
        target=target.name,
        embeddings=embeddings,
        rows=len(plan.shared),
        found=len(found),
        spelled=len(spelled),
        composed=len(kept) - len(found),
        dropped=len(dropped),
        mass_found=None if counts is None else _share(counts, found),
        mass_spelled=None if counts is None else _share(counts, spelled),
        mass_dropped=None if counts is None else _share(counts, dropped),
        examples=tuple(
            MissingToken(
                row,
                plan.shared.tokens[row].as_py(),
                None if counts is None else _share(counts, np.array([row])),
                tuple(target.token(i) or b"" for i in plan.pieces.get(row, ())),
            )
            for row in order[:EXAMPLES].tolist()
        ),
        scale=scale,
        visual_tokens=visual_tokens,
        vision_width=config.vision_width,
        hidden_width=hidden,
        width=width,
        parameters=None if width is None else _parameters(config, len(kept), width),
        folds=reason is None,
        folding=reason or _folding(hidden, width),
        table_rows=target.embedding_rows,
        of_several=int((plan.shared.spellings(target.name).lengths > 1).sum()) if plan.shared.of_words else None,
    )


def _parameters(config: AdapterConfig, rows: int, width: int) -> int:
    trained = dataclasses.replace(config, rows=rows, transfer=None)
    return sum(math.prod(shape) for shape in trained.shapes().values()) + rows * width


def _folding(hidden: int, width: int | None) -> str:
    if width is not None and hidden > width:
        return (
            f"into two layers with {hidden:,} hidden units; a Llava checkpoint and mm_projector hold {width:,}, so "
            "export mmproj or projector, or distil it"
        )
    padded = ""
    if width is not None and hidden < width:
        padded = f" ({hidden:,} hidden units; a Llava checkpoint and mm_projector pad them to {width:,})"
    return f"into a stock two-layer projector{padded}"


def _share(counts: np.ndarray, rows: np.ndarray) -> float:
    return float(counts[rows].sum() / max(counts.sum(), 1))


def weights_of(argument: str, found: Resolved) -> str | Path:
    """Where the embedding table of the LLM `argument`, which was resolved to `found`, is: a local path or a hub id.

    Raises VocabkitError: it names a tokenizer alone.
    """
    name = without_name(argument)
    path = Path(name).expanduser()
    if path.is_dir() or found.file.suffix == ".gguf":
        return path
    if path.exists():
        raise VocabkitError(f"{path}: a tokenizer without weights; name the model's folder, GGUF or hub id")
    entry = catalog().get(name.lower())
    if entry is None:
        return name
    if entry.width is None or entry.hub is None:
        models = [other.name for other in catalog().values() if other.snapshot == entry.snapshot and other.width]
        choice = f"say which model: {' or '.join(models)}, or " if models else ""
        raise VocabkitError(
            f"{quote(name)} names a tokenizer, not a model; {choice}give it: {name}=FOLDER, or a GGUF or hub id"
        )
    return entry.hub


def _unread(argument: str, weights: str | Path | None, vocabulary: Vocabulary) -> Unread:
    """The embedding table that a transfer to the LLM `argument` will read."""
    entry = None if weights is not None else catalog().get(without_name(argument).lower())
    if entry is None or vocabulary.width is None or vocabulary.embedding_rows is None:
        return Unread(None, None, None)
    return Unread(entry.tensor, entry.weights, 2 * vocabulary.embedding_rows * vocabulary.width)


def preview(
    adapter: str | Path,
    target: str,
    *,
    missing: Missing = "error",
    scale: float = 1.0,
    visual_tokens: Spelled | Literal["mix"] | None = None,
    weights: str | Path | None = None,
) -> Preflight:
    """Sum up what the transfer of the adapter in a checkpoint will give, without reading weights.

    Args:
        adapter: checkpoint folder, `.pt` file or hub id.
        target: the LLM, as `open_target` takes it.
        scale: factor on the visual tokens, beside the adapter's own.
        visual_tokens: how they are made of coefficients; by default as before.
        weights: as for `open_target`; only named in the result.

    Raises VocabkitError: not found, or as `plan`.
    """
    check_factor(scale)
    if weights is not None and not Path(weights).expanduser().exists() and hub_id(str(weights)) is None:
        raise VocabkitError(f"{weights}: no such file or folder, and no hub id (owner/name)")
    described, found = describe(adapter), resolve(target)
    vocabulary = found.vocabulary
    planned = plan(described.config, described.shared, vocabulary, vocabulary.width)
    if missing != "error" and planned.must_refuse(missing):
        raise VocabkitError(refusal(planned))
    before, made = described.config.transfer, how_made(described.config, visual_tokens)
    scale *= 1.0 if before is None else before.scale
    note_spelled(made, scale, planned.longest)
    found_before = preflight(
        described.config,
        planned,
        vocabulary,
        missing=missing,
        width=vocabulary.width,
        embeddings=str(weights or weights_of(target, found)),
        scale=scale,
        visual_tokens=made,
    )
    return dataclasses.replace(found_before, unread=_unread(target, weights, vocabulary))
