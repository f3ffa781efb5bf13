"""What colours.yaml asks for: a task of lmms-eval, in its own format."""

from __future__ import annotations

from typing import Any


def pictures(doc: dict[str, Any]) -> list[Any]:
    """Of a question."""
    return [doc["image"].convert("RGB")]


def question(doc: dict[str, Any], *_: Any, **__: Any) -> str:
    """As it is put."""
    return str(doc["question"])
