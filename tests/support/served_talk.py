"""The page's server in a thread, and what asks it without a browser."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from vocabkit.app.server import address, application, listen
from vocabkit.app.talk import Talk


@contextmanager
def served(talk: Talk) -> Iterator[str]:
    """Serve `talk`, whose LLMs the caller loads, and yield the URL."""
    sock = listen("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(application(talk), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield address(sock)
    finally:
        server.should_exit = True
        thread.join()
        sock.close()


def asking(url: str) -> closing[HTTPConnection]:
    """A connection, closed at the end."""
    return closing(HTTPConnection(urlsplit(url).netloc, timeout=60))


def ask(url: str, path: str, body: bytes | Any = None, **headers: str) -> tuple[int, Any]:
    """Status, and what was answered: the values of a stream, JSON, or text. What is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with asking(url) as connection:
        connection.request("GET" if content is None else "POST", path, content, headers)
        answer = connection.getresponse()
        kind, text = answer.headers["content-type"], answer.read().decode()
    if kind == "application/jsonl":
        return answer.status, [json.loads(line) for line in text.splitlines()]
    return answer.status, json.loads(text) if kind == "application/json" else text
