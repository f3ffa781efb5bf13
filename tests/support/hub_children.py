"""Child processes that use a `range_server` as their hub."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from range_server import Hub

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["torch", "vocabkit.llm.embeddings"])


class Child:
    """A fresh process that opens `argument` with the Hugging Face cache `home` and reads all rows.

    Fresh, because huggingface_hub reads its settings when it is imported; forked, because torch takes long to import.
    """

    def __init__(
        self, argument: str, home: Path, hub: Hub | None = None, tensor: str | None = None, **environment: str
    ) -> None:
        settings = {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
        if hub is not None:
            settings["HF_ENDPOINT"] = hub.url
        self._answers, answers = _processes.Pipe(duplex=False)
        self._process = _processes.Process(target=_open, args=(argument, tensor, settings, answers))
        self._process.start()
        answers.close()

    def answer(self) -> dict[str, Any]:
        """Return source and sha256 of the rows, or the error; and all calls of `progress`."""
        assert self._answers.poll(60)
        answer: dict[str, Any] = self._answers.recv()
        self._process.join()
        return answer

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()


def open_in_child(
    argument: str, home: Path, hub: Hub | None = None, tensor: str | None = None, **environment: str
) -> dict[str, Any]:
    """Return what a `Child` found."""
    return Child(argument, home, hub, tensor, **environment).answer()


def _open(argument: str, tensor: str | None, settings: Mapping[str, str], answers: Connection) -> None:
    for name in list(os.environ):
        if name.startswith("HF_"):
            del os.environ[name]
    os.environ.update(settings)
    warnings.simplefilter("error")
    import torch

    from vocabkit.errors import VocabkitError
    from vocabkit.llm.embeddings import open_embeddings

    calls: list[tuple[int, int]] = []
    try:
        table = open_embeddings(
            argument, embedding_tensor=tensor, progress=lambda _, done, total: calls.append((done, total))
        )
        rows = table.rows(range(table.num_rows)).view(torch.uint8).numpy().tobytes()
        answer = {"source": table.source, "rows": hashlib.sha256(rows).hexdigest()}
    except VocabkitError as error:
        answer = {"error": str(error)}
    answers.send({**answer, "progress": calls})
