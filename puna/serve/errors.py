"""What goes wrong with a request: its HTTP status and its body as OpenAI's and Ollama's clients
read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from puna.errors import PunaError

Kind = Literal[
    "invalid",
    "context",
    "unauthorized",
    "forbidden",
    "unknown",
    "method",
    "slow",
    "large",
    "media",
    "busy",
    "failed",
    "unavailable",
]
_STATUS_AND_TYPE: dict[Kind, tuple[int, str]] = {  # the type is OpenAI's
    "invalid": (400, "invalid_request_error"),  # a field or value that cannot be served
    "context": (400, "exceed_context_size_error"),  # a prompt too long; the type is llama.cpp's
    "unauthorized": (401, "authentication_error"),  # no API key, or a wrong one
    "forbidden": (403, "permission_error"),  # a Host or Origin that is not ours
    "unknown": (404, "not_found_error"),  # no such route or model
    "method": (405, "invalid_request_error"),  # a route that is not asked this way
    "slow": (408, "timeout_error"),  # a request that does not arrive
    "large": (413, "invalid_request_error"),  # a body above the limit
    "media": (415, "invalid_request_error"),  # a body that is not application/json
    "busy": (429, "rate_limit_error"),  # as many requests wait as may
    "failed": (500, "server_error"),  # a bug of ours, or an engine that ended
    "unavailable": (503, "unavailable_error"),  # loading or draining
}
_CODES: dict[Kind, str] = {
    "context": "context_length_exceeded",
    "unauthorized": "invalid_api_key",
    "busy": "queue_full",
}
_RETRY_AFTER_SECONDS: dict[Kind, int] = {"busy": 1, "unavailable": 2}


class ServeError(PunaError):
    """One request's failure. `param` names the field it is about, `code` is for programs.

    `details` are more fields of the body, as n_prompt_tokens and n_ctx of a prompt too long.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        hint: str | None = None,
        code: str | None = None,
        param: str | None = None,
        details: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.status, self.type = _STATUS_AND_TYPE[kind]
        self.code = code or _CODES.get(kind)
        self.param = param
        self.details = dict(details or {})

    @property
    def headers(self) -> dict[str, str]:
        """Those that the response needs because of its status."""
        headers = {}
        if self.kind in _RETRY_AFTER_SECONDS:
            headers["Retry-After"] = str(_RETRY_AFTER_SECONDS[self.kind])
        if self.kind == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    @property
    def text(self) -> str:
        """The message with its hint, in one line."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message

    def openai_body(self) -> dict[str, Any]:
        """`{"error": {...}}`, also a chunk of a stream that fails on its way."""
        error = {"message": self.text, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, **self.details}}

    def ollama_body(self) -> dict[str, str]:
        """`{"error": text}`."""
        return {"error": self.text}

    @classmethod
    def from_wire(cls, error: Mapping[str, Any]) -> ServeError:
        """The error that an engine process answered; of no known kind it is `failed`."""
        kind: Kind = error["kind"] if error["kind"] in _STATUS_AND_TYPE else "failed"
        details = {}
        if kind == "context":  # llama.cpp's names
            details = {
                "n_prompt_tokens": error["prompt_tokens"],
                "n_ctx": error["context_tokens"],
            }
        hint, param = error.get("hint"), error.get("param")
        return cls(kind, error["message"], hint=hint, param=param, details=details)
