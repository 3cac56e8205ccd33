"""One line of JSON for each request that ends, and a name for each that begins.

    {"time": "2026-02-01T09:30:00.125+00:00", "request_id": "9f2c...", "client": "127.0.0.1",
     "method": "POST", "path": "/v1/chat/completions", "status": 200, "is_whole": true,
     "seconds": 1.204, "response_bytes": 5120, "model": "smollm2", "prompt_tokens": 31,
     "cached_tokens": 16, "completion_tokens": 80}

`is_whole` is false where the client left or was dropped before the end. The model is absent where
none was used, the tokens are only those of texts that ended. What was asked, "body", is there only
with `--log-prompts`.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.errors import ConfigError
from puna.serve.guard.gate import header_values

logger = logging.getLogger("puna.serve")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # a client's own; another could forge log lines
_LONGEST_PATH = 512

Note = Callable[[dict[str, Any]], None]

_current: ContextVar[dict[str, Any]] = ContextVar("request's state")


@dataclass
class _Outcome:
    status: int | None = None
    response_bytes: int = 0
    is_whole: bool = False


class RequestRecord:
    """Gives each request an id, the client's X-Request-Id or a new one, and notes how it ended."""

    def __init__(self, app: ASGIApp, notes: Sequence[Note]) -> None:
        self._app = app
        self._notes = notes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; its id is `request_id` in its state and X-Request-Id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header_values(scope, b"x-request-id")
        is_fit = len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) is not None
        request_id = given[0] if is_fit else secrets.token_hex(12)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        _current.set(state)
        outcome = _Outcome()
        has_left = False

        async def received() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = has_left or message["type"] == "http.disconnect"
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                outcome.status = message["status"]
                own = (b"x-request-id", request_id.encode("ascii"))
                message["headers"] = [*message.get("headers", []), own]
            else:
                outcome.response_bytes += len(message.get("body", b""))
                outcome.is_whole = not message.get("more_body", False) and not has_left
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, received, sent)
        except Exception:
            outcome.status = outcome.status or 500  # which is sent further out
            raise
        finally:
            record = _record(scope, outcome, time.perf_counter() - began)
            for note in self._notes:
                note(record)


def note_model(name: str) -> None:
    """Have the record of the request that this is done for name the model."""
    if (state := _current.get(None)) is not None:
        state["model"] = name


class AccessLog:
    """Writes each record at the end of a file. Raises ConfigError where that cannot be written.

    It is opened for each line, so it may be moved away meanwhile (logrotate). A disk that is full
    later costs lines of the log and no request.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_failed = False
        try:
            self._write("")
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"the access log {path} cannot be written: {reason}") from None

    def note(self, record: dict[str, Any]) -> None:
        """Write one line."""
        try:
            self._write(json.dumps(record) + "\n")
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                logger.warning("the access log cannot be written: %s", error)
            self._has_failed = True

    def _write(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)


def _record(scope: Scope, outcome: _Outcome, seconds: float) -> dict[str, Any]:
    state = scope["state"]
    record = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": state["request_id"],
        "client": scope["client"][0] if scope.get("client") else None,
        "method": scope["method"],
        "path": scope["path"][:_LONGEST_PATH],
        "status": outcome.status,
        "is_whole": outcome.is_whole,
        "seconds": round(seconds, 4),
        "response_bytes": outcome.response_bytes,
    }
    if "model" in state:
        record["model"] = state["model"]
    if (tally := state.get("tally")) is not None:
        record["prompt_tokens"] = tally.prompt_tokens
        record["cached_tokens"] = tally.cached_tokens
        record["completion_tokens"] = tally.completion_tokens
    if "body" in state:
        record["body"] = state["body"].decode("utf-8", "replace")
    return record
