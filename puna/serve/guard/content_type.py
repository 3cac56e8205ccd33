"""The form of a body: JSON, declared as such, and not compressed.

A page of a stranger can send a form or plain text without being asked anything (CSRF); for
application/json its browser asks first, and is told no. A compressed body would be as large as it
likes once it is unpacked.
"""

from __future__ import annotations

from starlette.types import Scope

from puna.serve.errors import ServeError
from puna.serve.guard.gate import header_values

_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
_UTF_8 = ("utf-8", "utf8")


def require_json(scope: Scope) -> None:
    """Raises ServeError (media) for a request that acts and does not say it is plain JSON."""
    if scope["method"] in _WITHOUT_BODY:
        return
    if header_values(
        scope, b"upgrade"
    ):  # not in one piece, or the connection would have left it out
        raise ServeError(
            "invalid",
            "a request with a body cannot ask for another protocol (Upgrade)",
            hint="HTTP/1.1; in Java, HttpClient.Version.HTTP_1_1",
        )
    packed = header_values(scope, b"content-encoding")
    if any(one.strip().lower() not in ("", "identity") for one in packed):
        message = f"a compressed body ({packed[0][:40]}) is not read"
        raise ServeError("media", message, hint="send it as it is")
    found = header_values(scope, b"content-type")
    kind, *parameters = found[0].split(";") if len(found) == 1 else [""]
    charset = next((one for one in parameters if one.strip().lower().startswith("charset=")), "")
    is_utf_8 = charset.partition("=")[2].strip(' "').lower() in ("", *_UTF_8)
    if kind.strip().lower() != "application/json" or not is_utf_8:
        raise ServeError(
            "media",
            f"the body should be application/json, found {', '.join(found)[:100] or 'no type'}",
            hint="curl -H 'Content-Type: application/json'",
        )
