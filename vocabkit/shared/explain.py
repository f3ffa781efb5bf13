"""explain: why a token matched between tokenizers, or did not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vocabkit.arrow.arrow_file import token_buffers
from vocabkit.errors import VocabkitError, quote
from vocabkit.tokenizer.load import load_tokenizers
from vocabkit.tokenizer.segmenter import Piece, spell
from vocabkit.tokenizer.spelling import ALPHABET, from_alphabet
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from vocabkit.tokenizer.load import AnyTokenizer

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(0010[0-9a-fA-F]{4}|000[0-9a-fA-F]{5})|([ntr\\'\"]))")
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True)
class Lookalike:
    """A special or unused id with the same spelling. It contributes no text, so it isn't the same token."""

    id: int
    kind: str
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """The bytes in one tokenizer."""

    name: str
    id: int | None
    """Canonical id with these bytes; None if no single token has them."""
    kind: str | None
    """`text` or `byte`."""
    aliases: tuple[int, ...]
    """Other ids of the same bytes."""
    lookalikes: tuple[Lookalike, ...]
    pieces: tuple[Piece, ...] | None
    """Pieces that spell the bytes without such a token; None if there is one, or they can't be spelled."""


@dataclass(frozen=True)
class Hint:
    """Other bytes that the user may have meant."""

    how: str
    """Difference in reading the text."""
    token: bytes
    found_in: tuple[str, ...]
    """Tokenizers with a token of these bytes."""


@dataclass(frozen=True)
class Explanation:
    """Why a token is shared by all tokenizers, or not; of one tokenizer, whether it has the token."""

    token: bytes
    findings: tuple[Finding, ...]
    shared: bool
    reason: str
    hints: tuple[Hint, ...]

    def __repr__(self) -> str:
        return f"Explanation({self.token!r}: {self.reason})"


def explain(token: bytes | str, tokenizers: Sequence[AnyTokenizer]) -> Explanation:
    """Look up `token` in each tokenizer and explain why all of them share it, or not.

    Args:
        token: its bytes in decoded text; a `str` stands for its UTF-8.
        tokenizers: each as `load_tokenizer` takes it.
    """
    vocabularies = load_tokenizers(tokenizers)
    if isinstance(token, str):
        token = token.encode()
    elif not isinstance(token, bytes):
        raise TypeError(f"`token` is {type(token).__name__}; expected bytes or str")
    findings = tuple(_finding(token, vocabulary) for vocabulary in vocabularies)
    shared = all(finding.id is not None for finding in findings)
    return Explanation(
        token, findings, shared, _reason(findings, vocabularies), () if shared else _hints(token, vocabularies)
    )


def parse_token(argument: str, first: Vocabulary) -> bytes:
    r"""Return the bytes of a token as people type it: `id:279` for an id of the first tokenizer, or text with escapes:
    `\x0a` for a byte, `\u00e4` and `\U0001f600` for a character, `\n`, `\t`, `\r`, `\\`, `\'`, `\"`.

    Raises VocabkitError if the id is not a text or byte token of it, or the argument is empty or not Unicode.
    """
    if match := re.fullmatch(r"id:([0-9]+)", argument):
        return _token_of(first, match[1])
    return unescape(argument)


def unescape(argument: str) -> bytes:
    """Return the bytes of text with the escapes of `parse_token`. Raises VocabkitError: empty, or not Unicode."""
    parts, at = [], 0
    try:
        for match in _ESCAPE.finditer(argument):
            byte, short, long, other = match.groups()
            parts.append(argument[at : match.start()].encode("utf-8", "surrogateescape"))
            parts.append(bytes.fromhex(byte) if byte else _character(short or long, other).encode())
            at = match.end()
        parts.append(argument[at:].encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise VocabkitError(f"{quote(argument)} is not valid Unicode (half of a surrogate pair)") from error
    token = b"".join(parts)
    if not token:
        raise VocabkitError("an empty token contributes nothing to text; give some text, or id:N")
    return token


def _token_of(vocabulary: Vocabulary, digits: str) -> bytes:
    name = vocabulary.name
    if len(digits) > 9 or int(digits) >= len(vocabulary):
        raise VocabkitError(f"{name} has no id {quote(digits, 20)}; its ids are 0 to {len(vocabulary) - 1}")
    token_id = int(digits)
    value = vocabulary.token(token_id) or b""
    kind = Kind(int(vocabulary.kinds[token_id]))
    if kind > Kind.BYTE or not value:
        what = f"{kind.name.lower()} ({quote(value.decode('utf-8', 'replace'))})" if value else "empty"
        raise VocabkitError(
            f"{name} id {token_id} is {what} and contributes nothing to text; special tokens match by role, "
            "see `vocabkit overlap`"
        )
    return value


def _character(code: str | None, other: str) -> str:
    return chr(int(code, 16)) if code else _CONTROLS.get(other, other)


def _ids(token: bytes, vocabulary: Vocabulary) -> list[int]:
    """Return all ids with these bytes or this spelling."""
    offsets, data = token_buffers(vocabulary.tokens)
    ids = np.flatnonzero(np.diff(offsets) == len(token))
    own = data[offsets[ids][:, None] + np.arange(len(token))]  # (ids, bytes)
    found: list[int] = ids[(own == np.frombuffer(token, np.uint8)).all(axis=1)].tolist()
    return found


def _finding(token: bytes, vocabulary: Vocabulary) -> Finding:
    kinds = {i: Kind(int(vocabulary.kinds[i])) for i in _ids(token, vocabulary)}
    own = [i for i, kind in kinds.items() if kind <= Kind.BYTE]
    token_id = int(vocabulary.canonical[own[0]]) if own else None
    return Finding(
        name=vocabulary.name,
        id=token_id,
        kind=None if token_id is None else kinds[token_id].name.lower(),
        aliases=tuple(i for i in own if i != token_id),
        lookalikes=tuple(
            Lookalike(i, kind.name.lower(), tuple(role for role, own in vocabulary.roles.items() if own == i))
            for i, kind in kinds.items()
            if kind > Kind.BYTE
        ),
        pieces=spell(vocabulary, [token])[0] if token_id is None else None,
    )


def in_brackets(lookalike: Lookalike) -> str:
    """Its roles as a phrase: ` (roles bos, eos)`; empty without any."""
    many = "roles" if len(lookalike.roles) > 1 else "role"
    return f" ({many} {', '.join(lookalike.roles)})" if lookalike.roles else ""


def _reason(findings: Sequence[Finding], vocabularies: Sequence[Vocabulary]) -> str:
    missing = [finding for finding in findings if finding.id is None]
    if len(findings) == 1:
        return (
            _why(missing[0], vocabularies[0]) if missing else f"{findings[0].name} has one token of exactly these bytes"
        )
    if not missing:
        return "shared: one token in each tokenizer contributes exactly these bytes"
    if len(missing) == len(findings) and not any(finding.lookalikes for finding in findings):
        return "not shared: none of the tokenizers has one token for these bytes"
    each = zip(findings, vocabularies, strict=True)
    return "not shared: " + "; ".join(_why(finding, vocabulary) for finding, vocabulary in each if finding.id is None)


def _why(missing: Finding, vocabulary: Vocabulary) -> str:
    if missing.lookalikes:
        other = missing.lookalikes[0]
        kind = other.kind + in_brackets(other)
        return f"{missing.name} has this spelling only as id {other.id}, which is {kind} and no text"
    if missing.pieces:
        return f"{missing.name} needs {len(missing.pieces)} tokens"
    unknown = "" if vocabulary.segmentation else f", and {vocabulary.source} does not say how it cuts text"
    return f"{missing.name} has no token for it{unknown}"


def _hints(token: bytes, vocabularies: Sequence[Vocabulary]) -> tuple[Hint, ...]:
    hints = []
    for how, candidate in _other_readings(token).items():
        found_in = [v.name for v in vocabularies if any(v.kinds[i] <= Kind.BYTE for i in _ids(candidate, v))]
        if found_in and candidate not in (token, b""):
            hints.append(Hint(how, candidate, tuple(found_in)))
    return tuple(hints)


def _other_readings(token: bytes) -> dict[str, bytes]:
    readings = {"with a space before it": b" " + token, "without the space before it": token.removeprefix(b" ")}
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return readings
    readings["with ▁ read as a space"] = text.replace("▁", " ").encode()
    if set(text) <= set(ALPHABET.values()):
        readings["read as a byte-level spelling"] = from_alphabet(text)
    return readings
