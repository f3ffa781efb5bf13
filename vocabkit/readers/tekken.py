"""Mistral's tekken.json (mistral_common/tokens/tokenizers/tekken.py).

The first `default_num_special_tokens` ids are special; the text token of rank r has id r + that number. Only as many
ranks count as fit into `default_vocab_size`, although the file holds more.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.readers.json_file import decode_json
from vocabkit.segmentation.rules import Rules, byte_level_rules
from vocabkit.special_tokens import append_special, family, roles
from vocabkit.vocabulary import MAX_TOKENS, Kind, Vocabulary, make_vocabulary

MAX_SPECIAL = 1 << 14
"""Published files have 1,000. They need not be listed, so that a few bytes of a hostile file could ask for millions."""


class Config(msgspec.Struct):
    """The part of "config" that matters here."""

    pattern: str
    default_vocab_size: int
    default_num_special_tokens: int


class RankedToken(msgspec.Struct):
    """An entry of "vocab"."""

    rank: int
    token_bytes: bytes
    """base64 in the file"""


class SpecialToken(msgspec.Struct):
    """An entry of "special_tokens"."""

    rank: int
    token_str: str


class File(msgspec.Struct):
    """The part of a tekken.json that tells tokens."""

    config: Config
    vocab: list[RankedToken]
    special_tokens: list[SpecialToken] | None = None


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Read a tekken.json. Raises VocabkitError if its config, special tokens or ranks are not as expected."""
    file = decode_json(path, File, "a tekken.json")
    n_special, size = file.config.default_num_special_tokens, file.config.default_vocab_size
    if not 0 <= n_special < size <= MAX_TOKENS or len(file.vocab) < size - n_special:
        raise VocabkitError(
            f"{path}: {len(file.vocab)} ranks and {quote(str(n_special))} special tokens do not make a vocabulary of "
            f"{quote(str(size))} ids"
        )
    if n_special > MAX_SPECIAL:
        raise VocabkitError(f"{path}: {n_special} special tokens; expected up to {MAX_SPECIAL}")
    ranked = file.vocab[: size - n_special]
    for expected, token in enumerate(ranked):
        if token.rank != expected:
            raise VocabkitError(f"{path}: rank {quote(str(token.rank))} stands where rank {expected} is expected")

    named = dict(enumerate(family("tekken").tokens))
    if file.special_tokens is not None:
        named = {token.rank: token.token_str for token in file.special_tokens}
        if len(named) < len(file.special_tokens):
            raise VocabkitError(f"{path}: two special tokens have the same rank")
    special = [named.get(i, f"<SPECIAL_{i}>") for i in range(n_special)]
    tokens: list[bytes | None] = []
    kinds: list[int] = []
    append_special(tokens, kinds, special)
    kind_array = np.array(kinds + [int(Kind.TEXT)] * len(ranked), np.uint8)
    return make_vocabulary(
        name=name or path.stem,
        source=path.name,
        tokens=tokens + [token.token_bytes for token in ranked],
        kinds=kind_array,
        roles=roles(dict(enumerate(special)), kind_array),
        segmentation=partial(_rules, n_special, size, file.config.pattern),
    )


def _rules(n_special: int, size: int, pattern: str) -> Rules:
    priority = np.full(size, np.nan, np.float32)
    priority[n_special:] = np.arange(size - n_special, dtype=np.float32)
    return byte_level_rules(priority, pattern=pattern, ignore_merges=True)
