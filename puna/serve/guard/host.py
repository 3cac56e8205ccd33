"""The Host header: a name that is not ours means a page of a stranger that calls this machine.

Such a page has its own name point to 127.0.0.1 after it was loaded (DNS rebinding), and the browser
takes the server for the page's own. It cannot change the Host header.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.types import Scope

from puna.serve.errors import ServeError
from puna.serve.guard.gate import header_values
from puna.serve.settings import ServeSettings

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")


class HostCheck:
    """Raises ServeError (forbidden) for a Host that is neither loopback's nor configured.

    Configured are the allowed hosts, the address that the server was told to listen at, and where
    that is every address of the machine, the one that the request came in at.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._names = {plain_name(name) for name in (*settings.allowed_hosts, settings.host)}
        self._is_everywhere = plain_name(settings.host) in ("0.0.0.0", "::", "")

    def __call__(self, scope: Scope) -> None:
        """Check the request's only Host header."""
        found = header_values(scope, b"host")
        name = host_name(found[0]) if len(found) == 1 else None
        if name is None:
            raise ServeError("forbidden", "a request needs one Host header, a name and a port")
        if name in self._names or is_loopback(name):
            return
        came_in_at = scope["server"][0] if scope.get("server") else None
        if self._is_everywhere and name == came_in_at:
            return
        raise ServeError(
            "forbidden", f"the host {name[:100]} is not served", hint=f"--allowed-host {name[:100]}"
        )


def host_name(header: str) -> str | None:
    """The name or address in a Host header, in one spelling; None where it has no such form."""
    match = _HOST.fullmatch(header)
    return plain_name(match[1]) if match else None


def plain_name(name: str) -> str:
    """In small letters, an address without brackets, a name without the root's dot."""
    return name.strip("[]").lower().removesuffix(".")


def is_loopback(name: str) -> bool:
    """Whether a name or address, as `host_name` gives it, can mean but this machine."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761
