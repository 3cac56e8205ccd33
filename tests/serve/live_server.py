"""An application on a loopback port, in a thread of its own, for clients that need a socket."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.testclient import TestClient

from puna.serve.app import build_app
from puna.serve.server import server_of
from puna.serve.settings import RequestLimits, ServeSettings


def settings_for(pool: Any, **values: Any) -> ServeSettings:
    """The settings that serve a pool's models; `limits` may be a mapping."""
    limits = RequestLimits(**values.pop("limits", {}))
    return ServeSettings(models=dict.fromkeys(pool.names(), "-"), limits=limits, **values)


def client_of(pool: Any, **values: Any) -> TestClient:
    """A client that calls the application without a socket."""
    app = build_app(settings_for(pool, **values), pool)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@contextmanager
def serving(pool: Any, **values: Any) -> Iterator[str]:
    """The base URL, such as http://127.0.0.1:40123, while the application is served there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings = settings_for(pool, **values)
        server = server_of(build_app(settings, pool), settings)
        ready = threading.Event()
        begin = server.startup

        async def startup(sockets: list[socket.socket] | None = None) -> None:
            await begin(sockets)
            ready.set()

        server.startup = startup  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            assert ready.wait(20)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
