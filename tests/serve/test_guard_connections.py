"""Connections that keep a server busy for nothing, and requests that are not what they say."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import serving, settings_for
from serve.raw_http import answered, chat, connected, head, read_to_end
from uvicorn.server import ServerState

from puna.serve.server import server_of

CERTIFICATE = Path(__file__).with_name("localhost.pem")
LIMITS = {
    "body_bytes": 20_000,
    "body_seconds": 0.5,
    "head_bytes": 4_000,
    "head_seconds": 0.5,
    "write_seconds": 0.5,
}


@pytest.fixture(scope="module")
def pool():
    return FakePool()


@pytest.fixture(scope="module")
def url(pool: FakePool):
    with serving(pool, limits=LIMITS) as url:
        yield url


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def dropped_after(connection: socket.socket, drip: Callable[[], bytes]) -> float:
    """The seconds until the server ends a connection on which a byte comes now and then."""
    began = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() < began + 10:
        try:
            connection.send(drip())
            if connection.recv(1 << 16) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - began


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(url: str):
    with closing(connected(url)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        assert dropped_after(connection, lambda: b"x") < 3


def test_a_connection_without_a_word_is_not_kept(url: str):
    with closing(connected(url)) as connection:
        began = time.monotonic()
        assert read_to_end(connection) == b""
        assert 0.3 < time.monotonic() - began < 3


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_a_handshake_of_tls_that_does_not_end_is_not_waited_for(begun: bytes):
    files = {"tls_certificate": CERTIFICATE, "tls_key": CERTIFICATE}
    with serving(FakePool(), limits=LIMITS, **files) as url:
        with closing(connected(url)) as connection:
            connection.sendall(begun)
            began = time.monotonic()
            assert read_to_end(connection) == b""
            assert 0.3 < time.monotonic() - began < 3
        trusting = ssl.create_default_context(cafile=CERTIFICATE)
        with trusting.wrap_socket(connected(url), server_hostname="localhost") as connection:
            connection.sendall(head("/health", "GET"))
            assert status(connection.recv(1 << 16)) == 200


def test_a_second_head_is_not_waited_for_either(url: str):
    with closing(connected(url)) as connection:
        connection.sendall(head("/health", "GET"))
        assert status(connection.recv(1 << 16)) == 200
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        assert dropped_after(connection, lambda: b"x") < 3


def test_a_body_that_comes_byte_by_byte_is_not_waited_for(url: str):
    with closing(connected(url)) as connection:
        connection.sendall(head(Content_Length=10_000))
        began = time.monotonic()
        connection.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() < began + 5:
            connection.send(b" ")
            try:
                answer = connection.recv(1 << 16)
            except TimeoutError:
                continue
        assert status(answer) == 408
        assert b"within 0.5 seconds" in answer


@pytest.mark.parametrize("has_rest", [False, True])
def test_the_rest_of_a_body_that_was_refused_unread_is_not_waited_for(url: str, has_rest: bool):
    """Nor is a next request, where it has come."""
    with closing(connected(url)) as connection:
        connection.sendall(head(Content_Length=10, Content_Type="text/plain"))
        assert status(connection.recv(1 << 16)) == 415
        if has_rest:
            connection.sendall(b" " * 10)
        began = time.monotonic()
        if not has_rest:
            assert dropped_after(connection, lambda: b" ") < 3
        assert read_to_end(connection) == b""
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "flood",
    [
        b"".join(b"X-%d: y\r\n" % number for number in range(2_000)),
        b"X: " + b"y" * 300_000 + b"\r\n",
        b"Cookie: " + b"a=b; " * 2_000,
    ],
)
def test_a_head_that_is_too_large_is_refused(url: str, flood: bytes):
    with closing(connected(url)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        time.sleep(0.05)
        for begin in range(0, len(flood), 1000):
            try:
                connection.sendall(flood[begin : begin + 1000])
                time.sleep(0.001)
            except ConnectionError:
                break
        answer = read_to_end(connection)
    assert answer == b"" or status(answer) == 431  # a reset may take the answer with it


def test_a_target_that_is_too_large_is_refused(url: str):
    answer = answered(url, b"GET /" + b"a" * 6_000)
    assert status(answer) == 431
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}  # as OpenAI's clients read it


def test_an_announced_body_that_is_too_large_is_refused_unread(url: str):
    began = time.monotonic()
    answer = answered(url, head(Content_Length=10**15))
    assert status(answer) == 413
    assert time.monotonic() - began < 0.4


def test_who_asks_first_is_refused_without_a_continue(url: str):
    answer = answered(url, head(Content_Length=10**9, Expect="100-continue"))
    assert status(answer) == 413


CLOSE = b"\r\nConnection: close\r\n"
UPGRADE = b"\r\nConnection: Upgrade, close\r\nuPgrade: h2c\r\n"  # Java's client, by itself


def test_an_upgrade_is_left_unheard(url: str):
    answer = answered(url, chat().replace(b"\r\n", UPGRADE, 1))
    assert status(answer) == 200


@pytest.mark.parametrize("cut", [b"uP", b"uPgrade", b"uPgrade: h", b"uPgrade: h2c"])
def test_an_upgrade_in_pieces_is_refused_in_words(url: str, cut: bytes):
    """And the rest of its line does not become another header's."""
    request = chat().replace(b"\r\n", UPGRADE, 1)
    at = request.index(cut) + len(cut)
    with closing(connected(url)) as connection:
        connection.sendall(request[:at])
        time.sleep(0.1)
        connection.sendall(request[at:])
        answer = read_to_end(connection)
    assert status(answer) == 400
    assert b"(Upgrade)" in answer


@pytest.mark.parametrize("pause_seconds", [0, 0.1])
def test_a_body_with_a_line_like_it_keeps_its_length(url: str, pause_seconds: float):
    body = b'{"content":"x"' + b"\r\nUpgrade: h2c\r\n\r\n" * 3 + b"}"
    with closing(connected(url)) as connection:
        connection.sendall(head("/tokenize", Content_Length=len(body), Connection="close"))
        time.sleep(pause_seconds)
        connection.sendall(body)
        answer = read_to_end(connection)
    assert status(answer) == 400  # 408 would mean that bytes are missing
    assert b"should be JSON" in answer


def test_large_bodies_on_their_way_are_few(url: str):
    waiting = [connected(url) for _ in range(18)]
    try:
        for connection in waiting:
            connection.sendall(head(Content_Length=20_000) + b" " * 19_000)
        answers = [read_to_end(connection) for connection in waiting]
    finally:
        for connection in waiting:
            connection.close()
    assert {status(answer) for answer in answers} == {408, 429}
    assert b'"code": "queue_full"' in b"".join(answers)


def test_a_chunked_body_is_cut_off_at_the_bound(url: str):
    part = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    with closing(connected(url)) as connection:
        connection.sendall(head(Transfer_Encoding="chunked"))
        sent = 0
        try:
            while sent < 1000:
                connection.sendall(part)
                sent += 1
                time.sleep(0.001)
        except ConnectionError:
            pass
        answer = read_to_end(connection)
    assert sent < 1000
    assert answer == b"" or status(answer) == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "-1"},
        {"Content_Length": "1e3"},
        {"Content_Length": "0x10"},
        {"Content_Length": "5, 6"},
        {"Content_Length": "99999999999999999999999999"},
        {"Content_Length": "5\r\nContent-Length: 6"},
        {"Content_Length": "5", "Transfer_Encoding": "chunked"},
        {"Transfer_Encoding": "chunked, identity"},
        {"Transfer_Encoding": "xchunked"},
    ],
)
def test_a_length_that_is_none_is_refused(url: str, pool: FakePool, headers: dict[str, str]):
    before = len(pool.client.asked)
    answer = answered(url, head(**headers) + b"0\r\n\r\n")
    assert status(answer) in (400, 408, 415)
    assert len(pool.client.asked) == before


def test_a_length_below_the_body_ends_the_connection_and_asks_nothing_twice(url: str):
    whole = chat()
    body = whole.split(b"\r\n\r\n")[1]
    lying = whole.replace(
        b"Content-Length: %d" % len(body), b"Content-Length: %d" % (len(body) - 5)
    )
    answer = answered(url, lying)
    assert answer.count(b"HTTP/1.1 200") == 0
    assert answer.count(b"HTTP/1.1 400") >= 1


def test_a_request_hidden_in_a_body_is_not_answered(url: str):
    hidden = head("/v1/models", "GET")
    answer = answered(url, head(Content_Length=len(hidden), Connection="close") + hidden)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status(answer) == 400


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a port without
        b"GET\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
        b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT evil.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_ends(url: str, nonsense: bytes):
    answer = answered(url, nonsense)
    assert answer == b"" or 400 <= status(answer) < 500


def test_an_http_1_0_request_without_a_host_is_refused(url: str):
    assert status(answered(url, b"GET /v1/models HTTP/1.0\r\n\r\n")) == 403


def test_an_absolute_target_does_not_replace_the_host(url: str):
    asked = (
        b"GET http://localhost/v1/models HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n"
    )
    assert status(answered(url, asked)) == 403


def test_a_reader_that_never_reads_is_dropped_and_its_text_cancelled():
    endless = FakeClient(says=["x" * 2_000] * 10, never_ends=True)
    pool = FakePool(fake=endless)
    with serving(pool, limits=LIMITS) as url, closing(connected(url)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(chat(stream=True, max_tokens=1_000_000))
        began = time.monotonic()
        while not endless.left and time.monotonic() < began + 15:
            time.sleep(0.05)
        assert endless.left, "the text still runs"
        assert pool.in_use["fake"] == 0


def test_who_ends_his_side_is_taken_for_one_who_left_though_he_reads_nothing():
    endless = FakeClient(says=["x" * 2_000], never_ends=True, wait_seconds=0.001)
    with serving(FakePool(fake=endless)) as url, closing(connected(url)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(chat(stream=True, max_tokens=1_000_000))
        time.sleep(0.5)  # by now some of the answer is kept
        connection.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        while not endless.left and time.monotonic() < began + 5:
            time.sleep(0.02)
        assert endless.left, "the text still runs"


class Unread:
    """A transport of which nobody takes the last bytes."""

    def __init__(self, plain: socket.socket) -> None:
        self.plain = plain
        self.is_aborted = False
        self.sent: list[bytes] = []

    def get_extra_info(self, name: str) -> socket.socket | None:
        return self.plain if name == "socket" else None

    def get_write_buffer_size(self) -> int:
        return 100

    def is_closing(self) -> bool:
        return True

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self) -> None:
        self.is_aborted = True


def connection_on(transport: Unread) -> Any:
    """A connection of a server with LIMITS, which waits for nothing yet."""
    server = server_of(None, settings_for(FakePool(), limits=LIMITS))  # type: ignore[arg-type]
    connection = server.config.http_protocol_class(  # type: ignore[operator,call-arg]
        config=server.config, server_state=ServerState(), app_state={}
    )
    connection.connection_made(transport)
    connection._stop_head_timer()
    return connection


def test_what_one_turn_of_the_loop_writes_is_sent_in_one_piece():
    """Sending costs most of a refusal; and asyncio warns of the fifth piece to who has left."""

    async def main(transport: Unread) -> None:
        connection = connection_on(transport)
        for part in (b"head ", b"body ", b"end"):
            connection.transport.write(part)
        await asyncio.sleep(0)
        connection.transport.write(b"more")
        connection.on_response_complete()
        assert transport.sent == [b"head body end", b"more"]

    with socket.socket() as plain:
        asyncio.run(main(Unread(plain)))


def test_the_last_bytes_of_an_answer_do_not_keep_a_connection():
    """Too few of them for the server to stop writing, which is when it begins to wait."""

    async def main(transport: Unread) -> None:
        connection_on(transport).on_response_complete()
        await asyncio.sleep(0.2)
        assert not transport.is_aborted
        await asyncio.sleep(0.5)
        assert transport.is_aborted

    with socket.socket() as plain:
        asyncio.run(main(Unread(plain)))


def test_beyond_the_queue_a_request_is_refused_before_its_body_has_come():
    busy = FakeClient(never_ends=True, wait_seconds=0.01)
    with serving(FakePool(fake=busy), running=1, queue_limit=1) as url:
        streams = [connected(url) for _ in range(2)]
        for one in streams:
            one.sendall(chat(stream=True, max_tokens=100_000))
            assert status(one.recv(1 << 10)) == 200
        with closing(connected(url)) as other:
            other.sendall(head(Content_Length=100))
            answer = other.recv(1 << 10)
            assert (status(answer), b"retry-after: 1\r\n" in answer.lower()) == (429, True)
            other.sendall(b" " * 100 + head("/health", "GET"))  # the connection goes on
            assert status(other.recv(1 << 10)) == 200
        for one in streams:
            one.close()
        while busy.left != busy.generated():
            time.sleep(0.01)
        assert status(answered(url, chat(max_tokens=1).replace(b"\r\n", CLOSE, 1))) == 200
        assert len(busy.generated()) == 3


def test_a_reader_that_is_slow_but_reads_gets_everything():
    patient = FakeClient(says=["x" * 1_000] * 1_500)
    with (
        serving(FakePool(fake=patient), limits=LIMITS) as url,
        closing(connected(url)) as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.sendall(chat(stream=True, max_tokens=1_500))
        received = b""
        while (part := connection.recv(16 << 10)) and b"[DONE]" not in received[-100:] + part:
            received += part
            time.sleep(0.005)  # at most 3 MB/s: the server has to wait
        assert (received + part).count(b'"content":"xxx') == 1_500


def test_many_silent_connections_leave_the_server_to_others(url: str):
    silent = [connected(url) for _ in range(100)]
    try:
        assert status(answered(url, head("/health", "GET", Connection="close"))) == 200
    finally:
        for connection in silent:
            connection.close()
