"""langchain-openai on a real chat model: every content is the engine's own."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import numpy as np
import pytest
from pydantic import BaseModel, Field
from serve.offline import TOKENS, Offline, asked

openai = pytest.importorskip("openai", reason="the extra puna[clients] is not installed")
langchain_openai = pytest.importorskip(
    "langchain_openai", reason="the extra puna[clients] is not installed"
)

pytestmark = pytest.mark.slow

QUESTION, OTHER = "What is the capital of France?", "Name a colour."


class City(BaseModel):
    """A city and where it lies."""

    name: str = Field(max_length=20)
    continent: Literal["Africa", "Asia", "Europe"]


@pytest.fixture
def access(smollm2: Offline) -> Iterator[dict[str, Any]]:
    """Where the model is, by connections that are closed at the end."""
    with openai.DefaultHttpxClient() as http:
        yield {
            "base_url": f"{smollm2.url}/v1",
            "api_key": "any",
            "model": "smollm2",
            "max_retries": 0,
            "http_client": http,
        }


@pytest.fixture
def model(access: dict[str, Any]) -> Any:
    return langchain_openai.ChatOpenAI(**access, temperature=0, max_tokens=TOKENS)


@pytest.fixture
def patient(access: dict[str, Any]) -> Any:
    """The same with room for an object."""
    return langchain_openai.ChatOpenAI(**access, temperature=0, max_tokens=80)


def test_invoke_stream_and_batch_say_what_the_engine_says(
    model: Any, access: dict[str, Any], smollm2: Offline
):
    results = [smollm2.result(asked(one)) for one in (QUESTION, OTHER)]
    expected = [one.text for one in results]
    answer = model.invoke(QUESTION)
    assert answer.content == expected[0]
    assert answer.usage_metadata["output_tokens"] == results[0].generated_tokens
    assert answer.response_metadata["finish_reason"] == results[0].finish_reason
    assert "".join(piece.content for piece in model.stream(QUESTION)) == expected[0]
    assert [one.content for one in model.batch([QUESTION, OTHER])] == expected

    async def streamed() -> str:
        async with openai.DefaultAsyncHttpxClient() as http:
            asking = langchain_openai.ChatOpenAI(
                **access, http_async_client=http, temperature=0, max_tokens=TOKENS
            )
            return "".join([piece.content async for piece in asking.astream(QUESTION)])

    assert asyncio.run(streamed()) == expected[0]


def test_a_talk_goes_on(model: Any, smollm2: Offline):
    talk = [*asked(QUESTION), {"role": "assistant", "content": "Paris."}, *asked("Of Italy?")]
    system = {"role": "system", "content": "Answer in one word."}
    assert model.invoke([system, *talk]).content == smollm2.text([system, *talk])


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_a_pydantic_object(patient: Any, method: str):
    formed = patient.with_structured_output(City, method=method, strict=True, include_raw=True)
    found = formed.invoke(QUESTION)
    assert found["parsing_error"] is None
    assert isinstance(found["parsed"], City)


def test_a_bound_tool_s_arguments_fit_its_schema(patient: Any):
    for choice in ("any", "City"):
        bound = patient.bind_tools(
            [City], tool_choice=choice, strict=True, parallel_tool_calls=False
        )
        (call,) = bound.invoke(QUESTION).tool_calls
        assert call["name"] == "City"
        jsonschema.validate(call["args"], City.model_json_schema())
    free = patient.bind_tools([City]).invoke(QUESTION)
    assert free.content or free.tool_calls


def test_a_tool_s_answer_is_read(patient: Any):
    called = patient.bind_tools([City], tool_choice="City", strict=True).invoke(QUESTION)
    (call,) = called.tool_calls
    result = {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(call["args"])}
    answer = patient.bind_tools([City]).invoke([*asked(QUESTION), called, result])
    assert answer.content or answer.tool_calls


def test_embeddings_are_the_engine_s(access: dict[str, Any], smollm2: Offline):
    texts = ["The cat sat on the mat.", "Rockets fly to the moon!"]
    embeddings = langchain_openai.OpenAIEmbeddings(**access, check_embedding_ctx_length=False)
    expected = smollm2.engine.embed(texts).vectors
    np.testing.assert_allclose(embeddings.embed_documents(texts), expected, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(texts[1]), expected[1], atol=1e-6)
