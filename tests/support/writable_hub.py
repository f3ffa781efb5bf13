"""A Hugging Face hub that can be pushed to: the API that huggingface_hub speaks, with git LFS for large files.

See https://huggingface.co/docs/hub/api and https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md. There is no
Xet storage: clients set HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", ".arrow")
"""What goes to LFS, as by the .gitattributes of a new repository on the hub."""


@dataclass
class Repository:
    """Its history."""

    revisions: dict[str, str] = field(default_factory=dict)
    """Branch or tag -> commit."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> path -> content."""
    sent_in_commits: set[str] = field(default_factory=set)
    """Paths whose content came with a commit, not through LFS."""

    def files(self, revision: str) -> dict[str, bytes] | None:
        """At a branch, a tag or a commit."""
        return self.commits.get(self.revisions.get(revision, revision))


class WritableHub(ThreadingHTTPServer):
    """Use it as a context manager."""

    daemon_threads = True

    def __init__(self, token: str) -> None:
        """token: without which nothing may be written."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.storage: dict[str, bytes] = {}
        """sha256 -> content: git LFS."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


class _Handler(BaseHTTPRequestHandler):
    server: WritableHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        self.body = self._content()
        path = self.path.partition("?")[0]
        writes = self.command == "POST" and path != "/api/validate-yaml"
        if writes and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._json(401, {"error": "Invalid username or password."})
            return
        repository = r"(?P<name>[^/]+/[^/]+?)"
        routes: list[tuple[str, str, Callable[..., None]]] = [
            ("POST", "/api/repos/create", self._create),
            ("POST", "/api/validate-yaml", lambda: self._json(200, {"errors": [], "warnings": []})),
            ("POST", rf"/api/models/{repository}/preupload/main", self._preupload),
            ("POST", rf"/{repository}\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/storage/(?P<digest>\w+)", self._store),
            ("POST", r"/verify", self._verify),
            ("POST", rf"/api/models/{repository}/commit/main", self._commit),
            ("GET", rf"/api/models/{repository}/revision/(?P<revision>[^/]+)", self._info),
            ("GET", rf"/api/models/{repository}/tree/(?P<revision>[^/]+)", self._tree),
            ("(GET|HEAD)", rf"/{repository}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._file),
        ]
        for method, pattern, answer in routes:
            if (match := re.fullmatch(pattern, path)) and re.fullmatch(method, self.command):
                answer(**match.groupdict())
                return
        self._json(404, {"error": f"no such page: {self.command} {path}"})

    def _content(self) -> bytes:
        """Of the request, in one piece or in chunks (RFC 9112, section 7.1)."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        found = name in self.server.repositories
        self.server.repositories.setdefault(name, Repository())
        self._json(409 if found else 200, {"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def _preupload(self, name: str) -> None:
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = [{"path": p, "uploadMode": "lfs" if p.endswith(LARGE) else "regular"} for p in paths]
        self._json(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def _batch(self, name: str) -> None:
        asked = json.loads(self.body)
        assert asked["operation"] == "upload"
        assert "basic" in asked["transfers"]
        objects = []
        for wanted in asked["objects"]:
            upload = {"href": f"{self.server.url}/storage/{wanted['oid']}"}
            actions = {"upload": upload, "verify": {"href": f"{self.server.url}/verify"}}
            objects.append(wanted if wanted["oid"] in self.server.storage else {**wanted, "actions": actions})
        self._json(200, {"transfer": "basic", "objects": objects})

    def _store(self, digest: str) -> None:
        right = hashlib.sha256(self.body).hexdigest() == digest
        if right:
            self.server.storage[digest] = self.body
        self._json(200 if right else 400, {})

    def _verify(self) -> None:
        wanted = json.loads(self.body)
        self._json(200 if len(self.server.storage.get(wanted["oid"], b"")) == wanted["size"] else 404, {})

    def _commit(self, name: str) -> None:
        repository = self.server.repositories[name]
        files = dict(repository.files("main") or {})
        for line in map(json.loads, self.body.splitlines()):
            value: dict[str, Any] = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
                repository.sent_in_commits.add(value["path"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.storage[value["oid"]]
            else:
                assert line["key"] == "header"
        commit = hashlib.sha1(repr((len(repository.commits), sorted(files.items()))).encode()).hexdigest()
        repository.commits[commit] = files
        repository.revisions["main"] = commit
        self._json(200, {"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    def _info(self, name: str, revision: str) -> None:
        if (repository := self._existing(name, revision)) is not None:
            self._json(200, {"id": name, "sha": repository.revisions.get(revision, revision), "siblings": []})

    def _tree(self, name: str, revision: str) -> None:
        if (repository := self._existing(name, revision)) is not None:
            files = repository.files(revision) or {}
            self._json(200, [self._entry(path, content) for path, content in files.items()])

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def _file(self, name: str, revision: str, file: str) -> None:
        if (repository := self._existing(name, revision)) is None:
            return
        commit = {"X-Repo-Commit": repository.revisions.get(revision, revision)}
        content = (repository.files(revision) or {}).get(file)
        if content is None:
            self._send(404, b"", {**commit, "X-Error-Code": "EntryNotFound"})
            return
        large = file.endswith(LARGE)
        tag = f'"{hashlib.sha256(content).hexdigest() if large else _blob(content)}"'
        linked = {"X-Linked-Etag": tag, "X-Linked-Size": str(len(content))} if large else {}
        self._send(200, content, {**commit, "ETag": tag, **linked})

    def _existing(self, name: str, revision: str) -> Repository | None:
        """The repository, or None after an answer that says that it, or the revision, is not there."""
        repository = self.server.repositories.get(name)
        if repository is None or repository.files(revision) is None:
            code = "RepoNotFound" if repository is None else "RevisionNotFound"
            self._send(404, b"", {"X-Error-Code": code})
            return None
        return repository

    def _json(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""


def _blob(content: bytes) -> str:
    """The id that git gives it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
