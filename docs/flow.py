"""The files of vocabkit that a command enters, in order: python docs/flow.py COMMAND ...

A file counts when one of its functions runs after it was imported. Shown is the first function of each.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from types import FrameType

import vocabkit_cli.app

PLUMBING = ("__init__.py", "arrow/", "errors.py", "files/", "hub.py", "report/")
"""What every room uses like a library, and how results are shown. They are left out."""


def flow(command: list[str]) -> dict[str, str]:
    """File, below vocabkit/ -> the first function of it that ran."""
    entered: dict[str, str] = {}

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or "/vocabkit/" not in frame.f_code.co_filename or _is_import(frame):
            return
        file = frame.f_code.co_filename.rpartition("/vocabkit/")[2]
        if file.endswith(".py") and not file.startswith(PLUMBING) and not frame.f_code.co_name.startswith("<"):
            entered.setdefault(file, frame.f_code.co_name)

    sys.argv = ["vocabkit", *command]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        threading.setprofile(watch)
        sys.setprofile(watch)
        with contextlib.suppress(SystemExit):
            vocabkit_cli.app.main()
        sys.setprofile(None)
        threading.setprofile(None)
    return entered


def _is_import(frame: FrameType | None) -> bool:
    """Whether the code runs because a module is being imported: decorators, class bodies, tables."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and "/vocabkit/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    found = flow(sys.argv[1:])
    for number, (file, function) in enumerate(found.items(), 1):
        print(f"{number:2}  {file:32} {function}")
