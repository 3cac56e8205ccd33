"""API keys: every path needs one but those that tell nothing of models and cost nothing.

What is public is listed, so a route that is added later is guarded, and so is a path that only
looks like a public one. `/metrics` names models and load, so it is guarded too: Prometheus sends
the key by `authorization: {credentials: KEY}`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import Scope

from puna.serve.errors import ServeError
from puna.serve.guard.gate import header_values

_PUBLIC = frozenset({"/", "/health", "/version", "/api/version"})
_PUBLIC_FOLDER = "/static/"  # the page's files; the page asks for the key that it sends


class KeyCheck:
    """Raises ServeError (unauthorized) for a request without one of the keys; none means anyone.

    All keys are compared, by their digests: how long it takes says nothing of any of them.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key.encode("ascii")) for key in keys]

    def __call__(self, scope: Scope) -> None:
        """Check the request's Authorization header."""
        path = scope["path"]
        if not self._digests or path in _PUBLIC or path.startswith(_PUBLIC_FOLDER):
            return
        given = header_values(scope, b"authorization")
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise ServeError(
                "unauthorized", "an API key is needed", hint="Authorization: Bearer KEY"
            )
        digest = _digest(key.strip(" ").encode("latin-1"))
        matches = [hmac.compare_digest(digest, one) for one in self._digests]
        if not any(matches):
            raise ServeError("unauthorized", "the API key is wrong")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
