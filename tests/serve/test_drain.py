"""The end of a server: what runs may finish, what is new is refused, a second signal is the last.

The real server and real signals, in front of a scripted pool.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from serve.raw_http import chat, connected, head, read_to_end

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Child:
    """A server process and where it listens."""

    process: subprocess.Popen[str]
    url: str

    def streaming(self) -> socket.socket:
        """A connection on which a stream has begun."""
        connection = connected(self.url)
        connection.sendall(chat(stream=True, max_tokens=100_000))
        assert b"200 OK" in connection.recv(100)
        return connection

    def refuses(self) -> bool:
        """Whether nobody listens any more."""
        try:
            with closing(connected(self.url)):
                return False
        except ConnectionRefusedError:
            return True

    def ended(self, seconds: float) -> tuple[int, str]:
        """Exit code and what it said, once it has ended within so long."""
        said, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, said.strip()


@contextmanager
def child(tokens: int, wait_seconds: float, drain_seconds: float = 20) -> Iterator[Child]:
    words = [str(tokens), str(wait_seconds), str(drain_seconds)]
    command = [sys.executable, "-W", "error", "-m", "serve.scripted_server", *words]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield Child(process, f"http://127.0.0.1:{process.stdout.readline().strip()}")
    finally:
        process.kill()
        process.communicate()


def wait_until_refused(server: Child, seconds: float = 5) -> float:
    began = time.monotonic()
    while not server.refuses():
        assert time.monotonic() < began + seconds
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_ends_by_itself_and_nothing_new_begins(number: signal.Signals):
    with child(tokens=40, wait_seconds=0.05) as server, closing(server.streaming()) as stream:
        server.process.send_signal(number)
        assert wait_until_refused(server) < 2
        assert server.process.poll() is None
        text = read_to_end(stream)
        assert text.count(b'"content":"x"') >= 39
        assert b"[DONE]" in text
        assert server.ended(5) == (0, "left 0 in use 0")


def test_an_idle_server_ends_at_once_with_its_idle_connections():
    with child(tokens=1, wait_seconds=0) as server, closing(connected(server.url)) as idle:
        idle.sendall(head("/health", "GET"))
        while not idle.recv(1000).endswith(b"}"):
            pass
        began = time.monotonic()
        server.process.terminate()
        assert read_to_end(idle) == b""
        assert server.ended(5) == (0, "left 0 in use 0")
        assert time.monotonic() - began < 3


def test_what_does_not_end_in_time_is_cut_off():
    with child(100_000, 0.01, drain_seconds=0.5) as server, closing(server.streaming()) as stream:
        began = time.monotonic()
        server.process.terminate()
        assert b"[DONE]" not in read_to_end(stream)
        assert server.ended(5) == (0, "left 1 in use 0")
        assert 0.4 < time.monotonic() - began < 4


def test_a_second_signal_ends_it_at_once_and_that_is_no_failure(capfd: pytest.CaptureFixture[str]):
    with child(100_000, 0.01, drain_seconds=60) as server, closing(server.streaming()) as stream:
        server.process.terminate()
        wait_until_refused(server)
        assert server.process.poll() is None
        began = time.monotonic()
        server.process.terminate()
        read_to_end(stream)
        code, _said = server.ended(5)
        assert code == 0
        assert time.monotonic() - began < 3
    assert "Traceback" not in capfd.readouterr().err


def test_a_reader_that_does_not_read_does_not_hold_the_end_up():
    with child(100_000, 0, drain_seconds=0.5) as server, closing(server.streaming()):
        time.sleep(0.3)
        began = time.monotonic()
        server.process.terminate()
        code, _said = server.ended(8)
        assert code == 0
        assert time.monotonic() - began < 6


def test_a_request_half_sent_does_not_hold_the_end_up_beyond_its_time():
    with child(1, 0, drain_seconds=0.5) as server, closing(connected(server.url)) as half:
        half.sendall(head(Content_Length=100))
        time.sleep(0.2)
        server.process.terminate()
        assert server.ended(5)[0] == 0
