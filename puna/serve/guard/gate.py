"""A gate: refuses a request whose head fails a check, in the shape that its client reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.serve.errors import ServeError

Check = Callable[[Scope], None]

_OLLAMA = "/api/"


class Gate:
    """Lets a request through when no check of its head raises ServeError."""

    def __init__(self, app: ASGIApp, checks: Sequence[Check]) -> None:
        self._app = app
        self._checks = checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or say why not. What is no request passes."""
        if scope["type"] == "http":
            try:
                for check in self._checks:
                    check(scope)
            except ServeError as error:
                await error_response(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def error_response(error: ServeError, path: str) -> Response:
    """The error as clients of that path read it: Ollama's below /api/, OpenAI's elsewhere."""
    body = error.ollama_body() if path.startswith(_OLLAMA) else error.openai_body()
    return Response(
        json.dumps(body, ensure_ascii=False).encode(errors="replace"),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )


def header_values(scope: Scope, name: bytes) -> list[str]:
    """The values of every header of that name in small letters, one character a byte."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
