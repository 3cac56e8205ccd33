"""A small HTTP server on this machine: files with ranges and marks, and what may go wrong."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40


@dataclass
class Site:
    """What the server has, and what it did; tests change it while it runs."""

    files: dict[str, bytes] = field(default_factory=dict)  # path -> content
    redirects: dict[str, str] = field(default_factory=dict)  # path -> address
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    failures: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)  # first
    earlier: dict[str, list[bytes]] = field(default_factory=dict)  # other contents, sent first
    endless: set[str] = field(default_factory=set)  # paths whose content never ends
    break_after: list[int] = field(default_factory=list)  # bytes sent before each early end
    has_marks: bool = True
    has_ranges: bool = True
    has_length: bool = True
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    address: str = ""

    def add_repository(self, repository: str, files: dict[str, bytes], **facts: Any) -> None:
        """Answer as the hub does for a model's repository, as far as huggingface_hub asks."""
        siblings = []
        for name, content in files.items():
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            sibling = {"rfilename": name, "size": len(content), "blobId": blob}
            if not name.endswith((".json", ".jinja", ".md")):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
            self.files[f"/{repository}/resolve/{COMMIT}/{name}"] = content
        info = {"id": repository, "sha": COMMIT, "siblings": siblings, **facts}
        answer = (200, {"Content-Type": "application/json"}, json.dumps(info).encode())
        self.answers[f"/api/models/{repository}"] = answer
        self.answers[f"/api/models/{repository}/revision/v1"] = answer


class Handler(BaseHTTPRequestHandler):
    """Answers GET from the server's site."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        site: Site = self.server.site
        path = self.path.partition("?")[0]
        site.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
        if site.failures.get(path):
            status, headers = site.failures[path].pop(0)
            self._answer(status, headers, b"not now")
        elif path in site.endless:
            self._send_without_end()
        elif site.earlier.get(path):
            self._send_file(site, site.earlier[path].pop(0))
        elif path in site.answers:
            self._answer(*site.answers[path])
        elif path in site.redirects:
            self._answer(302, {"Location": site.redirects[path]}, b"")
        elif path in site.files:
            self._send_file(site, site.files[path])
        else:
            self._answer(404, {}, b"nothing here")

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, site: Site, content: bytes) -> None:
        mark = f'"{hashlib.md5(content).hexdigest()}"'
        wanted = self.headers.get("Range", "") if site.has_ranges else ""
        if wanted and self.headers.get("If-Range", mark) != mark:
            wanted = ""
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(content) > 0 and wanted:
            self._answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if site.has_marks:
            self.send_header("ETag", mark)
        if site.has_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        body = content[start:]
        if site.break_after:
            body = body[: site.break_after.pop(0)]
        self.wfile.write(body)
        self.close_connection = True

    def _send_without_end(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            return

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Site]:
    """A running server's site; its `address` is http://127.0.0.1:PORT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site = server.site = Site()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
