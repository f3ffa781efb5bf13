"""A small Hugging Face hub on this machine, and processes that use it as theirs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"

GATED = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."})
UNAUTHORIZED = (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
BAD_TOKEN = (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
NOT_FOUND = (404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
NO_SUCH_FILE = (404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

Refusal = tuple[int, Mapping[str, str]]
CUT = b"<cut>"
"""Content that ends with this is sent without it, but with the length of all: the connection breaks."""


class HubServer(ThreadingHTTPServer):
    """Serves `repositories`: name -> files, or how to refuse it. Use it as a context manager."""

    daemon_threads = True

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes] | Refusal]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.asked: list[tuple[str, str]] = []
        """(method, path) of all requests."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def files_asked(self, repository: str) -> list[str]:
        """Files of `repository` that were asked for, each once, in order."""
        start = f"/{repository}/resolve/main/"
        return list(dict.fromkeys(path.removeprefix(start) for _, path in self.asked if path.startswith(start)))

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path))
        repository, _, file = path.removeprefix("/").partition("/resolve/main/")
        found = self.server.repositories.get(repository, NOT_FOUND)
        content = found.get(file) if isinstance(found, Mapping) else None
        if content is None:
            self._refuse(NO_SUCH_FILE if isinstance(found, Mapping) else found)
            return
        sent = content.removesuffix(CUT)
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(sent)
        self.close_connection = len(sent) < len(content)

    def _refuse(self, refusal: Refusal) -> None:
        status, headers = refusal
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""


_CHILD = """
import json, sys, time
from vocabkit.tokenizer.catalog import resolve
from vocabkit.errors import VocabkitError
time.sleep = lambda seconds: None  # huggingface_hub tries an unreachable hub again for 23 seconds
for argument in sys.argv[1:]:
    try:
        found = resolve(argument)
        v = found.vocabulary
        answer = {"how": found.how, "name": v.name, "fingerprint": v.fingerprint, "roles": dict(v.roles),
                  "size": [v.embedding_rows, v.width]}
    except VocabkitError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
"""


def resolve_in_child(arguments: Sequence[str], home: Path, **environment: str) -> list[dict[str, Any]]:
    """Resolve `arguments` in a fresh process with the Hugging Face cache `home`: what it found for each.

    Fresh, because huggingface_hub reads its settings when it is imported.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _CHILD, *arguments],
        env={**kept, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
