"""Completions as evaluation harnesses need them: prompts of four forms, echo, log-probabilities."""

import json
from typing import Any

import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import client_of

from puna.serve.openai.responses import Completion

PATH = "/v1/completions"


def complete(pool: FakePool, **fields: Any) -> dict[str, Any]:
    """The answer to one request, checked against the document's schema."""
    response = client_of(pool).post(PATH, json=fields)
    assert response.status_code == 200, response.text
    Completion.model_validate_json(response.text)
    return response.json()


def refused(pool: FakePool, **fields: Any) -> dict[str, Any]:
    """The `error` of a request that is refused with 400."""
    response = client_of(pool).post(PATH, json=fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("ab", [{"text": "ab"}]),
        (["ab", "c"], [{"text": "ab"}, {"text": "c"}]),
        ([97, 98], [{"ids": [97, 98]}]),
        ([[97], [98, 99]], [{"ids": [97]}, {"ids": [98, 99]}]),
    ],
)
def test_a_prompt_has_four_forms(prompt: Any, asked: list[dict[str, Any]]):
    pool = FakePool()
    answer = complete(pool, prompt=prompt)
    assert [fields["prompt"] for fields in pool.client.generated()] == asked
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(asked)))
    assert answer["choices"][0]["text"] == "Hello there!"


def test_the_texts_of_a_prompt_follow_one_another_and_it_counts_once():
    answer = complete(FakePool(), prompt=["abc", "d"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 4
    assert answer["usage"]["completion_tokens"] == 12


def test_more_prompts_than_run_at_once_are_all_answered_in_their_order():
    class Repeating(FakeClient):
        def _pieces(self, params, prompt):
            self.says = (chr(prompt[0]),)
            return super()._pieces(params, prompt)

    prompts = [chr(97 + number % 26) for number in range(80)]
    answer = complete(FakePool(fake=Repeating()), prompt=prompts)
    assert [choice["text"] for choice in answer["choices"]] == prompts


def test_sixteen_tokens_are_made_where_the_request_does_not_say():
    pool = FakePool()
    complete(pool, prompt="a")
    assert pool.client.generated()[0]["params"] == {"max_tokens": 16}


def test_log_likelihood_needs_echo_and_no_new_token():
    """What lm-eval reads: a null first, then each prompt token's, its rivals by their texts."""
    pool = FakePool()
    answer = complete(pool, prompt=[[97, 98, 99]], echo=True, logprobs=1, max_tokens=0)
    (choice,) = answer["choices"]
    assert choice["text"] == "abc"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -0.25, -0.25],
        "top_logprobs": [None, {"b": -0.25, "!": -1.5}, {"c": -0.25, "!": -1.5}],
        "text_offset": [0, 1, 2],
    }
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0
    params = pool.client.generated()[0]["params"]
    assert params == {"max_tokens": 0, "logprobs": 1, "prompt_logprobs": 1}


def test_echo_puts_the_prompt_before_the_text():
    answer = complete(FakePool(), prompt="ab", echo=True, logprobs=0, max_tokens=1)
    (choice,) = answer["choices"]
    assert choice["text"] == "abHello"
    assert choice["logprobs"]["tokens"] == ["a", "b", "Hello"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]
    assert choice["finish_reason"] == "length"


def test_without_echo_offsets_begin_with_the_text():
    logprobs = complete(FakePool(), prompt="ab", logprobs=2)["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [0, 5, 11]
    assert logprobs["top_logprobs"][0] == {"Hello": -0.5, "!": -1.5}


def test_of_two_tokens_with_one_spelling_the_likelier_is_shown():
    logprobs = complete(FakePool(), prompt="ab", logprobs=2)["choices"][0]["logprobs"]
    assert logprobs["tokens"][2] == "!"
    assert logprobs["top_logprobs"][2] == {"!": -0.5}


def test_a_stream_gives_each_text_in_pieces_and_its_reason_last():
    body = {"prompt": ["a", "b"], "stream": True, "echo": True, "logprobs": None}
    response = client_of(FakePool()).post(PATH, json=body)
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    texts, reasons = {0: "", 1: ""}, {}
    for event in events[:-2]:
        Completion.model_validate_json(event.removeprefix("data: "))
        (choice,) = json.loads(event.removeprefix("data: "))["choices"]
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "aHello there!", 1: "bHello there!"}
    assert reasons == {0: "stop", 1: "stop"}


def test_a_stream_s_chunks_put_together_are_the_whole_answer():
    """With the prompt and its log-probabilities first, whichever of its texts speaks first."""
    asked = {"prompt": ["ab", "é"], "n": 2, "echo": True, "logprobs": 1, "max_tokens": 2}
    for order in (range, lambda count: range(count - 1, -1, -1)):
        pool = FakePool(fake=FakeClient(order=order))
        whole = complete(pool, **asked)["choices"]
        response = client_of(pool).post(PATH, json={**asked, "stream": True})
        events = [one.removeprefix("data: ") for one in response.text.split("\n\n")[:-2]]
        found = {one["index"]: {"text": "", "logprobs": {}} for one in whole}
        for event in events:
            Completion.model_validate_json(event)
            (choice,) = json.loads(event)["choices"]
            so_far = found[choice["index"]]
            so_far["text"] += choice["text"]
            for name, values in (choice["logprobs"] or {}).items():
                so_far["logprobs"][name] = so_far["logprobs"].get(name, []) + values
        assert [found[one["index"]]["text"] for one in whole] == [one["text"] for one in whole]
        assert [found[one["index"]]["logprobs"] for one in whole] == [
            one["logprobs"] for one in whole
        ]
        for one in whole:
            is_at_offset(one)


def is_at_offset(choice: dict[str, Any]) -> None:
    """OpenAI's meaning of text_offset, for tokens that are characters."""
    logprobs = choice["logprobs"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if "\ufffd" not in token and token != "<s>":
            assert choice["text"][offset : offset + len(token)] == token


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 100, "prompt": ["a"] * 100}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(fields: dict[str, Any], param: str):
    assert refused(FakePool(), **{"prompt": "a", **fields})["param"] == param


def test_best_of_is_taken_where_it_changes_nothing():
    assert len(complete(FakePool(), prompt="a", n=2, best_of=2)["choices"]) == 2


def test_one_prompt_that_is_too_long_refuses_all_and_ends_the_others():
    pool = FakePool(fake=FakeClient(never_ends=True))
    error = refused(pool, prompt=["a", "b" * 5000], max_tokens=10_000)
    assert error["code"] == "context_length_exceeded"
    assert [fields["prompt"] for fields in pool.client.left] == [{"text": "a"}]
    assert pool.in_use == {"fake": 0}
