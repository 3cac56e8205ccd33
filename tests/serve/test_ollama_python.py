"""Ollama's own Python client against a live server: scripted answers, and a real model's."""

from collections.abc import Iterator
from typing import Any

import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import serving
from serve.puna_serve import puna_serve
from shared_weights import SHARED, needs_shared

from puna.infer.engine import load_engine
from puna.infer.sampling_params import SamplingParams
from puna.serve.errors import ServeError

ollama = pytest.importorskip("ollama", reason="the extra puna[clients] is not installed")

STORIES = SHARED / "stories260K" / "stories260K.gguf"
HELLO: Any = [{"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "num_predict": 20}


@pytest.fixture
def scripted() -> Iterator[tuple[FakePool, Any]]:
    """A pool whose model says what the test wants, and a client of its server."""
    pool = FakePool()
    with serving(pool) as url, ollama.Client(url) as client:
        yield pool, client


def test_generate_and_its_stream_are_understood(scripted: tuple[FakePool, Any]):
    _pool, client = scripted
    answer = client.generate("fake", "Hello", options=ollama.Options(temperature=0, seed=1))
    assert (answer.response, answer.done, answer.done_reason) == ("Hello there!", True, "stop")
    assert (answer.eval_count, answer.eval_duration) == (3, 500_000_000)
    lines = list(client.generate("fake", "Hello", stream=True))
    assert "".join(line.response for line in lines) == "Hello there!"
    assert [line.done for line in lines] == [False, False, False, True]


def test_chat_and_its_stream_are_understood(scripted: tuple[FakePool, Any]):
    _pool, client = scripted
    answer = client.chat("fake", HELLO, keep_alive="5m")
    assert (answer.message.role, answer.message.content) == ("assistant", "Hello there!")
    lines = list(client.chat("fake", HELLO, stream=True, logprobs=True, top_logprobs=1))
    assert "".join(line.message.content for line in lines) == "Hello there!"
    assert lines[0].logprobs[0].token == "Hello"
    assert lines[0].logprobs[0].top_logprobs[0].logprob == -0.5


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def test_a_function_is_a_tool_and_its_result_is_sent_back(scripted: tuple[FakePool, Any]):
    pool, client = scripted
    pool.client.says = ("Well. ", '<tool_call>{"name": "add", ', '"arguments": {"a": 1, "b": 2}}')
    answer = client.chat("fake", HELLO, tools=[add])
    (call,) = answer.message.tool_calls
    assert add(**call.function.arguments) == 3
    pool.client.says = ("Three.",)
    result = {"role": "tool", "content": "3", "tool_name": "add"}
    again = client.chat("fake", [*HELLO, answer.message, result], tools=[add])
    assert again.message.content == "Three."
    told = pool.client.generated()[-1]["prompt"]
    assert told["tools"][0]["function"]["parameters"]["required"] == ["a", "b"]
    assert told["messages"][2]["tool_call_id"] == told["messages"][1]["tool_calls"][0]["id"]


def test_a_schema_is_taken_as_the_format(scripted: tuple[FakePool, Any]):
    pool, client = scripted
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    client.chat("fake", HELLO, format=schema)
    client.generate("fake", "Hello", format="json")
    asked = [fields["constraint"] for fields in pool.client.generated()]
    assert asked == [{"json_schema": schema}, {"json_object": True}]


def test_errors_become_the_clients_exceptions(scripted: tuple[FakePool, Any]):
    pool, client = scripted
    with pytest.raises(ollama.ResponseError, match="suffix is not supported") as raised:
        client.generate("fake", "Hello", suffix="end")
    assert raised.value.status_code == 400
    with pytest.raises(ollama.ResponseError) as raised:
        client.show("nobody")
    assert raised.value.status_code == 404
    pool.client.says = ("Hel", ServeError("failed", "the engine ended"))
    with pytest.raises(ollama.ResponseError, match="the engine ended"):
        list(client.generate("fake", "Hello", stream=True))
    with pytest.raises(ollama.ResponseError):
        client.pull("llama3")


def test_models_are_listed_shown_and_seen_running(scripted: tuple[FakePool, Any]):
    _pool, client = scripted
    (listed,) = client.list().models
    assert (listed.model, listed.details.family) == ("fake:latest", "llama")
    shown = client.show(listed.model)
    assert shown.modelinfo["llama.context_length"] == 4096
    assert "completion" in shown.capabilities
    (running,) = client.ps().models
    assert (running.model, running.context_length, running.expires_at.year) == (
        "fake:latest",
        4096,
        9999,
    )


def test_embeddings_are_understood(scripted: tuple[FakePool, Any]):
    _pool, client = scripted
    assert len(client.embed("fake", ["abc", "d"], truncate=True).embeddings) == 2
    assert client.embeddings("fake", "abc").embedding == [3.0, 0.5]


def test_a_key_goes_where_the_client_can_put_it():
    headers = {"Authorization": "Bearer key"}
    with (
        serving(FakePool(), api_keys=("key",)) as url,
        ollama.Client(url, headers=headers) as keyed,
        ollama.Client(url) as keyless,
    ):
        assert keyed.generate("fake", "Hello").response == "Hello there!"
        with pytest.raises(ollama.ResponseError) as raised:
            keyless.generate("fake", "Hello")
        assert raised.value.status_code == 401


def test_leaving_a_stream_cancels_its_text():
    endless = FakePool(fake=FakeClient(never_ends=True, wait_seconds=0.01))
    with serving(endless) as url, ollama.Client(url) as client:
        lines = client.generate("fake", "Hello", stream=True)
        next(lines)
        lines.close()
    assert len(endless.client.left) == 1


@needs_shared
def test_a_real_model_says_the_same_as_offline():
    engine = load_engine(STORIES, "numpy")
    prompt = "Once upon a time"
    params = SamplingParams(max_tokens=20, temperature=0)
    (expected,) = engine.generate([prompt], params)
    with puna_serve(STORIES, "--backend", "numpy") as url, ollama.Client(url) as client:
        whole = client.generate("stories260K", prompt, raw=True, options=GREEDY)
        streamed = client.generate("stories260K", prompt, options=GREEDY, stream=True)
        assert whole.response == "".join(line.response for line in streamed) == expected.text
        assert (whole.eval_count, whole.done_reason) == (20, "length")
        assert whole.eval_duration > 0
        (vector,) = client.embed("stories260K", prompt).embeddings
        assert sum(value * value for value in vector) == pytest.approx(1)
        shown = client.show("stories260K")
        assert shown.modelinfo["llama.embedding_length"] == len(vector)
        (listed,) = client.list().models
        assert listed.size == STORIES.stat().st_size
        assert abs(listed.modified_at.timestamp() - STORIES.stat().st_mtime) < 1e-3
