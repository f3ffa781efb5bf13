"""--html: the report of a command as a page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from .arguments import check_output
from .show import note

Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write it as one self-contained HTML page.", show_default=False),
]


def check_page(path: Path | None, inputs: Iterable[Path]) -> None:
    """Before the work, as `check_output`, and that pages can be made at all."""
    if path is not None:
        import vocabkit.report.html.page  # noqa: F401

        check_output(path, inputs)


def write_page(path: Path, page: str) -> None:
    """Write it, whole or not at all, and say so on stderr."""
    from vocabkit.files import write_text

    write_text(path, page)
    note(f"written: {path}")
