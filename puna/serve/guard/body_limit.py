"""A request's body: read whole before the routes see it, within bounds of size, time and number."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.serve.errors import ServeError
from puna.serve.guard.gate import error_response, header_values
from puna.serve.settings import RequestLimits

_MOST_HELD = 16  # bodies of the greatest size that all requests together may be sending


class BodyLimit:
    """Refuses a body that is too large, comes too slowly, or is one of too many.

    What the client announced is refused before it is read, what it did not is cut off. While
    `most_answered` requests with bodies are being answered, more are refused unread: what it costs
    to read and check them would keep the others waiting. With `is_kept` the body stays in the
    request's state, for the access log.
    """

    def __init__(
        self, app: ASGIApp, limits: RequestLimits, *, most_answered: int, is_kept: bool = False
    ) -> None:
        self._app = app
        self._limits = limits
        self._most_answered = most_answered
        self._answered = 0
        self._is_kept = is_kept
        self._held_bytes = 0  # of bodies on their way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the body to the application in one message."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        try:
            self._require_room()
            body = await self._read(scope, receive)
            self._require_room()
        except ServeError as error:
            response = error_response(error, scope["path"])
            if error.kind != "busy":  # the rest of the body is not waited for
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        if body is None:  # the client left
            return
        if self._is_kept:
            scope.setdefault("state", {})["body"] = body
        waiting = [body]

        async def replayed() -> Message:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(), "more_body": False}
            return await receive()

        self._answered += 1
        try:
            await self._app(scope, replayed, send)
        finally:
            self._answered -= 1

    def _require_room(self) -> None:
        if self._answered >= self._most_answered:
            raise ServeError("busy", "too many requests wait", hint="try again later")

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        announced = header_values(scope, b"content-length")
        if announced and int(announced[0]) > self._limits.body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while await self._take(body, receive):
                    pass
        except TimeoutError:
            message = f"the body should be here within {self._limits.body_seconds:g} seconds"
            raise ServeError("slow", message) from None
        except ConnectionError:
            return None
        finally:
            self._held_bytes -= len(body)
        return bytes(body)

    async def _take(self, body: bytearray, receive: Receive) -> bool:
        """Whether there is more after what came now."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        part = message.get("body", b"")
        body += part
        self._held_bytes += len(part)
        if len(body) > self._limits.body_bytes:
            raise self._too_large()
        if self._held_bytes > _MOST_HELD * self._limits.body_bytes:
            raise ServeError("busy", "too many large bodies are on their way")
        return bool(message.get("more_body", False))

    def _too_large(self) -> ServeError:
        message = f"the body should have at most {self._limits.body_bytes:,} bytes"
        return ServeError("large", message, hint="send less at once")


def _has_body(scope: Scope) -> bool:
    announced = header_values(scope, b"content-length")
    return bool(header_values(scope, b"transfer-encoding")) or announced not in ([], ["0"])
