"""/health and /version: what a load balancer and a person ask first."""

import time
from contextlib import asynccontextmanager

import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import client_of, serving
from serve.raw_http import answered, chat, connected, head

import puna

LOADING = {
    "error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}
}  # llama.cpp's


@pytest.mark.parametrize(
    ("states", "is_well"),
    [
        (["ready"], True),
        (["loading"], False),
        (["unloaded"], True),  # it is loaded when it is asked for
        (["failed"], False),
        (["ready", "loading"], True),  # others are answered meanwhile
        (["unloaded", "loading"], True),
        (["failed", "ready"], True),
        (["failed", "loading"], False),
    ],
)
def test_a_server_is_well_when_a_request_would_be_answered(states: list[str], is_well: bool):
    pool = FakePool(**{f"model{number}": FakeClient() for number in range(len(states))})
    pool.states = dict(zip(pool.names(), states, strict=True))
    answer = client_of(pool).get("/health")
    assert answer.status_code == (200 if is_well else 503)
    assert answer.json() == {"status": "ok"} or not is_well


def test_loading_is_said_as_llama_cpp_says_it():
    pool = FakePool()
    pool.states["fake"] = "loading"
    answer = client_of(pool).get("/health")
    assert answer.json() == LOADING
    assert answer.headers["Retry-After"] == "2"


class FailedPool(FakePool):
    """A pool whose model is loaded again when it is asked for."""

    @asynccontextmanager
    async def use(self, name: str):
        self.states[name] = "ready"
        async with super().use(name) as client:
            yield client


def test_a_failed_model_is_tried_again_without_a_request():
    pool = FailedPool()
    pool.states["fake"] = "failed"
    with serving(pool) as url:
        asked = head("/health", "GET", Connection="close")
        assert b"503 Service Unavailable" in answered(url, asked)
        assert answered(url, asked).endswith(b'{"status":"ok"}')


def test_health_is_asked_by_head_too():
    answer = client_of(FakePool()).head("/health")
    assert (answer.status_code, answer.content) == (200, b"")


def test_health_needs_no_key_and_says_nothing_of_models():
    answer = client_of(FakePool(), api_keys=("key",)).get("/health")
    assert answer.text == '{"status":"ok"}'


def test_health_answers_while_texts_run():
    busy = FakePool(fake=FakeClient(never_ends=True))
    with serving(busy) as url:
        streams = [connected(url) for _ in range(8)]
        try:
            for stream in streams:
                stream.sendall(chat(stream=True, max_tokens=1_000_000))
                assert stream.recv(100)
            began = time.monotonic()
            answer = answered(url, head("/health", "GET", Connection="close"))
            assert answer.endswith(b'{"status":"ok"}')
            assert time.monotonic() - began < 2
        finally:
            for stream in streams:
                stream.close()


def test_the_version_is_punas():
    client = client_of(FakePool())
    assert client.get("/version").json() == {"version": puna.__version__}
    assert client.get("/api/version").json() == {"version": puna.__version__}
