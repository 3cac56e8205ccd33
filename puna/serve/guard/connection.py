"""The connection below the routes: heads that do not end, and readers that do not read."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from puna.serve.errors import ServeError
from puna.serve.settings import RequestLimits

# Beside what the client's own side buffers, so much is sent to who reads nothing before it is
# noticed; the system's own choice grows to 4 MB a connection.
_SEND_BUFFER_BYTES = 128 << 10
_LEAST_READ_BYTES = 16 << 10  # in write_seconds: a byte now and then does not count
# HTTP/2 or WebSocket in its place, which Java's client asks for by itself; a server may leave that
# unheard, but the parser would take the request's body for the other protocol's first words.
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_TOO_LARGE = json.dumps(
    ServeError("large", "the head of the request is too large", code="head_too_large").openai_body()
)
_HEAD_TOO_LARGE = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_TOO_LARGE)}\r\nConnection: close\r\n\r\n{_TOO_LARGE}"
).encode()


class _Gathering:
    """A transport that sends in one piece what one turn of the event loop writes: a head and its
    body, the events of a step's texts. To send costs as much as all that is ours in a refusal."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def flush(self) -> None:
        held, self._held = self._held, []
        self._transport.write(b"".join(held))

    def close(self) -> None:
        self.flush()
        self._transport.close()


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's connection with bounds: a request's head comes within `head_seconds` and is of at
    most `head_bytes`, a body that was answered before it came has as long for its rest, and a
    reader takes some of what waits for it every `write_seconds`.

    Beyond them it ends at once, which the application sees as a client that leaves. So it does
    where the client ends its own side before it has its answer.
    """

    _limits = RequestLimits()
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _unread_bytes = 0
    _is_in_body = False

    transport: _Gathering  # type: ignore[assignment]  # and it is a transport in all else

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]
        plain: socket.socket = transport.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if not self._is_in_body:
            start, end, rest = data.partition(b"\r\n\r\n")
            if end:  # or its last line may go on in the next piece, as another header's
                data = _UPGRADE.sub(b"", start) + end + rest
        super().data_received(data)
        if self._head_timer is None or self._is_in_body or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > self._limits.head_bytes:
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._is_in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_body = False
        super().on_message_complete()
        if self.cycle.response_complete:
            self._stop_head_timer()
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_in_body and self.cycle.response_complete:  # not that of the next request
            self._await_head()
        self.transport.flush()
        if self.transport.get_write_buffer_size() and self._write_timer is None:
            self._await_reader()

    def eof_received(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self.transport.abort)

    def _await_reader(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self._limits.write_seconds, self._judge_reader)

    def _judge_reader(self) -> None:
        self._write_timer = None
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes and self._unread_bytes - unread_bytes < _LEAST_READ_BYTES:
            self.transport.abort()
        elif unread_bytes:
            self._await_reader()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = None


def connection_class(limits: RequestLimits) -> type[GuardedConnection]:
    """The connection with these limits, as uvicorn takes it: a class."""
    return type("GuardedConnection", (GuardedConnection,), {"_limits": limits})
