"""Which words name what an image shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W\d_]{2,}")
_FORM = """
about above after all along am an and are around as at be because been before behind below beside between but by can
could do does down each few for four from five front has have having he her here him his how if image in into is it
its many me more most my near next no not of off on one onto or other out over photo picture several she show showing
shown shows side so some than that the their them then there these they this those three through to top two under up
us very was we were what when where which while who with would you your background
"""
"""English words that shape a caption without naming a thing."""


def object_words(objects: Sequence[str], caption: str | None) -> tuple[str, ...]:
    """The words that name what an image shows, in lower case, sorted.

    Words have two letters or more and do not only shape a sentence (`with`, `picture`). If its `objects` are known:
    the words of their names, and those words of the caption that begin with one of them (`owls`, of an owl). Else the
    words of the caption. Empty if neither is known.
    """
    said = _words(caption or "")
    if not objects:
        return tuple(sorted(said))
    names = {word for name in objects for word in _words(name)}
    return tuple(sorted(names | {word for word in said if word.startswith(tuple(names))}))


def as_word(token: bytes) -> str | None:
    """A token in lower case, without white space around it; it names an object if that is one of its `object_words`.

    None if it is no text. Pieces of words name nothing, so that a name of which a vocabulary has only pieces is never
    found.
    """
    try:
        return token.decode().strip().lower()
    except UnicodeDecodeError:
        return None


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - set(_FORM.split())
