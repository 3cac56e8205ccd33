"""Streams on a real socket: pings while nothing comes, and an end for who leaves."""

import http.client
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import serving

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"


class Asked:
    """A connection on which a request was sent; leaving the context closes it."""

    def __init__(self, url: str, path: str = CHAT, **body: Any) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        content = {"messages": MESSAGES, **body} if path == CHAT else body
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(content), headers)
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def leave(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, *_error: object) -> None:
        self.leave()


def wait_until(condition: Any, seconds: float = 5) -> float:
    """The seconds it took until `condition()`."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds
        time.sleep(0.005)
    return time.monotonic() - begin


def test_a_comment_comes_while_nothing_else_does():
    pool = FakePool(fake=FakeClient(wait_seconds=0.3))
    with serving(pool, limits={"ping_seconds": 0.1}) as url, Asked(url, stream=True) as asked:
        text = asked.response.read().decode()
    assert text.count(": ping\n\n") >= 4
    events = [one for one in text.split("\n\n") if one and not one.startswith(":")]
    assert events[-1] == "data: [DONE]"
    assert [json.loads(one[6:])["choices"][0]["delta"].get("content") for one in events[:-1]] == [
        "", "Hello", " there", "!", None,
    ]  # fmt: skip


def test_the_first_chunk_does_not_wait_for_the_first_token():
    pool = FakePool(fake=FakeClient(wait_seconds=2))
    with serving(pool) as url:
        begin = time.monotonic()
        with Asked(url, stream=True) as asked:
            line = asked.response.readline()
        assert time.monotonic() - begin < 1
        assert json.loads(line[6:])["choices"][0]["delta"]["role"] == "assistant"


@pytest.mark.parametrize("is_stream", [True, False])
def test_who_leaves_is_cancelled_at_once_and_disturbs_nobody(is_stream: bool):
    pool = FakePool(fake=FakeClient(says=("x",), never_ends=True, wait_seconds=0.02))
    with serving(pool) as url, Asked(url, stream=True) as staying:
        assert staying.response.readline()
        leaving = Asked(url, stream=is_stream, max_tokens=77)
        if is_stream:
            assert leaving.response.readline()
        wait_until(lambda: len(pool.client.generated()) == 2)
        leaving.leave()
        seconds = wait_until(lambda: pool.client.left)
        assert seconds < 1
        assert [fields["params"]["max_tokens"] for fields in pool.client.left] == [77]
        assert pool.in_use == {"fake": 1}
        for _ in range(20):
            assert staying.response.readline()
        staying.leave()
        wait_until(lambda: pool.in_use == {"fake": 0})


def test_who_leaves_with_many_prompts_cancels_all_of_them():
    pool = FakePool(fake=FakeClient(says=("x",), never_ends=True, wait_seconds=0.02))
    with serving(pool) as url:
        with Asked(url, "/v1/completions", prompt=["a"] * 100, max_tokens=10**6):
            wait_until(lambda: len(pool.client.generated()) == 32)
        wait_until(lambda: len(pool.client.left) == 32)
        assert len(pool.client.generated()) == 32
        assert pool.in_use == {"fake": 0}


def test_who_leaves_before_the_body_has_come_is_no_error(caplog: pytest.LogCaptureFixture):
    pool = FakePool()
    with serving(pool) as url:
        host, port = urlsplit(url).hostname, urlsplit(url).port
        with socket.create_connection((host, port)) as half:
            half.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            time.sleep(0.1)
        with Asked(url) as asked:
            assert asked.response.status == 200
    assert "Traceback" not in caplog.text
