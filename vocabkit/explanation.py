"""explain: why a token matched between tokenizers, or did not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vocabkit.byte_alphabet import ALPHABET, from_alphabet
from vocabkit.errors import VocabkitError, quote
from vocabkit.segmentation import Segmenter
from vocabkit.vocabulary import Kind, Vocabulary

_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\([ntr\\])")
_CONTROLS = {"n": b"\n", "t": b"\t", "r": b"\r", "\\": b"\\"}


@dataclass(frozen=True)
class Finding:
    """What one tokenizer makes of the bytes."""

    name: str
    id: int | None
    """Canonical id that contributes these bytes to text, None if no single token does."""
    kind: str | None
    aliases: tuple[int, ...]
    same_spelling: tuple[tuple[int, str, str | None], ...]
    """Special or unused ids spelled like the text: id, kind, role. They are not the same token."""
    segmentation: tuple[tuple[int, bytes], ...] | None
    """How the tokenizer spells the bytes without such a token; None if it has one, or can't."""


@dataclass(frozen=True)
class Explanation:
    """Why a token is shared, or not."""

    token: bytes
    findings: tuple[Finding, ...]
    shared: bool
    reason: str
    hints: tuple[str, ...]


def explain(token: bytes, vocabularies: Sequence[Vocabulary]) -> Explanation:
    """Look `token` up in each vocabulary and say why it is shared by all of them or not."""
    findings = tuple(_finding(token, vocabulary) for vocabulary in vocabularies)
    shared = all(finding.id is not None for finding in findings)
    return Explanation(token, findings, shared, _reason(findings), () if shared else _hints(token, vocabularies))


def parse_token(argument: str, first: Vocabulary) -> bytes:
    r"""Bytes of a token as people type it: text with escapes `\x0a`, `\n`, `\t`, `\r`, `\\`, or `id:279` for an id of
    the first tokenizer.

    Raises VocabkitError if the id is not a text or byte token of it, or the argument is empty.
    """
    if match := re.fullmatch(r"id:(\d+)", argument):
        token_id = int(match[1])
        if token_id >= len(first):
            raise VocabkitError(f"{first.name} has no id {token_id}; its ids are 0..{len(first) - 1}")
        value = first.token(token_id)
        if value is None or first.kinds[token_id] > Kind.BYTE:
            kind = Kind(int(first.kinds[token_id])).name.lower()
            raise VocabkitError(
                f"{first.name} id {token_id} is {kind} ({quote((value or b'').decode('utf-8', 'replace'))}), which "
                "contributes no text; special tokens match by role, see `vocabkit overlap`"
            )
        return value
    parts, at = [], 0
    for match in _ESCAPE.finditer(argument):
        parts += [argument[at : match.start()].encode("utf-8", "surrogateescape")]
        parts += [bytes.fromhex(match[1]) if match[1] else _CONTROLS[match[2]]]
        at = match.end()
    token = b"".join([*parts, argument[at:].encode("utf-8", "surrogateescape")])
    if not token:
        raise VocabkitError("an empty token contributes nothing to text; give some text, or id:N")
    return token


def _finding(token: bytes, vocabulary: Vocabulary) -> Finding:
    hits = np.flatnonzero(pc.equal(vocabulary.tokens, pa.scalar(token, pa.binary())).fill_null(False).to_numpy(False))
    own = [int(i) for i in hits if vocabulary.kinds[i] <= Kind.BYTE]
    token_id = int(vocabulary.canonical[own[0]]) if own else None
    role_of = {i: role for role, i in vocabulary.roles.items()}
    spelled = [
        (int(i), Kind(int(vocabulary.kinds[i])).name.lower(), role_of.get(int(i)))
        for i in hits
        if vocabulary.kinds[i] > Kind.BYTE
    ]
    return Finding(
        name=vocabulary.name,
        id=token_id,
        kind=None if token_id is None else Kind(int(vocabulary.kinds[token_id])).name.lower(),
        aliases=tuple(i for i in own if i != token_id),
        same_spelling=tuple(spelled),
        segmentation=_segmentation(token, vocabulary) if token_id is None else None,
    )


def _segmentation(token: bytes, vocabulary: Vocabulary) -> tuple[tuple[int, bytes], ...] | None:
    if vocabulary.segmentation is None:
        return None
    ids = Segmenter(vocabulary).ids(token)
    return None if ids is None else tuple((i, vocabulary.token(i) or b"") for i in ids)


def _reason(findings: Sequence[Finding]) -> str:
    missing = [finding for finding in findings if finding.id is None]
    if not missing:
        ids = ", ".join(f"{finding.id} in {finding.name}" for finding in findings)
        return f"shared: one token in each tokenizer contributes exactly these bytes ({ids})"
    if len(missing) == len(findings):
        return "not shared: none of the tokenizers has one token for these bytes"
    parts = []
    for finding in missing:
        if finding.same_spelling:
            _, kind, role = finding.same_spelling[0]
            what = f"{kind} token" + (f" with role {role}" if role else "")
            parts.append(f"{finding.name} has this spelling only as a {what}, which is not text")
        elif finding.segmentation:
            parts.append(f"{finding.name} needs {len(finding.segmentation)} tokens")
        else:
            parts.append(f"{finding.name} has no token for it")
    return "not shared: " + "; ".join(parts)


def _hints(token: bytes, vocabularies: Sequence[Vocabulary]) -> tuple[str, ...]:
    """Other byte strings that the user may have meant, and that some tokenizer has."""
    text = token.decode("utf-8", "ignore")
    candidates = {
        "with a space before it": b" " + token,
        "▁ read as a space": text.replace("▁", " ").encode() if "▁" in text else token,
        "read as byte-level spelling": from_alphabet(text) if set(text) <= set(ALPHABET.values()) else token,
    }
    hints = []
    for how, candidate in candidates.items():
        if candidate == token or candidate == b" ":
            continue
        has = [v.name for v in vocabularies if pc.index(v.tokens, pa.scalar(candidate, pa.binary())).as_py() >= 0]
        if has:
            hints.append(f"{how} it is {candidate!r}, which {', '.join(has)} {'has' if len(has) == 1 else 'have'}")
    return tuple(hints)
