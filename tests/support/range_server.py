"""A Hugging Face hub with range requests, and with a storage on another host."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    """One request that a server got."""

    server: str
    """hub, or storage."""
    method: str
    file: str
    range: str | None
    authorization: str | None
    sent: int = 0
    """Bytes of content."""


@dataclass
class Hub:
    """Serves the files of one repository, owner/name, at one commit. Use it as a context manager."""

    files: Mapping[str, bytes]
    repository: str = "owner/name"
    revisions: tuple[str, ...] = ("main", COMMIT)
    stored_elsewhere: bool = False
    """Whether safetensors files are kept on another host, where the hub redirects to, as for all large files."""
    ignores_ranges: bool = False
    refuses: Mapping[str, str] | None = None
    """Headers with which it answers everything; with `status`."""
    status: int = 200
    storage_status: int = 200
    cuts: list[int] = field(default_factory=list)
    """After how many bytes of content each of the next ranges of more than 64 bytes breaks off."""
    truncates: bool = False
    """Whether safetensors files are served without their second half, and as if they had none."""
    log: list[Request] = field(default_factory=list)

    def __enter__(self) -> Hub:
        self._servers = [_Server(("127.0.0.1", 0), self, "hub"), _Server(("127.0.0.1", 0), self, "storage")]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        """Value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage_url(self) -> str:
        """Where large files are."""
        return f"http://localhost:{self._servers[1].server_port}"

    def content(self, file: str) -> bytes | None:
        """What is served as this file."""
        content = self.files.get(file)
        return content[: len(content) // 2] if content and self.truncates and file.endswith(".safetensors") else content

    def gets(self, file: str) -> list[Request]:
        """GET requests for it, in order."""
        return [request for request in self.log if request.method == "GET" and request.file == file]

    def bytes_sent(self, file: str) -> int:
        """Of its content, all together."""
        return sum(request.sent for request in self.gets(file))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], hub: Hub, role: str) -> None:
        super().__init__(address, _Handler)
        self.hub, self.role = hub, role

    def handle_error(self, *args: object) -> None:
        """Clients hang up: nothing on stderr."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server.hub, self.path.partition("?")[0]
        match = re.fullmatch(rf"/{hub.repository}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path)
        file = match["file"] if match else path
        self._request = Request(
            self.server.role, self.command, file, self.headers.get("Range"), self.headers.get("Authorization")
        )
        hub.log.append(self._request)
        if hub.refuses is not None:
            self._send(hub.status, hub.refuses)
        elif match is None:
            self._send(404, {"X-Error-Code": "RepoNotFound"})
        elif match["revision"] not in hub.revisions:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif (content := hub.content(file)) is None:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif self.server.role == "hub" and hub.stored_elsewhere and file.endswith(".safetensors"):
            etag = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": _etag(content), "X-Repo-Commit": COMMIT}
            self._send(302, {**etag, "Location": f"{hub.storage_url}{path}?signature=of-the-hub"})
        elif self.server.role == "storage" and hub.storage_status != 200:
            self._send(hub.storage_status, {})
        else:
            self._send_content(content)

    def _send_content(self, content: bytes) -> None:
        headers = {"ETag": _etag(content), "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self._request.range or "")
        if match is None or self.server.hub.ignores_ranges:
            self._send(200, headers, content)
            return
        first, last = int(match[1]), min(int(match[2]), len(content) - 1)
        if first > last:
            self._send(416, {"Content-Range": f"bytes */{len(content)}"})
        else:
            self._send(
                206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1]
            )

    def _send(self, status: int, headers: Mapping[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = (
            self.server.hub.cuts.pop(0) if self.server.hub.cuts and len(content) > 64 and self._request.range else None
        )
        self.wfile.write(content[:cut])
        self._request.sent = len(content[:cut])
        self.close_connection = self.close_connection or cut is not None

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()}"'
