"""Tokenizers without a tokenizer.json: vocab.json with merges.txt (GPT-2, RoBERTa, CLIP), and vocab.txt (BERT)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import reading
from vocabkit.files.records import decode_json, optional_json
from vocabkit.tokenizer.rules import Rules, byte_level_rules
from vocabkit.tokenizer.special_tokens import read_declarations
from vocabkit.tokenizer.special_tokens import roles as roles_of
from vocabkit.tokenizer.tokenizer_json import File, Model, vocabulary_of
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

WORD_END = "</w>"
"""Ends the last piece of a word in CLIP's vocabulary."""
_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
"""Special tokens of a vocab.txt where no config names others (transformers, BertTokenizer)."""


def read_vocab_json(path: Path, name: str | None = None) -> Vocabulary:
    """Read a vocab.json, a byte-level BPE with its merges in merges.txt beside it.

    Where no file declares special tokens, as for GPT-2, RoBERTa and CLIP, they are the pieces in brackets that no merge
    makes: encode can't give those for text. Qwen's ordinary piece `<s>` is made by one.

    Raises VocabkitError: not JSON, ids out of range or repeated, or pieces that do not spell bytes.
    """
    vocab = decode_json(path, dict[str, int], "a vocab.json")
    if not any("Ġ" in piece for piece in vocab):
        raise VocabkitError(
            f"{path}: its pieces are not those of a byte-level BPE, as none has Ġ, which spells a space; give the "
            "tokenizer.json of this model"
        )
    suffix = WORD_END if sum(piece.endswith(WORD_END) for piece in vocab) > len(vocab) // 4 else None
    model = Model(vocab=vocab, end_of_word_suffix=suffix)
    file = File(model=model, decoder={"type": "ByteLevel"})
    merges = path.with_name("merges.txt")
    rules = partial(_rules, vocab, merges) if suffix is None and merges.is_file() else None
    return _vocabulary(path, file, name, rules, _unmerged(vocab, merges) if merges.is_file() else {})


def read_vocab_txt(path: Path, name: str | None = None) -> Vocabulary:
    """Read a vocab.txt, a WordPiece vocabulary with one piece a line. Its id is its line number, from 0; of a repeated
    piece the last one, as transformers reads it. The id of an empty line or an earlier repetition is unused.

    Raises VocabkitError: not UTF-8.
    """
    with reading(path):
        try:
            lines = path.read_text("utf-8").split("\n")  # splitlines() would also split at U+2028 and its like
        except UnicodeDecodeError as error:
            raise VocabkitError(f"{path}: not UTF-8; a vocab.txt is text with one piece a line") from error
    vocab = {piece: i for i, piece in enumerate(lines) if piece}
    config = optional_json(path.with_name("tokenizer_config.json"))
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
        "strip_accents": config.get("strip_accents"),
        "lowercase": bool(config.get("do_lower_case", True)),
    }
    file = File(model=Model(vocab=vocab), normalizer=normalizer, decoder={"type": "WordPiece"})
    return _vocabulary(path, file, name, _wordpiece_json(vocab, normalizer), _BERT)


def _wordpiece_json(vocab: Mapping[str, int], normalizer: Mapping[str, Any]) -> bytes:
    """The tokenizer.json of a vocab.txt, as BertTokenizer of transformers makes it."""
    model = {"type": "WordPiece", "vocab": vocab, "unk_token": _BERT["unk"], "continuing_subword_prefix": "##"}
    content: dict[str, Any] = {"added_tokens": [], "normalizer": normalizer, "decoder": None}
    content |= {"pre_tokenizer": {"type": "BertPreTokenizer"}, "model": {**model, "max_input_chars_per_word": 100}}
    return msgspec.json.encode(content)


def _vocabulary(
    path: Path,
    file: File,
    name: str | None,
    segmentation: Callable[[], Rules] | bytes | None,
    roles: Mapping[str, str],
) -> Vocabulary:
    """`roles`: role -> spelling, where no file says otherwise."""
    declared = read_declarations(path.parent)
    roles = {**roles, **declared.roles}
    declared = dataclasses.replace(declared, roles=roles, special=declared.special | set(roles.values()))
    found = vocabulary_of(str(path), file, name or path.parent.resolve().name, declared)
    return dataclasses.replace(found, source=path.name, segmentation=segmentation)


def _unmerged(vocab: dict[str, int], merges: Path) -> dict[str, str]:
    """Role -> spelling, for the pieces with a role that no merge makes."""
    made = {left + right for left, right in _pairs(merges)}
    pieces = [piece for piece in vocab if piece.startswith(("<", "[")) and piece not in made]
    kinds = np.full(len(pieces), Kind.SPECIAL, np.uint8)
    return {role: pieces[i] for role, i in roles_of(dict(enumerate(pieces)), kinds).items()}


def _pairs(merges: Path) -> list[tuple[str, str]]:
    with reading(merges):
        try:
            lines = merges.read_bytes().decode().split("\n")
        except UnicodeDecodeError as error:
            raise VocabkitError(f"{merges}: not UTF-8; a merges.txt is text with one merge a line") from error
    pairs = [line.rstrip("\r").partition(" ") for line in lines if line and not line.startswith("#version")]
    return [(left, right) for left, _, right in pairs]


def _rules(vocab: dict[str, int], merges: Path) -> Rules:
    pairs = _pairs(merges)
    ids = np.array([[vocab[left], vocab[right]] for left, right in pairs], np.int32).reshape(-1, 2)
    priority = np.full(max(vocab.values()) + 1, np.nan, np.float32)
    priority[list(vocab.values())] = 0
    return byte_level_rules(priority, merges=ids, gpt2_pattern=True)
