"""Embeddings, models, and tokens there and back, in the shapes of several servers' clients."""

import base64
import struct
from typing import Any

import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import client_of

from puna.serve.openai import responses


def post(path: str, status: int = 200, **fields: Any) -> dict[str, Any]:
    response = client_of(FakePool()).post(path, json=fields)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize(
    ("given", "vectors"),
    [
        ("abc", [[3.0, 0.5]]),
        (["abc", "d"], [[3.0, 0.5], [1.0, 0.5]]),
        ([97, 98], [[2.0, 0.5]]),
        ([[97], [98, 99]], [[1.0, 0.5], [2.0, 0.5]]),
    ],
)
def test_each_input_has_its_vector(given: Any, vectors: list[list[float]]):
    answer = post("/v1/embeddings", input=given, model="any")
    responses.EmbeddingList.model_validate(answer)
    assert [one["embedding"] for one in answer["data"]] == vectors
    assert [one["index"] for one in answer["data"]] == list(range(len(vectors)))
    assert answer["usage"]["prompt_tokens"] == sum(int(vector[0]) for vector in vectors)


def test_base64_is_of_little_endian_float32():
    answer = post("/v1/embeddings", input="abc", encoding_format="base64")
    assert struct.unpack("<2f", base64.b64decode(answer["data"][0]["embedding"])) == (3.0, 0.5)


def test_narrower_vectors_are_refused():
    error = post("/v1/embeddings", 400, input="abc", dimensions=1)["error"]
    assert (error["param"], error["code"]) == ("dimensions", "unsupported_parameter")


def test_models_are_listed_with_what_they_do():
    pool = FakePool(a=FakeClient(), b=FakeClient())
    pool.states["b"] = "unloaded"
    client = client_of(pool)
    listed = client.get("/v1/models").json()
    responses.ModelList.model_validate(listed)
    assert [(one["id"], one["state"]) for one in listed["data"]] == [
        ("a", "ready"),
        ("b", "unloaded"),
    ]
    assert client.get("/v1/models/b").json() == listed["data"][1]
    missing = client.get("/v1/models/c/d")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_tokenising_follows_the_dialect_of_the_field():
    assert post("/tokenize", prompt="ab")["tokens"] == [1, 97, 98]  # vLLM's adds BOS
    assert post("/tokenize", content="ab")["tokens"] == [97, 98]  # llama.cpp's does not
    assert post("/tokenize", prompt="ab", add_special_tokens=False)["tokens"] == [97, 98]
    assert post("/tokenize", content="ab", add_special=True)["tokens"] == [1, 97, 98]
    answer = post("/tokenize", content="a", with_pieces=True)
    responses.Tokens.model_validate(answer)
    assert answer == {
        "tokens": [{"id": 97, "piece": "a", "bytes": [97]}],
        "count": 1,
        "max_model_len": 4096,
    }


@pytest.mark.parametrize(
    "fields",
    [{}, {"prompt": "a", "content": "a"}, {"prompt": "", "add_special": 1}, {"prompt": 3}],
)
def test_what_is_no_text_to_tokenise_is_refused(fields: dict[str, Any]):
    assert post("/tokenize", 400, **fields)["error"]["type"] == "invalid_request_error"


def test_ids_become_text_under_both_names():
    assert post("/detokenize", tokens=[97, 98]) == {"prompt": "ab", "content": "ab"}


def test_a_conversation_becomes_its_prompt():
    messages = [{"role": "user", "content": "Hi"}]
    assert post("/apply-template", messages=messages) == {"prompt": "user: Hi\n"}


def test_a_harness_learns_the_tokenizer_s_marks():
    info = client_of(FakePool()).get("/tokenizer_info").json()
    responses.TokenizerInfo.model_validate(info)
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    assert info["chat_template"] == "{{ messages }}"
