"""The server's life: it listens, loads its model, answers until a signal, and ends."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from puna.errors import ConfigError, MachineError
from puna.serve.app import build_app
from puna.serve.engine_client import EngineOptions
from puna.serve.errors import ServeError
from puna.serve.guard.connection import connection_class
from puna.serve.model_pool import ModelPool
from puna.serve.settings import ServeSettings

Event = dict[str, Any]
Announce = Callable[[Event], None]

_KEEP_ALIVE_SECONDS = 75  # longer than a proxy's 60, so that the proxy is who ends a connection
_BACKLOG = 2048


def serve(settings: ServeSettings, announce: Announce) -> bool:
    """Serve until SIGINT or SIGTERM; what is under way then has `drain_seconds` to end.

    `announce` is called with {"event": "listening", "url", "models"}, and where one model is served
    with {"event": "ready", "model", ...} and some of what it says of itself. Returns False where
    that one cannot be loaded, which the log explains. Raises MachineError for an address that
    cannot be had, ConfigError for files of TLS that cannot be used.
    """
    with listening_socket(settings.host, settings.port) as listening:
        return asyncio.run(_serve(settings, listening, announce))


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket to accept at; port 0 takes a free one. Raises MachineError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise MachineError(
            f"cannot listen at {host} port {port}: {(error.strerror or str(error)).split(' (')[0]}",
            hint="another --port, or --port 0 for any that is free",
        ) from None


class Server(uvicorn.Server):
    """uvicorn's server, for which SIGTERM is as good an end as Ctrl-C and no failure.

    At the first signal it takes no more connections, closes those that are idle, and waits at most
    `drain_seconds` for the answers under way; then, or at the second signal, it cuts them off.
    """

    handshake_seconds: float

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        if self.force_exit:
            self._drop_connections()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. TLS has as long for its handshake as a request for its head."""
        loop = asyncio.get_running_loop()
        if self.config.is_ssl:
            loop.create_server = functools.partial(  # type: ignore[method-assign]
                loop.create_server, ssl_handshake_timeout=self.handshake_seconds
            )
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as said above."""
        await super().shutdown(sockets)
        self._drop_connections()  # with what a reader has not taken by now

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def server_of(app: ASGIApp, settings: ServeSettings) -> Server:
    """The server of an application, with guarded connections."""
    config = uvicorn.Config(
        app,
        http=connection_class(settings.limits),
        ws="none",
        lifespan="off",  # there is none; where it is cut off, it is logged as a failure
        log_config=None,
        access_log=False,  # ours tells more
        server_header=False,
        proxy_headers=False,  # who calls from this machine could name any address as its own
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,  # type: ignore[arg-type]  # any seconds
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # ssl's errors, too
        raise ConfigError(f"the files of TLS cannot be used: {error}") from None
    server = Server(config)
    server.handshake_seconds = settings.limits.head_seconds
    return server


async def _serve(settings: ServeSettings, listening: socket.socket, announce: Announce) -> bool:
    tokenizer = settings.tokenizer_path
    options = EngineOptions(
        backend=settings.backend,
        kv=settings.kv,
        which=settings.which,
        tokenizer_path=None if tokenizer is None else str(tokenizer),
        context_tokens=settings.context_tokens,
        running=settings.running,
        queue_limit=settings.queue_limit,
    )
    pool = ModelPool(
        settings.models,
        options,
        budget_bytes=settings.memory_budget_bytes,
        load_seconds=settings.load_seconds,
    )
    server = server_of(build_app(settings, pool), settings)
    names = list(settings.models)
    announce({"event": "listening", "url": _url(settings, listening), "models": names})
    loading = asyncio.ensure_future(_load_only_model(pool, server, announce))
    try:
        await server.serve([listening])
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await pool.close()
    return loading.cancelled() or loading.result()


async def _load_only_model(pool: ModelPool, server: Server, announce: Announce) -> bool:
    """Load the model where there is one, or end the server; of several each waits to be asked."""
    if len(pool.names()) > 1:
        return True
    (name,) = pool.names()
    try:
        async with pool.use(name, wait_seconds=float("inf")) as client:
            about = client.described
    except ServeError:  # the pool has logged it
        server.should_exit = True
        return False
    told = ("backend", "context_tokens", "has_chat_template", "load_seconds")
    announce({"event": "ready", "model": name, **{key: about[key] for key in told}})
    return True


def _url(settings: ServeSettings, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    return f"{settings.scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}"
