"""Bytes to a server and what it answers, as no well-behaved client would."""

import json
import socket
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

CHAT = "/v1/chat/completions"


def connected(url: str, seconds: float = 10) -> socket.socket:
    """A connection to the server, whose waits end after so long."""
    place = urlsplit(url)
    return socket.create_connection((place.hostname or "", place.port or 80), timeout=seconds)


def head(path: str = CHAT, method: str = "POST", **headers: Any) -> bytes:
    """The head of a request; `_` in a header's name is `-`."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def chat(**fields: Any) -> bytes:
    """A whole request for a chat."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    return head(Content_Length=len(body)) + body


def read_to_end(connection: socket.socket) -> bytes:
    """What the server sends until it ends the connection. Raises TimeoutError."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def answered(url: str, request: bytes) -> bytes:
    """What the server sends to a request before it ends the connection."""
    with closing(connected(url)) as connection:
        connection.sendall(request)
        return read_to_end(connection)
