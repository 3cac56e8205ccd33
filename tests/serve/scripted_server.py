"""A scripted pool behind the real server, in a process of its own that takes signals.

Arguments: tokens of each answer, seconds between them, seconds for the drain. Prints its port, and
"closed" when the pool was closed.
"""

import asyncio
import socket
import sys

from serve.fake_pool import FakeClient, FakePool
from serve.live_server import settings_for

from puna.serve.app import build_app
from puna.serve.server import server_of


def main(tokens: int, wait_seconds: float, drain_seconds: float) -> None:
    pool = FakePool(fake=FakeClient(says=["x"] * tokens, wait_seconds=wait_seconds))
    settings = settings_for(pool, drain_seconds=drain_seconds)
    server = server_of(build_app(settings, pool), settings)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        asyncio.run(server.serve([listening]))
    sys.stdout.write(f"left {len(pool.client.left)} in use {pool.in_use['fake']}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
