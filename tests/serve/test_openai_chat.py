"""Chat as OpenAI's clients know it: the whole answer, its chunks, and what the engine is asked."""

import json
from typing import Any

import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import client_of

from puna.serve.errors import ServeError
from puna.serve.openai.responses import ChatCompletion, ChatCompletionChunk

MESSAGES = [{"role": "user", "content": "Hi"}]
PATH = "/v1/chat/completions"


def chat(pool: FakePool, **fields: Any) -> dict[str, Any]:
    """The answer to one request, checked against the document's schema."""
    response = client_of(pool).post(PATH, json={"messages": MESSAGES, **fields})
    assert response.status_code == 200, response.text
    ChatCompletion.model_validate_json(response.text)
    return response.json()


def refused(pool: FakePool, **fields: Any) -> dict[str, Any]:
    """The `error` of a request that is refused with 400."""
    response = client_of(pool).post(PATH, json={"messages": MESSAGES, **fields})
    assert response.status_code == 400, response.text
    return response.json()["error"]


def chunks(pool: FakePool, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, checked against the document's schema; [DONE] came last."""
    body = {"messages": MESSAGES, "stream": True, **fields}
    response = client_of(pool).post(PATH, json=body)
    assert response.status_code == 200, response.text
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for event in events[:-2]:
        ChatCompletionChunk.model_validate_json(event.removeprefix("data: "))
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def test_an_answer_has_message_reason_usage_and_timings():
    answer = chat(FakePool())
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "fake"
    (choice,) = answer["choices"]
    message = {"role": "assistant", "content": "Hello there!", "refusal": None}
    assert choice == {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    assert answer["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert answer["timings"]["prompt_per_second"] == 8 / 0.25
    assert answer["timings"]["predicted_per_second"] == 2 / 0.5


def test_a_stream_begins_with_the_role_and_ends_with_the_reason():
    events = chunks(FakePool())
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == ["Hello", " there", "!"]
    assert deltas[-1] == {}
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None, None, None, None, "stop"]
    assert len({event["id"] for event in events}) == 1
    assert "timings" in events[-1]
    assert "usage" not in events[-1]


def test_a_stream_s_usage_comes_in_a_chunk_without_choices():
    events = chunks(FakePool(), stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == 12
    assert all(event["usage"] is None for event in events[:-1])


def test_a_stream_tells_proxies_not_to_hold_it_back():
    body = {"messages": MESSAGES, "stream": True}
    headers = client_of(FakePool()).post(PATH, json=body).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


def test_several_answers_are_told_apart_by_their_index():
    assert [one["index"] for one in chat(FakePool(), n=3)["choices"]] == [0, 1, 2]
    events = chunks(FakePool(), n=2)
    texts = {0: "", 1: ""}
    for event in events:
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "Hello there!", 1: "Hello there!"}
    assert [event["choices"][0]["finish_reason"] for event in events].count("stop") == 2


def test_logprobs_have_the_token_its_bytes_and_the_likeliest():
    answer = chat(FakePool(), logprobs=True, top_logprobs=2)
    first = answer["choices"][0]["logprobs"]["content"][0]
    assert first["token"] == "Hello"
    assert first["bytes"] == list(b"Hello")
    assert first["logprob"] == -0.5
    assert [one["token"] for one in first["top_logprobs"]] == ["Hello", "!"]
    streamed = chunks(FakePool(), logprobs=True, top_logprobs=2)[1]["choices"][0]["logprobs"]
    assert streamed["content"] == [first]


def test_the_engine_is_asked_with_its_own_names():
    pool = FakePool()
    chat(
        pool,
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0,
        top_k=-1,
        min_p=0.1,
        typical_p=0.9,
        repeat_penalty=1.5,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"5": 100},
        seed=3,
        stop="x",
        n=2,
        ignore_eos=True,
        draft_tokens=4,
        logprobs=True,
    )
    assert pool.client.generated()[0]["params"] == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 1e-30,
        "top_k": 0,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repetition_penalty": 1.5,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "logit_bias": {"5": 100},
        "seed": 3,
        "stop": ["x"],
        "n": 2,
        "ignore_eos": True,
        "draft_tokens": 4,
        "logprobs": 0,
    }


def test_what_is_not_said_is_left_to_the_engine():
    for fields in ({}, {"seed": -1}):  # llama.cpp's and vLLM's way to say so
        pool = FakePool()
        chat(pool, **fields)
        assert pool.client.generated()[0]["params"] == {"max_tokens": 2**31 - 1}


def test_fields_that_cannot_change_the_answer_are_taken():
    chat(
        FakePool(),
        user="me",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        safety_identifier="x",
        keep_alive="5m",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        prediction={"type": "content", "content": "x"},
        cache_prompt=False,
        modalities=["text"],
        functions=None,
        reasoning_effort=None,
    )


def test_messages_reach_the_template_as_it_knows_them():
    pool = FakePool()
    parts = [{"type": "text", "text": text} for text in "ab"]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    chat(
        pool,
        messages=[
            {"role": "developer", "content": "Be brief"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
        chat_template_kwargs={"style": "short"},
    )
    prompt = pool.client.generated()[0]["prompt"]
    function = {"name": "f", "arguments": {"x": 1}}
    assert prompt["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    assert prompt["template_variables"] == {"style": "short"}
    assert prompt["add_generation_prompt"] is True


def test_the_last_message_can_be_gone_on_with():
    pool = FakePool()
    messages = [*MESSAGES, {"role": "assistant", "content": "Well"}]
    chat(pool, messages=messages, continue_final_message=True)
    prompt = pool.client.generated()[0]["prompt"]
    assert (prompt["continue_final_message"], prompt["add_generation_prompt"]) == (True, False)
    assert refused(FakePool(), continue_final_message=True)["param"] == "continue_final_message"


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "array"}, "strict": True},
                }
            },
            {"json_schema": {"type": "array"}},
        ),
        ({"grammar": 'start: "yes" | "no"'}, {"grammar": 'start: "yes" | "no"'}),
    ],
)
def test_a_format_becomes_a_constraint(fields: dict[str, Any], constraint: dict[str, Any] | None):
    pool = FakePool()
    chat(pool, **fields)
    assert pool.client.generated()[0]["constraint"] == constraint


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty"),
        ({"grammar": "g", "response_format": {"type": "json_object"}}, "grammar"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_by_name(fields: dict[str, Any], param: str):
    assert refused(FakePool(), **fields)["param"] == param


def test_a_prompt_that_is_too_long_says_how_long_in_both_dialects():
    error = refused(FakePool(), messages=[{"role": "user", "content": "x" * 5000}])
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (5007, 4096)


def test_what_fails_before_the_first_chunk_has_a_status():
    busy = FakePool(fake=FakeClient(fails={"generate": ServeError("busy", "the queue is full")}))
    for is_stream in (False, True):
        body = {"messages": MESSAGES, "stream": is_stream}
        response = client_of(busy).post(PATH, json=body)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"]["code"] == "queue_full"


def test_what_fails_on_the_way_is_a_chunk_of_a_stream_and_a_status_otherwise():
    pool = FakePool(fake=FakeClient(says=("Hel", ServeError("failed", "the engine ended"))))
    response = client_of(pool).post(PATH, json={"messages": MESSAGES, "stream": True})
    events = response.text.split("\n\n")
    assert json.loads(events[-3].removeprefix("data: "))["error"]["type"] == "server_error"
    assert events[-2] == "data: [DONE]"
    assert client_of(pool).post(PATH, json={"messages": MESSAGES}).status_code == 500
    assert pool.in_use == {"fake": 0}


def test_a_bug_is_a_500_without_its_insides(caplog: pytest.LogCaptureFixture):
    pool = FakePool()
    pool.client.generate = None  # type: ignore[method-assign,assignment]
    response = client_of(pool).post(PATH, json={"messages": MESSAGES})
    assert response.status_code == 500
    assert "NoneType" not in response.text
    assert "NoneType" in caplog.text


def test_one_model_answers_to_any_name_and_several_to_their_own():
    one = chat(FakePool(), model="gpt-4o")
    assert one["model"] == "fake"
    two = FakePool(a=FakeClient(), b=FakeClient())
    assert chat(two, model="b")["model"] == "b"
    for fields, status in (({"model": "c"}, 404), ({}, 400)):
        response = client_of(two).post(PATH, json={"messages": MESSAGES, **fields})
        assert response.status_code == status
        assert response.json()["error"]["param"] == "model"
