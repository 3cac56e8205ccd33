"""Pages of other origins: refused unless configured. Keys are sent by hand, cookies never."""

from __future__ import annotations

import re

from starlette.types import Scope

from puna.errors import ConfigError
from puna.serve.errors import ServeError
from puna.serve.guard.gate import header_values
from puna.serve.guard.host import host_name, plain_name
from puna.serve.settings import ServeSettings

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s*]+")
_ONLY_READS = ("GET", "HEAD", "OPTIONS")


def require_origins(settings: ServeSettings) -> None:
    """Raises ConfigError for what is no origin, and for every origin without an API key."""
    for origin in settings.cors_origins:
        if origin == "*" and not settings.api_keys:
            raise ConfigError(
                "every origin without an API key would let any web page use the models",
                hint="--api-key, or the origins by name",
            )
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"a CORS origin should be a scheme and a host, got {origin!r}",
                hint="such as https://chat.example.org, or http://localhost:3000",
            )


class OriginCheck:
    """Raises ServeError (forbidden) for a page of another origin that wants more than to read.

    Without CORS a browser keeps the answers from such a page; this keeps the request from the
    models, too. An allowed host's pages are ours, as a proxy may have changed the Host header.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._origins = set(settings.cors_origins)
        self._hosts = {plain_name(name) for name in settings.allowed_hosts}

    def __call__(self, scope: Scope) -> None:
        """Check the request's Origin header; programs send none."""
        found = header_values(scope, b"origin")
        if not found or scope["method"] in _ONLY_READS or "*" in self._origins:
            return
        if len(found) == 1 and (found[0] in self._origins or self._is_ours(found[0], scope)):
            return
        raise ServeError(
            "forbidden",
            f"a page of {found[0][:100]} may not call this server",
            hint=f"--cors-origin {found[0][:100]}",
        )

    def _is_ours(self, origin: str, scope: Scope) -> bool:
        _, has_scheme, place = origin.partition("://")
        if not has_scheme:  # null
            return False
        is_same = place.lower() == header_values(scope, b"host")[0].lower()
        return is_same or host_name(place) in self._hosts
