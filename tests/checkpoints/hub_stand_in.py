"""A hub on localhost: the few requests by which `huggingface_hub` finds and downloads a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """One model: its files, and the commits by the names under which they are known."""

    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": "0123456789" * 4})


@dataclass
class Hub:
    """What the stand-in serves, how it misbehaves, and what it was asked.

    Attributes:
        repositories: by `owner/name`.
        cut: file -> bytes after which the connection breaks, once.
        failing: files for which the answer is an internal error.
        gets: (file, first byte asked for) of every request for content.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    gets: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._description(parts[2:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._content("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body=body)
        else:
            self._refuse(404, "EntryNotFound")

    def _description(self, parts: list[str]) -> None:
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        what, revision = (parts[2], parts[3]) if len(parts) > 3 else ("revision", "main")
        commit = self._commit(repository, revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        if what == "tree":
            return self._json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                    for name, content in repository.files.items()
                ]
            )
        name = "/".join(parts[:2])
        siblings = [{"rfilename": file} for file in repository.files]
        return self._json({"id": name, "modelId": name, "sha": commit, "siblings": siblings})

    @staticmethod
    def _commit(repository: Repository, revision: str) -> str | None:
        return revision if revision in repository.revisions.values() else repository.revisions.get(revision)

    def _content(self, name: str, revision: str, file: str, *, body: bool) -> None:
        repository = self.hub.repositories.get(name)
        commit = repository and self._commit(repository, revision)
        if repository is None or commit is None or file not in repository.files:
            return self._refuse(404, "EntryNotFound")
        content, first = repository.files[file], 0
        asked = self.headers.get("Range")
        if asked:
            first = int(asked.removeprefix("bytes=").partition("-")[0])
        if body:
            self.hub.gets.append((file, first))
            if file in self.hub.failing:
                return self._refuse(500, "")
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if not body:
            return None
        stop = self.hub.cut.pop(file, None)
        self.wfile.write(content[first:stop])
        if stop is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        return None

    def _json(self, values: object) -> None:
        self._body(200, json.dumps(values).encode())

    def _refuse(self, status: int, code: str) -> None:
        self._body(status, b"{}", {"X-Error-Code": code})

    def _body(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` while the context lasts; its `url` is set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
