"""Special tokens: roles of ids, and reserved spellings."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vocabkit.errors import VocabkitError, did_you_mean, quote
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

_RESERVED = re.compile(
    r"<\|(\w+_)?reserved_(special_)?(token_)?\d+\|>|<SPECIAL_\d+>|<\|?unused_?(token_?)?\d+\|?>|\[(unused|PAD|UNUSED_TOKEN_)\d+\]"
    r"|<\|extra_\d+\|>|<(extra_id_reserved|reserved)[_-]?\d+>|\[control_\d+\]|<\|dummy_\d+\|>|<\|placeholder\d+\|>|<｜place▁holder▁no▁\d+｜>"
)


@dataclass(frozen=True)
class Family:
    """The special tokens of one tokenizer family, for file formats that don't hold them."""

    name: str
    ranks: int | None
    """Number of base tokens that the tiktoken file must have."""
    tokens: tuple[str, ...]
    """In id order, after the ranks."""
    text: frozenset[str]
    """Added tokens that are ordinary text (`special: false`)."""
    roles: Mapping[str, str]
    """Roles that don't follow from the spelling: role -> spelling."""
    pretokenizer: str | None


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "special_tokens.toml").read_text("utf-8"))


def families() -> list[str]:
    """Names that `family` knows."""
    return sorted(_tables()["families"])


@cache
def family(name: str) -> Family:
    """Return the family called `name`. Raises KeyError if there is none."""
    entry = _tables()["families"][name]
    tokens: list[str] = []
    for item in entry["tokens"]:
        if isinstance(item, str):
            tokens.append(item)
        else:
            tokens.extend(item["run"].format(i) for i in range(item["first"], item["last"] + 1))
    text = frozenset(entry.get("text", ()))
    return Family(name, entry.get("ranks"), tuple(tokens), text, entry.get("roles", {}), entry.get("pretokenizer"))


def is_reserved(spelling: str) -> bool:
    """Whether `spelling` is one that models reserve, such as `<|reserved_special_token_5|>`."""
    return _RESERVED.fullmatch(spelling) is not None


def reserved_ids(spellings: Sequence[str | None]) -> list[int]:
    """Return ids with a reserved spelling, whatever else the file says about them."""
    return [i for i, each in enumerate(spellings) if each and each[0] in "<[" and len(each) > 4 and is_reserved(each)]


def special_kind(spelling: str) -> Kind:
    """Return the kind of an id that its file marks as special."""
    return Kind.UNUSED if is_reserved(spelling) else Kind.SPECIAL


def roles(spellings: Mapping[int, str], kinds: np.ndarray, declared: Mapping[str, int] | None = None) -> dict[str, int]:
    """Map roles to ids for the special tokens of one tokenizer, sorted by role.

    Only ids of kind `special` get a role: Qwen has ordinary text pieces spelled `<s>`. The file's
    declarations override spellings; among several ids with a fitting spelling, the order of the table decides.

    Args:
        spellings: id -> spelling of the special tokens.
        kinds: (V,) uint8.
        declared: role -> id, as the tokenizer file declares.
    """
    ids = {spelling: i for i, spelling in spellings.items() if kinds[i] == Kind.SPECIAL}
    found: dict[str, int] = {}
    for role, candidates in _tables()["spellings"].items():
        match = next((ids[c] for c in candidates if c in ids), None)
        if match is not None:
            found[role] = match
    for role, token_id in (declared or {}).items():
        if 0 <= token_id < len(kinds) and kinds[token_id] == Kind.SPECIAL:
            found[role] = token_id
    return dict(sorted(found.items()))


def with_roles(vocabulary: Vocabulary, given: Mapping[str, str]) -> Vocabulary:
    """`vocabulary` with further roles, role -> spelling of a special token: for what no file declares.

    Raises VocabkitError: a spelling that is no special token of it, or a name that is not letters, digits and `_`.
    """
    found = dict(vocabulary.roles)
    tokens = vocabulary.tokens.to_pylist()
    for role, spelling in given.items():
        if re.fullmatch(r"\w{1,64}", role) is None:
            raise VocabkitError(f"role {quote(role)}: expected letters, digits and _")
        ids = [i for i, token in enumerate(tokens) if token == spelling.encode("utf-8", "surrogateescape")]
        special = [i for i in ids if vocabulary.kinds[i] == Kind.SPECIAL]
        if not special:
            what = f"is {Kind(int(vocabulary.kinds[ids[0]])).name.lower()}, not special," if ids else "is no token"
            known = (tokens[i].decode("utf-8", "replace") for i in np.flatnonzero(vocabulary.kinds == Kind.SPECIAL))
            advice = did_you_mean(spelling, known, "`vocabkit overlap` lists those that have no role")
            raise VocabkitError(f"{quote(spelling)} {what} in {vocabulary.name}; {advice}")
        found[role] = special[0]
    every = {**(vocabulary.given_roles or {}), **given}
    return dataclasses.replace(vocabulary, roles=MappingProxyType(dict(sorted(found.items()))), given_roles=every)


def append_special(
    tokens: list[bytes | None], kinds: list[int], added: Sequence[str], text: frozenset[str] = frozenset()
) -> None:
    """Append `added` to `tokens` and `kinds`, as text where `text` names them and as special otherwise."""
    for spelling in added:
        tokens.append(spelling.encode())
        kinds.append(Kind.TEXT if spelling in text else special_kind(spelling))
