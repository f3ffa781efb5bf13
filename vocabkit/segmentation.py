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
        scores = np.nan_to_num(rules.priority, nan=-1000.0).tolist()
        model = {"type": "Unigram", "vocab": [[spelled.get(i, ""), scores[i]] for i in range(len(vocabulary))]}
    else:
        merges = rules.merges if rules.merges is not None else all_merges(vocabulary, rules.priority)
        # Added tokens are pieces too, so that `tokenizers` keeps their ids; the model's own pieces go first.
        by_precedence = sorted(spelled, key=np.isnan(rules.priority).tolist().__getitem__, reverse=True)
        model = {
            "type": "BPE",
            "vocab": {spelled[i]: i for i in by_precedence},
            "merges": [[spelled[left], spelled[right]] for left, right in merges.tolist()],
        }
    kinds = vocabulary.kinds.tolist()
    added = np.flatnonzero(np.isnan(rules.priority) & (vocabulary.kinds != Kind.BYTE)).tolist()
    return {
        "version": "1.0",
        "added_tokens": [_added_token(i, spelled[i], kinds[i]) for i in added if spelled.get(i)],
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "decoder": None,
        "model": {**model, **rules.options},
    }


def _added_token(token_id: int, content: str, kind: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": kind != Kind.TEXT, **flags}


def _spellings(vocabulary: Vocabulary, rules: Rules, *, in_model: bool = False) -> dict[int, str]:
    """id -> spelling as `tokenizers` has it; only the model's own pieces with `in_model`."""
    spelled: dict[int, str] = {}
    byte_level = rules.spelling == "byte-level"
    own = (~np.isnan(rules.priority)).tolist()
    for i, (value, kind) in enumerate(zip(vocabulary.tokens.to_pylist(), vocabulary.kinds.tolist(), strict=True)):
        if value is None or (in_model and not own[i]):
            continue
        if kind == Kind.BYTE and not byte_level:
            spelled[i] = f"<0x{value[0]:02X}>"
        elif not own[i]:
            spelled[i] = value.decode("utf-8", "replace")
        elif byte_level:
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

    For BPE it merges by itself, without the seconds that building a `tokenizers.Tokenizer` of 150,000 merges takes.

    Raises VocabkitError if the vocabulary's source does not say how its tokenizer cuts text.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        rules = load_rules(vocabulary)
        self._values = vocabulary.tokens.to_pylist()
        self._byte_ids = {self._values[i]: i for i in np.flatnonzero(vocabulary.kinds == Kind.BYTE).tolist()}
        if rules is None or rules.model != "bpe":
            self._bpe, self._tokenizer = None, load_tokenizer(vocabulary, mid_text=True)
            return
        self._bpe, self._tokenizer = _Bpe(vocabulary, rules, self._values), _pipeline_only(rules)
        added = np.flatnonzero(np.isnan(rules.priority) & (vocabulary.kinds == Kind.TEXT)).tolist()
        self._added = {self._values[i]: i for i in reversed(added)}

    def ids(self, value: bytes) -> list[int] | None:
        """Token ids whose bytes join to `value`; None if there are none, for instance because the tokenizer's
        normalizer changes the text."""
        try:
            found = self._text_ids(value.decode()) if value else []
        except UnicodeDecodeError as error:
            found = self._broken_ids(value, error.start, error.end)
        if found is None or b"".join(self._values[i] or b"" for i in found) != value:
            return None
        return found

    def _text_ids(self, text: str) -> list[int] | None:
        if self._bpe is None:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if text.encode() in self._added:
            return [self._added[text.encode()]]
        normalizer, pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        normal = normalizer.normalize_str(text) if normalizer else text
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(normal)] if pre_tokenizer else [normal]
        return _join(self._bpe.word_ids(word) for word in words)

    def _broken_ids(self, value: bytes, start: int, end: int) -> list[int] | None:
        if self._bpe is not None and self._bpe.byte_level:
            return self._bpe.word_ids(to_alphabet(value))
        broken = [self._byte_ids.get(value[i : i + 1]) for i in range(start, end)]
        return _join([self.ids(value[:start]), None if None in broken else broken, self.ids(value[end:])])  # type: ignore[list-item]


class _Bpe:
    """BPE merges over one word in the spelling of `tokenizers`."""

    def __init__(self, vocabulary: Vocabulary, rules: Rules, values: list[bytes | None]) -> None:
        self.byte_level = rules.spelling == "byte-level"
        self._ids = {spelling: i for i, spelling in reversed(_spellings(vocabulary, rules, in_model=True).items())}
        self._priority = rules.priority.tolist()
        self._whole_words = bool(rules.options.get("ignore_merges"))
        self._pairs: dict[tuple[int, int], int] | None = None
        if rules.merges is not None:
            self._pairs = {(left, right): rank for rank, (left, right) in enumerate(rules.merges.tolist())}

    def word_ids(self, word: str) -> list[int] | None:
        if self._whole_words and word in self._ids:
            return [self._ids[word]]
        parts = list(word)
        while len(parts) > 1:
            ranks = [self._rank(left, right) for left, right in itertools.pairwise(parts)]
            best = min(ranks)
            if best == float("inf"):
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return _join(self._piece_ids(part) for part in parts)

    def _rank(self, left: str, right: str) -> float:
        joined = self._ids.get(left + right)
        if joined is None:
            return float("inf")
        if self._pairs is None:
            return float(self._priority[joined])
        return self._pairs.get((self._ids.get(left, -1), self._ids.get(right, -1)), float("inf"))

    def _piece_ids(self, part: str) -> list[int] | None:
        if part in self._ids:
            return [self._ids[part]]
        fallback = [self._ids.get(f"<0x{byte:02X}>") for byte in part.replace("▁", " ").encode()]
        return None if None in fallback else fallback  # type: ignore[return-value]


def _join(parts: Iterable[list[int] | None]) -> list[int] | None:
    joined: list[int] = []
    for part in parts:
        if part is None:
            return None
        joined += part
    return joined


def _pipeline_only(rules: Rules) -> Tokenizer:
    """A tokenizer with the normalizer and pre-tokenizer of `rules`, for text that stands inside a longer one."""
    from tokenizers import Tokenizer

    content = {
        "version": "1.0",
        "normalizer": _without_prefix(rules.normalizer),
        "pre_tokenizer": _without_prefix(rules.pre_tokenizer),
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    return Tokenizer.from_str(json.dumps(content))


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
