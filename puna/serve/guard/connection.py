"""The connection below the routes: heads that do not end, and readers that do not read."""

from __future__ import annotations

import asyncio
import json
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from puna.serve.settings import RequestLimits

# Beside what the client's own side buffers, so much is sent to who reads nothing before it is
# noticed; the system's own choice grows to 4 MB a connection.
_SEND_BUFFER_BYTES = 128 << 10
_TOO_LARGE = json.dumps({"error": {"message": "the head of the request is too large", "code": 431}})
_HEAD_TOO_LARGE = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_TOO_LARGE)}\r\nConnection: close\r\n\r\n{_TOO_LARGE}"
).encode()


def connection_class(limits: RequestLimits) -> type[HttpToolsProtocol]:
    """uvicorn's connection with bounds: a request's head within `head_seconds` and `head_bytes`,
    and what is sent read within `write_seconds`. Beyond them the connection ends at once, which the
    application sees as a client that leaves."""

    class GuardedConnection(HttpToolsProtocol):
        _head_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            plain: socket.socket = transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._head_timer is None or self.transport.is_closing():
                return
            self._head_bytes += len(data)
            if self._head_bytes > limits.head_bytes:
                self.transport.write(_HEAD_TOO_LARGE)
                self.transport.close()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._await_head()

        def on_headers_complete(self) -> None:
            self._stop_head_timer()
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self.loop.call_later(limits.write_seconds, self.transport.abort)

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
                self._head_timer = self.loop.call_later(limits.head_seconds, self.transport.abort)

        def _stop_head_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
            self._head_timer = None

        def _stop_write_timer(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
            self._write_timer = None

    return GuardedConnection
