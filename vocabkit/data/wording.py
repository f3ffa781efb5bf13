"""English for names of things: articles, plurals, and the answers about scenes.

Rules of spelling, with the exceptions that the names of OpenMoji's drawings need. Where they give no plural that
anyone would write, there is none, and such a drawing is not counted in scenes.
"""

from __future__ import annotations

import re

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_VOWEL_SOUND = re.compile(r"(?!eu|one\b|uni)[aeiou]|hour|x-")
_BEFORE_HEAD = re.compile(r" (?:and|at|behind|doing|in|of|on|or|over|with|without) .*")
"""What follows the noun that a name is about."""
_PLURAL = re.compile(r"(?:.*[^aious]s|biceps)")
"""Words that are plural as they stand; not `dress`, `octopus`, `iris`."""
_UNCOUNTABLE = re.compile(
    r"bacon|bread|broccoli|butter|christmas|custard|flatbread|fog|food|fuji|fire|garlic|ice|liquid|luggage|oden|polish"
    r"|polo|popcorn|rice|spaghetti|sushi|wood"
)
"""Stuff, and proper names: words without article and plural."""
_IRREGULAR = re.compile(
    r".*(?:man|child|foot|tooth|mouse|fish|sheep|deer|leaf|knife|scarf)"
    r"|americas|bison|buffalo|clothes|climbing|dancing|deeply|die|elf|fleur-de-lis|frowning|helix|ox|shrimp|squid"
    r"|together|yang"
)
"""Last words whose plural is not formed by rule."""
_ENDS_IN_ES = re.compile(r".*(?:s|x|z|ch|sh)|(?:mosquit|potat|superher|tomat|volcan)o")


def with_article(name: str) -> str:
    """`an owl`, `a unicorn face`; `grapes`, `bread`: without, if the name is plural or names stuff."""
    noun = _noun(name)
    if _UNCOUNTABLE.fullmatch(noun) or _PLURAL.fullmatch(noun):
        return name
    return f"{'an' if _VOWEL_SOUND.match(name) else 'a'} {name}"


def plural(name: str) -> str | None:
    """`owls`, `cherry blossoms`, `mosquitoes`.

    None where English has no regular plural (`mouse`, `bread`), where the name is one already (`grapes`), and where its
    noun is not at its end (`slice of pizza`).
    """
    noun = _noun(name)
    if not name.endswith(noun) or any(rule.fullmatch(noun) for rule in (_UNCOUNTABLE, _PLURAL, _IRREGULAR)):
        return None
    if _ENDS_IN_ES.fullmatch(noun):
        return f"{name}es"
    if re.search(r"[^aeiou]y$", noun):
        return f"{name[:-1]}ies"
    return f"{name}s"


def counted(name: str, count: int) -> str:
    """`three owls`. `count` is 2 to 5, and `name` has a plural."""
    return f"{_NUMBERS[count]} {plural(name)}"


def _noun(name: str) -> str:
    return _BEFORE_HEAD.sub("", name).split(" ")[-1]
