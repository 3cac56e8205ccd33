"""OpenAI's own Python client against a live server: scripted answers, and a real model's."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from serve.fake_pool import FakePool
from serve.live_server import serving
from serve.puna_serve import puna_serve
from shared_weights import SHARED, needs_shared
from small_vocabulary import smollm2_gguf

from puna.infer.engine import load_engine
from puna.infer.sampling_params import SamplingParams
from puna.serve.errors import ServeError

openai = pytest.importorskip("openai", reason="the extra puna[clients] is not installed")

STORIES = SHARED / "stories260K" / "stories260K.gguf"
HELLO: Any = [{"role": "user", "content": "Hello"}]


def client_at(url: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60)


@pytest.fixture
def scripted() -> Iterator[tuple[FakePool, Any]]:
    """A pool whose model says what the test wants, and a client of its server."""
    pool = FakePool()
    with serving(pool) as url, client_at(url) as client:
        yield pool, client


def test_chat_and_its_stream_are_understood(scripted: tuple[FakePool, Any]):
    _pool, client = scripted
    answer = client.chat.completions.create(model="any", messages=HELLO, logprobs=True)
    assert answer.choices[0].message.content == "Hello there!"
    assert answer.choices[0].logprobs.content[0].token == "Hello"
    assert answer.usage.prompt_tokens_details.cached_tokens == 1
    options = {"include_usage": True}
    asked = {"model": "any", "messages": HELLO, "stream": True, "stream_options": options}
    with client.chat.completions.create(**asked) as stream:
        chunks = list(stream)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == "Hello there!"
    assert chunks[-1].usage.completion_tokens == 3


def test_the_client_s_own_stream_reader_puts_calls_together(scripted: tuple[FakePool, Any]):
    pool, client = scripted
    pool.client.says = ("So. ", '<tool_call>{"name": "add", ', '"arguments": {"a": 1}}')
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    asked = {"model": "any", "messages": HELLO, "tools": [tool]}
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == "So. "
    assert message.tool_calls[0].function.name == "add"
    assert final.choices[0].finish_reason == "tool_calls"
    # What it answered may be sent back as it is, with the tool's result.
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "2"}
    pool.client.says = ("Two.",)
    messages = [*HELLO, message, result]
    again = client.chat.completions.create(model="any", messages=messages, tools=[tool])
    assert again.choices[0].message.content == "Two."


def test_errors_become_the_client_s_exceptions(scripted: tuple[FakePool, Any]):
    pool, client = scripted
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="any", messages=HELLO, temperature=-1)
    assert raised.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")
    pool.client.fails["generate"] = ServeError("busy", "the queue is full")
    with pytest.raises(openai.RateLimitError):
        client.completions.create(model="any", prompt="a")
    pool.client.fails.clear()
    pool.client.says = ("Hel", ServeError("failed", "the engine ended"))
    with (
        client.completions.create(model="any", prompt="a", stream=True) as stream,
        pytest.raises(openai.APIError, match="the engine ended"),
    ):
        list(stream)


def test_embeddings_come_in_the_client_s_base64(scripted: tuple[FakePool, Any]):
    _pool, client = scripted
    answer = client.embeddings.create(model="any", input=["abc", "d"])
    assert [one.embedding for one in answer.data] == [[3.0, 0.5], [1.0, 0.5]]


def test_models_are_listed(scripted: tuple[FakePool, Any]):
    _pool, client = scripted
    assert [model.id for model in client.models.list()] == ["fake"]


@pytest.fixture(scope="module")
def stories() -> Iterator[Any]:
    """A client of `puna serve` with a real base model of 260 thousand parameters."""
    with puna_serve(STORIES, "--backend", "numpy") as url, client_at(url) as client:
        yield client


@needs_shared
def test_a_real_model_says_the_same_as_offline(stories: Any):
    engine = load_engine(STORIES, "numpy")
    prompts = ["Once upon a time", "The dog"]
    expected = engine.generate(prompts, SamplingParams(max_tokens=20, temperature=0))
    answer = stories.completions.create(
        model="stories260K", prompt=prompts, max_tokens=20, temperature=0
    )
    assert [one.text for one in answer.choices] == [one.text for one in expected]
    assert answer.usage.completion_tokens == 40
    with stories.completions.create(
        model="stories260K", prompt=prompts[0], max_tokens=20, temperature=0, stream=True
    ) as stream:
        assert "".join(one.choices[0].text for one in stream) == expected[0].text


@needs_shared
def test_a_real_model_s_prompt_has_the_log_probabilities_of_offline(stories: Any):
    engine = load_engine(STORIES, "numpy")
    ids = engine.tokenizer.encode("Once upon a time", bos=True)
    params = SamplingParams(max_tokens=1, temperature=0, logprobs=1, prompt_logprobs=1)
    (expected,) = engine.generate([ids], params)
    assert expected.prompt_logprobs is not None
    answer = stories.completions.create(
        model="any", prompt=[ids], max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1
    )
    found = answer.choices[0].logprobs
    assert found.token_logprobs[0] is None
    wanted = [one.logprob for one in (*expected.prompt_logprobs, *(expected.logprobs or ())) if one]
    np.testing.assert_allclose(found.token_logprobs[1:], wanted, rtol=1e-5)
    assert found.text_offset == [0, 0, 4, 9, 11, 16]
    assert found.tokens == ["<s>", "Once", " upon", " a", " time", ","]
    assert answer.choices[0].text.startswith("Once upon a time")


@needs_shared
@pytest.mark.parametrize("prompt", ["Once", "", " two  é“x", "<s>Hi", [1], [1, 403, 1, 407]])
def test_offsets_index_into_the_text_of_a_real_model(stories: Any, prompt: Any):
    for is_echoed in (True, False):
        asked = {"prompt": prompt, "max_tokens": 4, "logprobs": 2, "echo": is_echoed, "seed": 1}
        (choice,) = stories.completions.create(model="any", **asked).choices
        found = choice.logprobs
        rows = zip(found.tokens, found.text_offset, found.top_logprobs, strict=True)
        for token, offset, top in rows:
            assert top is None or token in top
            if token != "<s>" and "\ufffd" not in token:  # whole characters
                assert choice.text[offset : offset + len(token)] == token


@needs_shared
def test_a_real_model_follows_a_schema(stories: Any):
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "many": {"type": "boolean"}},
        "required": ["colour", "many"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    answer = stories.completions.create(
        model="any", prompt="The", max_tokens=200, seed=1, extra_body={"response_format": form}
    )
    found = json.loads(answer.choices[0].text)
    assert found["colour"] in ("red", "blue")
    assert isinstance(found["many"], bool)


@needs_shared
def test_a_real_model_embeds_like_texts_alike(stories: Any):
    texts = ["The cat sat on the mat.", "The cat sat on a mat.", "Rockets fly to the moon!"]
    data = stories.embeddings.create(model="any", input=texts).data
    first, near, far = [np.array(one.embedding) for one in data]
    assert math.isclose(float(first @ first), 1, rel_tol=1e-5)
    assert first @ near > first @ far


@needs_shared
def test_a_base_model_says_that_it_does_not_chat(stories: Any):
    with pytest.raises(openai.BadRequestError, match="has no chat template"):
        stories.chat.completions.create(model="any", messages=HELLO)


class Capital(BaseModel):
    """What the structured answer should be."""

    city: str


@pytest.mark.slow
def test_a_real_chat_model_answers_calls_and_fills_forms():
    """SmolLM2-135M-Instruct, which has a chat template and was not trained on tools."""
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    with puna_serve(smollm2_gguf(), "--name", "smollm2") as url, client_at(url) as client:
        asked = {"model": "smollm2", "messages": question, "temperature": 0, "max_tokens": 80}
        answer = client.chat.completions.create(**asked)
        assert "Paris" in answer.choices[0].message.content
        with client.chat.completions.create(**asked, stream=True) as stream:
            text = "".join(one.choices[0].delta.content or "" for one in stream)
        assert text == answer.choices[0].message.content

        parsed = client.chat.completions.parse(**asked, response_format=Capital)
        assert isinstance(parsed.choices[0].message.parsed, Capital)

        parameters = {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
            "additionalProperties": False,
        }
        tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            called = client.chat.completions.create(**asked, tools=[tool], tool_choice=choice)
            (call, *_others) = called.choices[0].message.tool_calls
            assert call.function.name == "weather"
            assert set(json.loads(call.function.arguments)) == {"place"}
