"""openai-python on a real chat model: every content is the engine's own."""

import base64
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import numpy as np
import pytest
from pydantic import BaseModel
from serve.offline import TOKENS, Offline, asked, served
from small_vocabulary import smollm2_gguf

from puna.infer.sampling_params import SamplingParams
from puna.serve.openai.schemas import Tool
from puna.serve.openai.tools import ToolReader, calls_schema, spelled_out

openai = pytest.importorskip("openai", reason="the extra puna[clients] is not installed")

pytestmark = pytest.mark.slow

QUESTION = asked("What is the capital of France?")
GREEDY = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": TOKENS}
PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 3, 7]}},
    "required": ["place", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PLACE}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "weather"}}
ENDLESS = {"max_tokens": 2000, "extra_body": {"ignore_eos": True}}


def client_of(url: str, **options: Any) -> Any:
    given = {"api_key": "any", "max_retries": 0, "timeout": 60, **options}
    return openai.OpenAI(base_url=f"{url}/v1", **given)


@pytest.fixture
def client(smollm2: Offline) -> Iterator[Any]:
    with client_of(smollm2.url) as one:
        yield one


def test_a_chat_and_its_stream_say_what_the_engine_says(client: Any, smollm2: Offline):
    expected = smollm2.result(QUESTION)
    answer = client.chat.completions.create(**GREEDY)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage.completion_tokens == expected.generated_tokens
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    options = {"include_usage": True}
    with client.chat.completions.create(**GREEDY, stream=True, stream_options=options) as stream:
        *chunks, last = list(stream)
    text = "".join(one.choices[0].delta.content or "" for one in chunks)
    assert (text, last.usage.total_tokens) == (expected.text, answer.usage.total_tokens)


def test_log_probabilities_are_the_engine_s(client: Any, smollm2: Offline):
    expected = smollm2.result(QUESTION, logprobs=3)
    assert expected.logprobs is not None
    answer = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    found = answer.choices[0].logprobs.content
    assert "".join(one.token for one in found) == expected.text
    wanted = [one.logprob for one in expected.logprobs]
    np.testing.assert_allclose([one.logprob for one in found], wanted, rtol=1e-5)
    top = [[other.logprob for other in one.top_logprobs] for one in found]
    wanted_top = [[value for _token, value in one.alternatives] for one in expected.logprobs]
    np.testing.assert_allclose(top, wanted_top, rtol=1e-5)


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_forced_call_fits_its_schema(client: Any, smollm2: Offline, choice: Any):
    request = {**GREEDY, "max_tokens": 80, "tools": [WEATHER], "tool_choice": choice}
    request["parallel_tool_calls"] = False
    answer = client.chat.completions.create(**request)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    found = json.loads(call.function.arguments)
    jsonschema.validate(found, PLACE)
    tools = [Tool.model_validate(WEATHER)]
    schema = calls_schema(tools, is_parallel=False)
    text = smollm2.form(spelled_out(QUESTION, tools), schema, max_tokens=80)
    assert {"name": call.function.name, "arguments": found} == json.loads(text)
    with client.chat.completions.stream(**request) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls[0].function.arguments == call.function.arguments


def test_a_call_left_to_the_model_is_read_from_what_it_says(client: Any, smollm2: Offline):
    tools = [WEATHER, CLOCK]
    messages = spelled_out(QUESTION, [Tool.model_validate(one) for one in tools])
    reader = ToolReader(frozenset({"weather", "clock"}))
    said, calls = reader.push(smollm2.text(messages, max_tokens=80))
    said += reader.finish()
    request = {**GREEDY, "max_tokens": 80, "tools": tools, "tool_choice": "auto"}
    message = client.chat.completions.create(**request).choices[0].message
    assert (message.content or "") == (said.strip() if calls else said)
    found = [(one.function.name, one.function.arguments) for one in message.tool_calls or []]
    assert found == [(one["function"]["name"], one["function"]["arguments"]) for one in calls]


class City(BaseModel):
    """What the structured answer should be."""

    name: str
    continent: Literal["Africa", "Asia", "Europe"]
    millions: int


def test_a_structured_answer_is_a_pydantic_object(client: Any, smollm2: Offline):
    answer = client.chat.completions.parse(**GREEDY | {"max_tokens": 80}, response_format=City)
    message = answer.choices[0].message
    assert isinstance(message.parsed, City)
    schema = {**City.model_json_schema(), "additionalProperties": False}
    assert message.content == smollm2.form(QUESTION, schema, max_tokens=80)
    form = {"type": "json_object"}
    loose = client.chat.completions.create(**GREEDY | {"max_tokens": 200}, response_format=form)
    text = loose.choices[0].message.content
    assert text.startswith("{")
    if loose.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_embeddings_are_the_engine_s(client: Any, smollm2: Offline):
    texts = ["The cat sat on the mat.", "Rockets fly to the moon!"]
    ids = [smollm2.engine.tokenizer.encode(one) for one in texts]
    expected = smollm2.engine.embed(texts).vectors
    for given, form in ((texts, "float"), (texts, "base64"), (ids, openai.omit)):
        data = client.embeddings.create(model="smollm2", input=given, encoding_format=form).data
        found = [one.embedding for one in data]
        if form == "base64":
            found = [np.frombuffer(base64.b64decode(one), np.float32) for one in found]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_completions_echo_their_prompt_with_its_log_probabilities(client: Any, smollm2: Offline):
    prompts = ["The capital of France is", "Once upon a time"]
    ids = [smollm2.engine.tokenizer.encode(one) for one in prompts]
    results = [smollm2.result(one, max_tokens=1, logprobs=1, prompt_logprobs=1) for one in ids]
    request = {"model": "smollm2", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
    for given in (prompts, ids):
        answer = client.completions.create(prompt=given, **request)
        for choice, expected, prompt in zip(answer.choices, results, prompts, strict=True):
            assert choice.text == prompt + expected.text
            assert expected.prompt_logprobs is not None
            assert expected.logprobs is not None
            every = [*expected.prompt_logprobs, *expected.logprobs]
            wanted = [one.logprob for one in every if one is not None]
            first, *found = choice.logprobs.token_logprobs
            assert first is None
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
            assert "".join(choice.logprobs.tokens) == choice.text


def test_n_texts_of_a_seed_are_the_engine_s(client: Any, smollm2: Offline):
    sampling = {"temperature": 0.9, "top_p": 0.9, "seed": 5, "n": 3, "max_tokens": 12}
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, **sampling)
    tokenizer = smollm2.engine.tokenizer
    ids = tokenizer.encode_chat(tokenizer.render_chat(QUESTION))
    expected = smollm2.engine.generate([ids], SamplingParams(**sampling))
    assert [one.message.content for one in answer.choices] == [one.text for one in expected]


def running(url: str) -> int:
    """Texts under way."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        (found,) = re.findall(rb"^puna:num_requests_running\S* (\S+)$", response.read(), re.M)
    return int(float(found))


def test_leaving_a_stream_ends_its_text_and_no_other_s(client: Any, smollm2: Offline):
    stream = client.chat.completions.create(**GREEDY | ENDLESS, stream=True)
    for _chunk in range(3):
        next(stream)
    assert running(smollm2.url) == 1
    answer = client.chat.completions.create(**GREEDY)
    stream.close()
    end = time.monotonic() + 5
    while running(smollm2.url) and time.monotonic() < end:
        time.sleep(0.05)
    assert running(smollm2.url) == 0
    assert answer.choices[0].message.content == smollm2.text(QUESTION)


def test_every_error_is_the_client_s_own_class():
    options = ("--api-key", "secret", "--running", 1, "--queue", 1, "--max-body", "64K")
    with served(smollm2_gguf(), "smollm2", *options) as both:
        keyed = client_of(both.url, api_key="secret")
        create = keyed.chat.completions.create
        with pytest.raises(openai.AuthenticationError) as raised:
            client_of(both.url).chat.completions.create(**GREEDY)
        assert raised.value.status_code == 401
        with pytest.raises(openai.PermissionDeniedError):
            create(**GREEDY, extra_headers={"Host": "other.example.org"})
        with pytest.raises(openai.NotFoundError):
            keyed.models.retrieve("nobody")
        with pytest.raises(openai.BadRequestError) as raised:
            create(**GREEDY, extra_body={"reasoning_effort": "high"})
        assert raised.value.param == "reasoning_effort"
        with pytest.raises(openai.BadRequestError) as raised:
            create(**GREEDY | {"messages": asked("word " * 9000)})
        assert raised.value.code == "context_length_exceeded"
        with pytest.raises(openai.APIStatusError) as raised:
            create(**GREEDY | {"messages": asked("word " * 20000)})
        assert raised.value.status_code == 413
        with pytest.raises(openai.RateLimitError) as raised:
            create(**GREEDY, n=8)
        assert float(raised.value.response.headers["Retry-After"]) > 0
        with pytest.raises(openai.APITimeoutError):
            create(**GREEDY | ENDLESS, timeout=0.5)
        assert create(**GREEDY).choices[0].message.content == both.text(QUESTION)
