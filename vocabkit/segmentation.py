"""How a tokenizer cuts text into its tokens, rebuilt as a `tokenizers.Tokenizer` from any source."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vocabkit.byte_alphabet import to_alphabet
from vocabkit.errors import VocabkitError
from vocabkit.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, eq=False)
class Rules:
    """What cutting text needs beyond the vocabulary itself."""

    model: Literal["bpe", "unigram"]
    spelling: Literal["byte-level", "sentencepiece"]
    """How `tokenizers` spells the pieces: the byte alphabet, or text with `▁` for a space and `<0xNN>`."""
    priority: np.ndarray
    """(V,) float32. bpe: merges that make a lower number come first. unigram: log probability. NaN: not a piece
    of the model (special and added tokens)."""
    merges: np.ndarray | None = None
    """(M, 2) int32, ids of left and right in merge order. None: any two pieces whose bytes join to a piece."""
    normalizer: dict[str, Any] | None = None
    """As in tokenizer.json."""
    pre_tokenizer: dict[str, Any] | None = None
    """As in tokenizer.json."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of tokenizer.json's "model", such as `ignore_merges`."""


def load_tokenizer(vocabulary: Vocabulary, *, mid_text: bool = False) -> Tokenizer:
    """A `tokenizers.Tokenizer` that cuts text as the vocabulary's own tokenizer does, without special tokens around it.

    Args:
        mid_text: cut as if the text stood inside a longer one: no space is put before its first word.

    Raises:
        VocabkitError: the source does not say how its tokenizer cuts text.
    """
    from tokenizers import Tokenizer

    segmentation = vocabulary.segmentation
    if segmentation is None:
        raise VocabkitError(
            f"{vocabulary.name}: {vocabulary.source} does not say how text is cut into tokens; use its tokenizer.json"
        )
    if isinstance(segmentation, Path):
        content = json.loads(segmentation.read_text("utf-8"))
        content["truncation"] = content["padding"] = None
    else:
        content = _tokenizer_json(vocabulary, segmentation())
    content["post_processor"] = None
    if mid_text:
        content["normalizer"] = _without_prefix(content.get("normalizer"))
        content["pre_tokenizer"] = _without_prefix(content.get("pre_tokenizer"))
    return Tokenizer.from_str(json.dumps(content))


def _tokenizer_json(vocabulary: Vocabulary, rules: Rules) -> dict[str, Any]:
    spelled = _spellings(vocabulary, rules)
    model: dict[str, Any]
    if rules.model == "unigram":
        last = int(np.flatnonzero(~np.isnan(rules.priority))[-1])
        scores = np.nan_to_num(rules.priority, nan=-1000.0).tolist()
        model = {"type": "Unigram", "vocab": [[spelled[i], scores[i]] for i in range(last + 1)]}
    else:
        merges = rules.merges if rules.merges is not None else all_merges(vocabulary, rules.priority)
        pieces = np.flatnonzero(~np.isnan(rules.priority)).tolist()
        model = {
            "type": "BPE",
            "vocab": {spelled[i]: i for i in pieces},
            "merges": [[spelled[left], spelled[right]] for left, right in merges.tolist()],
        }
    added = np.flatnonzero(np.isnan(rules.priority) & (vocabulary.kinds != Kind.BYTE)).tolist()
    return {
        "version": "1.0",
        "added_tokens": [_added_token(i, spelled[i], vocabulary.kinds[i]) for i in added if i in spelled],
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "decoder": None,
        "model": {**model, **rules.options},
    }


def _added_token(token_id: int, content: str, kind: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": bool(kind != Kind.TEXT), **flags}


def _spellings(vocabulary: Vocabulary, rules: Rules) -> dict[int, str]:
    spelled: dict[int, str] = {}
    values = vocabulary.tokens.to_pylist()
    in_model = ~np.isnan(rules.priority)
    for i, value in enumerate(values):
        if value is None:
            continue
        if vocabulary.kinds[i] == Kind.BYTE and rules.spelling == "sentencepiece":
            spelled[i] = f"<0x{value[0]:02X}>"
        elif not in_model[i]:
            spelled[i] = value.decode("utf-8", "replace")
        elif rules.spelling == "byte-level":
            spelled[i] = to_alphabet(value)
        else:
            spelled[i] = value.decode("utf-8", "replace").replace(" ", "▁")
    return spelled


def all_merges(vocabulary: Vocabulary, priority: np.ndarray) -> np.ndarray:
    """(M, 2) int32: every way to join two pieces to a piece, in the order of `priority` of the result.

    This is how tiktoken ranks and SentencePiece scores define merges; among the ways to make one piece, the pair
    with the lower ids comes first.
    """
    values = vocabulary.tokens.to_pylist()
    pieces = np.flatnonzero(~np.isnan(priority) & (vocabulary.kinds == Kind.TEXT))
    pieces = pieces[np.argsort(priority[pieces], kind="stable")].tolist()
    ids = {values[i]: i for i in reversed(pieces)}
    merges: list[tuple[int, int]] = []
    for piece in pieces:
        value = values[piece]
        pairs = ((ids.get(value[:cut]), ids.get(value[cut:])) for cut in range(1, len(value)))
        merges.extend(sorted((left, right) for left, right in pairs if left is not None and right is not None))
    return np.array(merges, np.int32).reshape(-1, 2)


class Segmenter:
    """Cuts single tokens of other vocabularies, bytes that need not be valid UTF-8, into tokens of `vocabulary`.

    Raises VocabkitError if the vocabulary's source does not say how its tokenizer cuts text.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = load_tokenizer(vocabulary, mid_text=True)
        self._rules = load_rules(vocabulary)
        values = vocabulary.tokens.to_pylist()
        in_model = range(len(vocabulary)) if self._rules is None else np.flatnonzero(~np.isnan(self._rules.priority))
        self._ids = {values[i]: int(i) for i in in_model if vocabulary.canonical[i] == i and values[i] is not None}
        self._ids |= {values[i]: int(i) for i in np.flatnonzero(vocabulary.kinds == Kind.BYTE) if values[i] not in self._ids}

    def ids(self, value: bytes) -> list[int] | None:
        """Token ids whose bytes join to `value`. None if the tokenizer can't spell it."""
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            if self._rules is not None and self._rules.spelling == "byte-level":
                return self._merge(value)
            before, broken, after = value[: error.start], value[error.start : error.end], value[error.end :]
            parts = [self.ids(before), [self._ids.get(bytes([b]), -1) for b in broken], self.ids(after)]
            joined = [i for part in parts for i in (part if part is not None else [-1])]
            return joined if -1 not in joined else None
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids) if text else []

    def _merge(self, value: bytes) -> list[int] | None:
        assert self._rules is not None
        parts = [value[i : i + 1] for i in range(len(value))]
        while True:
            joins = [self._ids.get(left + right) for left, right in itertools.pairwise(parts)]
            candidates = [(self._rules.priority[j], at) for at, j in enumerate(joins) if j is not None]
            if not candidates:
                break
            _, at = min(candidates)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids = [self._ids.get(part) for part in parts]
        return [i for i in ids if i is not None] if None not in ids else None


def load_rules(vocabulary: Vocabulary) -> Rules | None:
    """The rules of a vocabulary's tokenizer; None if its source has none that `Rules` can hold."""
    segmentation = vocabulary.segmentation
    if isinstance(segmentation, Path):
        return rules_from_tokenizer_json(vocabulary, json.loads(segmentation.read_text("utf-8")))
    return segmentation() if segmentation is not None else None


def _without_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer of tokenizer.json without the parts that put a space before the text."""
    if step is None or step.get("type") == "Prepend":
        return None
    if step.get("type") == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        kept = [part for part in map(_without_prefix, step[key]) if part is not None]
        return {**step, key: kept}
    if step.get("type") == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    if step.get("type") == "ByteLevel":
        return {**step, "add_prefix_space": False}
    return step


# ---- pre-tokenizers of the formats that only name them -----------------------------------------------------------


@cache
def _pretokenizers() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "pretokenizers.toml").read_text("utf-8"))


def byte_level_rules(
    priority: np.ndarray, pretokenizer: str | None = None, *, pattern: str | None = None, merges: np.ndarray | None = None
) -> Rules | None:
    """Rules of a byte-level BPE with a pre-tokenizer by name (see pretokenizers.toml) or by regular expression.

    None if the name is not known.
    """
    named = _pretokenizers().get(pretokenizer or "", None)
    if named is None and pattern is None:
        return None
    entry = named or {"pattern": pattern, "ignore_merges": True}
    steps: list[dict[str, Any]] = []
    if entry.get("digits"):
        steps.append({"type": "Digits", "individual_digits": True})
    if "pattern" in entry:
        steps.append(
            {"type": "Split", "pattern": {"Regex": entry["pattern"]}, "behavior": "Isolated", "invert": False}
        )
    use_regex = bool(entry.get("gpt2_regex"))
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex})
    return Rules(
        model="bpe",
        spelling="byte-level",
        priority=priority,
        merges=merges,
        normalizer={"type": entry["normalizer"]} if "normalizer" in entry else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
        options={"ignore_merges": bool(entry.get("ignore_merges"))},
    )


def sentencepiece_rules(
    model: Literal["bpe", "unigram"],
    priority: np.ndarray,
    *,
    unk: tuple[int, str] | None,
    prefix: bool,
    byte_fallback: bool,
    charsmap: str | None = None,
    collapse_spaces: bool = False,
) -> Rules:
    """Rules of a SentencePiece model.

    Args:
        unk: id and spelling of the unknown token.
        prefix: a space is put before the text (`add_dummy_prefix`).
        charsmap: base64 of the normalizer's precompiled character map.
        collapse_spaces: runs of spaces count as one and the text is trimmed (`remove_extra_whitespaces`).
    """
    steps: list[dict[str, Any]] = []
    if charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if collapse_spaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if prefix:
        steps.append({"type": "Prepend", "prepend": "▁"})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    options: dict[str, Any] = {"byte_fallback": byte_fallback}
    if model == "bpe":
        options |= {"fuse_unk": True, "unk_token": unk[1] if unk else None}
    else:
        options |= {"unk_id": unk[0] if unk else None}
    normalizer = {"type": "Sequence", "normalizers": steps}
    return Rules(model=model, spelling="sentencepiece", priority=priority, normalizer=normalizer, options=options)


def rules_from_tokenizer_json(vocabulary: Vocabulary, content: Mapping[str, Any]) -> Rules | None:
    """Rules of a parsed tokenizer.json, for a snapshot. None for models that a snapshot can't hold (WordPiece)."""
    model = content["model"]
    kind = model.get("type") or ("Unigram" if isinstance(model["vocab"], list) else "BPE")
    priority = np.full(len(vocabulary), np.nan, np.float32)
    added = [entry["id"] for entry in content.get("added_tokens") or ()]
    merges = None
    if kind == "BPE":
        vocab = model["vocab"]
        ids = list(vocab.values())
        pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else (m[0], m[1]) for m in model["merges"]]
        merges = np.array([[vocab[a], vocab[b]] for a, b in pairs], np.int32).reshape(-1, 2)
        prefix = model.get("continuing_subword_prefix") or ""
        results = [vocab[a + b.removeprefix(prefix)] for a, b in pairs]
        priority[ids] = -1
        priority[results[::-1]] = np.arange(len(results), dtype=np.float32)[::-1]
        if not _grouped(results):
            return None
    elif kind == "Unigram":
        priority[: len(model["vocab"])] = [score for _, score in model["vocab"]]
    else:
        return None
    priority[added] = np.nan
    byte_level = any(step.get("type") == "ByteLevel" for step in _steps(content.get("pre_tokenizer"))) or any(
        step.get("type") == "ByteLevel" for step in _steps(content.get("decoder"))
    )
    return Rules(
        model="bpe" if kind == "BPE" else "unigram",
        spelling="byte-level" if byte_level else "sentencepiece",
        priority=priority,
        merges=merges,
        normalizer=content.get("normalizer"),
        pre_tokenizer=content.get("pre_tokenizer"),
        options={k: v for k, v in model.items() if k not in ("type", "vocab", "merges")},
    )


def _grouped(results: Iterable[int]) -> bool:
    """True if equal values stand next to each other."""
    seen: set[int] = set()
    previous = None
    for result in results:
        if result != previous and result in seen:
            return False
        seen.add(result)
        previous = result
    return True


def _steps(step: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """A normalizer, pre-tokenizer or decoder of tokenizer.json as a flat list."""
    if step is None:
        return []
    if step.get("type") == "Sequence":
        parts = step.get("normalizers") or step.get("pretokenizers") or step.get("decoders") or ()
        return [inner for part in parts for inner in _steps(part)]
    return [step]
