"""Answers on their way: server-sent events, and an end for what nobody waits for any more."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from puna.serve.errors import ServeError

logger = logging.getLogger("puna.serve")

T = TypeVar("T")

_PING = b": ping\n\n"


class ClientLeftError(Exception):
    """The client closed its connection before it had its answer."""


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled, and ClientLeftError raised, when the client leaves.

    The request's body must have been read.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeftError
    finally:
        await cancelled(working, leaving)


class EventStream(Response):
    """Server-sent events, each of them JSON; a comment where none comes for `ping_seconds`.

    What goes wrong on the way is an event with OpenAI's `error`. Closes `events` when the client
    leaves. `LineStream` sends them in another form.
    """

    media_type = "text/event-stream"
    last = b"data: [DONE]\n\n"

    def __init__(self, events: AsyncGenerator[dict[str, Any]], ping_seconds: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._ping_seconds = ping_seconds
        self._sent_at = 0.0

    def encoded(self, event: dict[str, Any]) -> bytes:
        """One of the events as it is sent."""
        return b"data: " + json_bytes(event) + b"\n\n"

    def failure(self, error: ServeError) -> dict[str, Any]:
        """The event that says what went wrong."""
        return error.openai_body()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client leaves."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        writing = asyncio.ensure_future(self._write(send))
        pinging = asyncio.ensure_future(self._ping(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            await cancelled(writing, pinging, leaving)

    async def _write(self, send: Send) -> None:
        async with aclosing(self._events):
            try:
                async for event in self._events:
                    await self._send(send, self.encoded(event))
            except ServeError as error:
                await self._send(send, self.encoded(self.failure(error)))
            except Exception:  # the status is sent: a reader learns of our bug in the stream
                logger.exception("a stream failed")
                failed = ServeError("failed", "the answer failed on its way")
                await self._send(send, self.encoded(self.failure(failed)))
        await send({"type": "http.response.body", "body": self.last, "more_body": False})

    async def _send(self, send: Send, content: bytes) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": content, "more_body": True})

    async def _ping(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        while True:
            wait_seconds = self._sent_at + self._ping_seconds - loop.time()
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)
            else:
                await self._send(send, _PING)


class LineStream(EventStream):
    """Ollama's streams: a line of JSON for each event. They know no comments."""

    media_type = "application/x-ndjson"
    last = b""

    def encoded(self, event: dict[str, Any]) -> bytes:
        """A line."""
        return json_bytes(event) + b"\n"

    def failure(self, error: ServeError) -> dict[str, Any]:
        """Ollama's."""
        return error.ollama_body()

    async def _ping(self, send: Send) -> None:
        return


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8. Raises ValueError for NaN and infinite numbers."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def json_response(value: Any) -> Response:
    """A finished answer."""
    return Response(json_bytes(value), media_type="application/json")


async def _left(receive: Receive) -> None:
    """Returns when the client closes its connection."""
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """End the tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
