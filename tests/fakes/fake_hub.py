"""A fake of the model hub: the few endpoints that huggingface_hub asks when it fetches a repository, over real HTTP.

It holds what a test gives it; what the real hub does beyond that is not tested here.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    commit: str
    files: dict[str, bytes]
    branches: set[str] = field(default_factory=lambda: {"main"})
    token: str | None = None
    """Needed to read it, where given; without it the repository is gated."""


class FakeHub(ThreadingHTTPServer):
    """Repositories by `models/org/name` and `datasets/org/name`; `requests` are the paths asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        if self.server.broken:
            self._answer(500, b"out of order")
        elif path.startswith("api/"):
            self._api(path.removeprefix("api/"))
        else:
            self._file(path)

    def _repository(self, key: str, revision: str) -> Repository | None:
        repository = self.server.repositories.get(key)
        if repository is None:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        if repository.token is not None and self.headers.get("Authorization") != f"Bearer {repository.token}":
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            return None
        if revision not in {repository.commit, *repository.branches}:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev"})
            return None
        return repository

    def _api(self, path: str) -> None:
        key, _, rest = "/".join(path.split("/")[:3]), None, path.split("/")[3:]
        verb, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        repository = self._repository(key, revision)
        if repository is None:
            return
        if verb == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in repository.files.items()
            ]
            self._answer(200, json.dumps(entries).encode())
            return
        siblings = [{"rfilename": name} for name in repository.files]
        info = {
            "id": key.partition("/")[2],
            "sha": repository.commit,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }
        self._answer(200, json.dumps(info).encode())

    def _file(self, path: str) -> None:
        before, _, after = path.partition("/resolve/")
        revision, _, name = after.partition("/")
        repository = self._repository(before if before.startswith("datasets/") else f"models/{before}", revision)
        if repository is None:
            return
        if name not in repository.files:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
            return
        content = repository.files[name]
        etag = hashlib.sha1(content).hexdigest()
        self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def running():
    """A hub that listens on a free port of this machine."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
