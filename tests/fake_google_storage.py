"""A small stand-in for Google Cloud Storage: as much of its JSON interface as gcsfs asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PAGE_ITEMS = 7  # so that lists of a few files have pages
_OBJECT = re.compile(r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?")


@dataclass
class Bucket:
    """The objects by name, and uploads that are not finished."""

    name: str
    objects: dict[str, bytes] = field(default_factory=dict)
    unfinished: dict[str, bytearray] = field(default_factory=dict)

    def facts(self, name: str) -> dict[str, str]:
        """An object as the interface describes it."""
        content = self.objects[name]
        digest = hashlib.md5(content).digest()
        return {
            "kind": "storage#object", "bucket": self.name, "name": name, "size": str(len(content)),
            "md5Hash": base64.b64encode(digest).decode(), "etag": digest.hex(), "generation": "1",
        }  # fmt: skip

    def listed(self, query: dict[str, str]) -> dict[str, object]:
        """A page of a list: objects, and folders where a delimiter is given."""
        prefix, mark = query.get("prefix", ""), query.get("delimiter", "")
        items: list[dict[str, str]] = []
        folders: set[str] = set()
        for name in sorted(self.objects):
            inner, is_deeper, _ = name.removeprefix(prefix).partition(mark or "\0")
            if name.startswith(prefix) and is_deeper:
                folders.add(prefix + inner + mark)
            elif name.startswith(prefix):
                items.append(self.facts(name))
        first = int(query.get("pageToken", 0))
        page: dict[str, object] = {"kind": "storage#objects", "prefixes": sorted(folders)}
        page["items"] = items[first : first + PAGE_ITEMS]
        if first + PAGE_ITEMS < len(items):
            page["nextPageToken"] = str(first + PAGE_ITEMS)
        return page


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' own output is to be read."""

    def do_GET(self) -> None:
        """An object's content or facts, or a list."""
        name, query, content_type = self._asked()
        if name is None:
            self._json(self.bucket.listed(query) if "/o" in self.path else {"name": "bucket"})
        elif name not in self.bucket.objects:
            self._json({"error": {"code": 404, "message": "Not Found"}}, 404)
        elif query.get("alt") != "media":
            self._json(self.bucket.facts(name))
        else:
            self._send(*self._ranged(self.bucket.objects[name]), content_type)

    def do_POST(self) -> None:
        """An upload: at once, begun, or one part of it."""
        _, query, _ = self._asked()
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if "upload_id" in query:
            self._part(query["upload_id"], body)
        elif query["uploadType"] == "resumable":
            self.bucket.unfinished[query["name"]] = bytearray()
            host = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            location = {"Location": f"{host}?uploadType=resumable&upload_id={query['name']}"}
            self._send(200, b"{}", location)
        else:
            facts, content = body.removesuffix(b"\n--==0==--").split(b"\n--==0==", 1)
            name = json.loads(facts[facts.index(b"\n\n") :])["name"]
            self.bucket.objects[name] = content[content.index(b"\n\n") + 2 :]
            self._json(self.bucket.facts(name))

    def _part(self, name: str, body: bytes) -> None:
        self.bucket.unfinished[name] += body
        last, total = re.findall(r"\d+", self.headers["Content-Range"])[1:]
        if int(last) + 1 < int(total):
            self._send(308, b"", {"Range": f"bytes=0-{last}"})
            return
        self.bucket.objects[name] = bytes(self.bucket.unfinished.pop(name))
        self._json(self.bucket.facts(name))

    def _asked(self) -> tuple[str | None, dict[str, str], dict[str, str]]:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        found = _OBJECT.fullmatch(parts.path)
        name = unquote(found[2]) if found and found[2] else None
        return name, query, {"Content-Type": "application/octet-stream"}

    def _ranged(self, content: bytes) -> tuple[int, bytes]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, content
        return 206, content[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None]

    def _json(self, record: dict[str, object] | dict[str, str], status: int = 200) -> None:
        self._send(status, json.dumps(record).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, address: object) -> None:
        """Nothing: a client that has all it wants goes away."""


@contextmanager
def google_storage(bucket: str) -> Iterator[str]:
    """The address of a server with one empty bucket."""
    handler = type("Handler", (_Handler,), {"bucket": Bucket(bucket)})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
