"""The sessions of docs/python.md."""

from __future__ import annotations

import doctest
import importlib.util
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/python.md"
HAS_TORCH = importlib.util.find_spec("torch") is not None


def sessions() -> list[doctest.DocTest]:
    """The sessions in the order of the page; those that need torch only where it is installed."""
    text, parser = PAGE.read_text("utf-8"), doctest.DocTestParser()
    found = []
    for block in re.finditer(r"^```pycon( models)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if HAS_TORCH or not block[1]:
            line = text.count("\n", 0, block.start()) + 1
            found.append(parser.get_doctest(block[2], {}, PAGE.name, str(PAGE), line))
    return found


def program() -> str:
    """What all sessions enter."""
    return "".join(example.source for session in sessions() for example in session.examples)
