"""How the server serves: where it listens, whom it answers, and what one request may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from puna.errors import ConfigError


@dataclass(frozen=True)
class RequestLimits:
    """What one request may cost beside its fields' own bounds. Raises ConfigError."""

    body_bytes: int = 8 << 20  # a prompt of a million ids in JSON
    body_seconds: float = 30.0  # for all of a body to arrive
    head_bytes: int = 64 << 10  # of a request before its body
    head_seconds: float = 10.0
    texts: int = 2048  # prompts times n; LangChain embeds 1,000 at once
    json_depth: int = 64  # of a body, JSON schemas with it
    schema_bytes: int = 64 << 10
    write_seconds: float = 30.0  # for a reader to take what is sent; then the connection ends
    ping_seconds: float = 15.0  # a comment in a stream where nothing comes

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True)
class ServeSettings:
    """Everything `puna serve` may be told. Raises ConfigError where it does not fit together.

    `models` are names and what they stand for. Without `api_keys` anyone who reaches the port is
    answered. `allowed_hosts` are names beside loopback's that a Host header may have.
    `queue_limit` counts requests that wait beyond those under way, of one model. `runs` is a folder
    of training runs whose curves the page draws.
    """

    models: Mapping[str, str]
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    memory_budget_bytes: int | None = None
    backend: str = "auto"
    kv: str = "bf16"
    which: str = "latest"
    tokenizer_path: Path | None = None
    context_tokens: int | None = None
    running: int = 64
    queue_limit: int = 256
    load_seconds: float = 600.0
    drain_seconds: float = 30.0
    runs: Path | None = None
    access_log: Path | None = None
    log_prompts: bool = False
    accept_unknown_fields: bool = False
    limits: RequestLimits = field(default_factory=RequestLimits)

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("a server needs a model, found none")
        if self.tokenizer_path is not None and len(self.models) > 1:
            raise ConfigError(
                f"one tokenizer is for one model, found {len(self.models)}",
                hint="a tokenizer beside each model; puna convert puts one into its file",
            )
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port should be between 0 and 65535, got {self.port}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError(
                "TLS needs a certificate and its key, found one of them",
                hint="--tls-cert cert.pem --tls-key key.pem",
            )
        if any(not key or not key.isascii() or not key.isprintable() for key in self.api_keys):
            raise ConfigError("an API key should be printable ASCII, and not empty")
        _require_positive(self)

    @property
    def scheme(self) -> str:
        """`https` with TLS, else `http`."""
        return "https" if self.tls_certificate else "http"


def _require_positive(settings: RequestLimits | ServeSettings) -> None:
    for one in fields(settings):
        value = getattr(settings, one.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and one.name != "port" and value <= 0:
            raise ConfigError(f"{one.name} should be above 0, got {value}")
