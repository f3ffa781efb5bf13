"""The entry point of the process. Tests and programs call `vocabkit_cli.app.main` instead."""

from __future__ import annotations

import os
import sys


def run() -> None:
    """Run `main`, then end the process without freeing its memory.

    Freeing the tokens of two vocabularies one by one would take a tenth of the time that `build-shared` takes.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    code: object = 0
    try:
        from .app import main

        main()
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:  # during imports; within a command, Typer catches it
        code = 130
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    os._exit(code if isinstance(code, int) else 1 if code else 0)


if __name__ == "__main__":
    run()
