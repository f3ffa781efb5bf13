"""Tokenizers without a tokenizer.json: vocab.json with merges.txt (GPT-2, RoBERTa, CLIP), and vocab.txt (BERT)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import decode_json, optional_json
from vocabkit.tokenizer.rules import Rules, byte_level_rules
from vocabkit.tokenizer.special_tokens import read_declarations
from vocabkit.tokenizer.tokenizer_json import File, Model, vocabulary_of
from vocabkit.tokenizer.vocabulary import Vocabulary

WORD_END = "</w>"
"""Ends the last piece of a word in CLIP's vocabulary."""


def read_vocab_json(path: Path, name: str | None = None) -> Vocabulary:
    """Read a vocab.json, a byte-level BPE with its merges in merges.txt beside it.

    Raises VocabkitError: not JSON, ids out of range or repeated.
    """
    vocab = decode_json(path, dict[str, int], "a vocab.json")
    suffix = WORD_END if sum(piece.endswith(WORD_END) for piece in vocab) > len(vocab) // 4 else None
    model = Model(vocab=vocab, type="BPE", end_of_word_suffix=suffix, unk_token=None)
    file = File(model=model, decoder={"type": "ByteLevel"})
    merges = path.with_name("merges.txt")
    rules = partial(_rules, vocab, merges) if suffix is None and merges.is_file() else None
    return _vocabulary(path, file, name, rules)


def read_vocab_txt(path: Path, name: str | None = None) -> Vocabulary:
    """Read a vocab.txt, a WordPiece vocabulary with one piece a line. Its id is its line number, from 0.

    Raises VocabkitError: not UTF-8, or a repeated piece.
    """
    with reading(path):
        try:
            lines = path.read_bytes().decode().splitlines()
        except UnicodeDecodeError as error:
            raise VocabkitError(f"{path}: not UTF-8; a vocab.txt is text with one piece a line") from error
    vocab = {piece: i for i, piece in enumerate(lines)}
    if len(vocab) < len(lines):
        twice = next(piece for i, piece in enumerate(lines) if vocab[piece] != i)
        raise VocabkitError(f"{path}: has the piece {quote(twice)} twice; each piece must be unique")
    config = optional_json(path.with_name("tokenizer_config.json"))
    lowercase = {"type": "BertNormalizer", "lowercase": bool(config.get("do_lower_case", True))}
    unk = "[UNK]" if "[UNK]" in vocab else None
    file = File(
        model=Model(vocab=vocab, type="WordPiece", unk_token=unk),
        normalizer=lowercase,
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": False},
    )
    return _vocabulary(path, file, name, None)


def _vocabulary(path: Path, file: File, name: str | None, rules: Callable[[], Rules] | None) -> Vocabulary:
    found = vocabulary_of(str(path), file, name or path.parent.resolve().name, read_declarations(path.parent))
    return dataclasses.replace(found, source=path.name, segmentation=rules)


def _rules(vocab: dict[str, int], merges: Path) -> Rules:
    with reading(merges):
        lines = merges.read_bytes().decode().splitlines()
    pairs = [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#version")]
    ids = np.array([[vocab[left], vocab[right]] for left, right in pairs], np.int32).reshape(-1, 2)
    priority = np.full(max(vocab.values()) + 1, np.nan, np.float32)
    priority[list(vocab.values())] = 0
    return byte_level_rules(priority, merges=ids, gpt2_pattern=True)
