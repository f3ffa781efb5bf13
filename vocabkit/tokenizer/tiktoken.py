"""tiktoken rank files, and Mistral's tekken.json, which holds ranks as JSON.

A rank file has one line per token: base64 of its bytes, a space, its rank (openai/tiktoken, load.py). Rank = token id =
merge priority. Special tokens and pre-tokenizer aren't in the file; they come from a family of special_tokens.toml, if
the caller names one.
"""

from __future__ import annotations

import binascii
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import decode_json
from vocabkit.tokenizer.rules import Rules, byte_level_rules, pretokenizers
from vocabkit.tokenizer.special_tokens import (
    Declarations,
    Family,
    append_special,
    declared_ids,
    families,
    family,
    read_declarations,
    roles,
    special_kind,
)
from vocabkit.tokenizer.vocabulary import MAX_TOKENS, Kind, Precedence, Vocabulary, check_highest_id, make_vocabulary


def read(path: Path, name: str | None = None, family_name: str | None = None) -> Vocabulary:
    """Read a rank file; the special tokens of `family_name`, if given, follow the ranks.

    Raises VocabkitError: a line that isn't `base64 rank`, ranks out of range or repeated, or not as many ranks as the
    family has.
    """
    with reading(path):
        lines = path.read_bytes().split(b"\n")
    ranks: dict[int, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            encoded, rank_text = line.split()
            # Whisper's multilingual.tiktoken has an empty token, written as padding alone
            token, rank = binascii.a2b_base64(encoded.strip(b"=") and encoded, strict_mode=True), _rank(rank_text)
        except ValueError as error:
            raise VocabkitError(
                f"{path}: line {number} is {quote(line[:80].decode('latin-1'))}, expected base64 and a rank"
            ) from error
        if not 0 <= rank < MAX_TOKENS or rank in ranks:
            raise VocabkitError(f"{path}: line {number} has rank {quote(str(rank))}, out of range or used before")
        ranks[rank] = token
    if not ranks:
        raise VocabkitError(f"{path}: no tokens in it; expected lines of base64 and a rank")

    check_highest_id(path, max(ranks), len(ranks))
    size = max(ranks) + 1
    tokens: list[bytes | None] = [ranks.get(i) for i in range(size)]
    kinds: list[int] = [Kind.TEXT] * size
    pretokenizer, beside = None, Declarations()
    if family_name is not None:
        known = _family(path, family_name, size)
        append_special(tokens, kinds, known.tokens, known.text)
        declared = {role: size + known.tokens.index(spelling) for role, spelling in known.roles.items()}
        pretokenizer = known.pretokenizer
    else:
        beside = read_declarations(path.parent)
        declared = _add_declared(path, tokens, kinds, beside)
    kind_array = np.array(kinds, np.uint8)
    added = [i for i in range(len(tokens)) if i not in ranks]
    spellings = {i: (tokens[i] or b"").decode() for i in added}
    precedence = np.full(len(tokens), Precedence.PIECE)
    precedence[added] = Precedence.ADDED
    return make_vocabulary(
        name=name or path.stem,
        source=path.name,
        tokens=tokens,
        kinds=kind_array,
        precedence=precedence,
        roles=roles(spellings, kind_array, declared),
        embedding_rows=beside.rows,
        width=beside.width,
        notes=() if any(tokens[i] for i in added) else (_no_family_note(size),),
        segmentation=partial(_rules, size, len(tokens), pretokenizer) if pretokenizer else None,
    )


def _add_declared(path: Path, tokens: list[bytes | None], kinds: list[int], declared: Declarations) -> dict[str, int]:
    """Put the tokens that the config beside a rank file adds under their ids there, which no rank has. Return roles."""
    free = {i for i, token in enumerate(tokens) if token is None}
    added = [token for token in declared.added if token.id >= len(tokens) or token.id in free]
    if added:
        check_highest_id(path, added[-1].id, len(tokens) + len(added))
    named: dict[int, str] = {}
    for token in added:
        tokens.extend([None] * (token.id + 1 - len(tokens)))
        kinds.extend([Kind.UNUSED] * (token.id + 1 - len(kinds)))
        special = token.special or declared.is_special(token.id, token.content)
        tokens[token.id] = token.content.encode()
        kinds[token.id] = special_kind(token.content) if special else Kind.TEXT
        if kinds[token.id] == Kind.SPECIAL:
            named[token.id] = token.content
    return declared_ids(named, declared)


def _rank(text: bytes) -> int:
    if not text.removeprefix(b"-").isdigit():  # int() also accepts 1_0
        raise ValueError("not a number")
    return int(text)


def _family(path: Path, name: str, size: int) -> Family:
    of_ranks = [each for each in families() if family(each).ranks is not None]
    if name not in of_ranks:
        raise VocabkitError(f"{path}: no special-token family {quote(name)}; known: {', '.join(of_ranks)}")
    known = family(name)
    if known.ranks != size:
        raise VocabkitError(f"{path}: {size} ranks, but the family {name} has {known.ranks}; choose another family")
    return known


def _no_family_note(size: int) -> str:
    fitting = [name for name in families() if family(name).ranks == size]
    advice = f"; use the catalog name {' or '.join(fitting)} for those of its family" if fitting else ""
    return f"a rank file holds no special tokens{advice}"


def _rules(ranks: int, size: int, pretokenizer: str) -> Rules:
    priority = np.full(size, np.nan, np.float32)
    priority[:ranks] = np.arange(ranks, dtype=np.float32)
    return byte_level_rules(priority, **pretokenizers()[pretokenizer])


# ---- tekken.json -------------------------------------------------------------------------------------------------

MAX_SPECIAL = 1 << 14
"""Published files have 1,000. The limit matters because a hostile file could ask for millions in a few bytes."""


class Config(msgspec.Struct):
    """The fields of "config" that are used."""

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
    """The fields of a tekken.json that are used."""

    config: Config
    vocab: list[RankedToken]
    special_tokens: list[SpecialToken] | None = None


def read_tekken(path: Path, name: str | None = None) -> Vocabulary:
    """Read Mistral's tekken.json (mistral_common/tokens/tokenizers/tekken.py).

    The first `default_num_special_tokens` ids are special, and the text token of rank r has id r plus that number.
    Ranks beyond `default_vocab_size` are ignored.

    Raises VocabkitError: its config, special tokens or ranks are not as expected.
    """
    file = decode_json(path, File, "a tekken.json")
    n_special, size = file.config.default_num_special_tokens, file.config.default_vocab_size
    if not 0 <= n_special < size <= MAX_TOKENS or len(file.vocab) < size - n_special:
        raise VocabkitError(
            f"{path}: {len(file.vocab)} ranks and {quote(str(n_special))} special tokens don't make a vocabulary of "
            f"{quote(str(size))} ids"
        )
    if n_special > MAX_SPECIAL:
        raise VocabkitError(f"{path}: {n_special} special tokens; expected up to {MAX_SPECIAL}")
    ranked = file.vocab[: size - n_special]
    for expected, token in enumerate(ranked):
        if token.rank != expected:
            raise VocabkitError(f"{path}: rank {quote(str(token.rank))} found where rank {expected} is expected")

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
        segmentation=partial(_tekken_rules, n_special, size, file.config.pattern),
    )


def _tekken_rules(n_special: int, size: int, pattern: str) -> Rules:
    priority = np.full(size, np.nan, np.float32)
    priority[n_special:] = np.arange(size - n_special, dtype=np.float32)
    return byte_level_rules(priority, pattern=pattern, ignore_merges=True)
