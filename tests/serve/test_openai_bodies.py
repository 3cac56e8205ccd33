"""Bodies that are not as wanted: one 400 in OpenAI's shape that names the field, and no 500."""

import json
from typing import Any

import pytest
from serve.fake_pool import FakePool
from serve.live_server import client_of

MESSAGES = [{"role": "user", "content": "Hi"}]
JSON = {"content-type": "application/json"}


def refused(content: bytes, path: str = "/v1/completions") -> dict[str, Any]:
    response = client_of(FakePool()).post(path, content=content, headers=JSON)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": -1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt": ' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"prompt": [' + b"[]," * 60_000 + b"[]]}",
        json.dumps({f"k{number}": 1 for number in range(300)}).encode(),
    ],
)
def test_what_is_no_request_is_refused(content: bytes):
    refused(content)


def test_brackets_in_a_string_are_no_depth():
    body = {"prompt": "[" * 1000}
    assert client_of(FakePool()).post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"temperature": "1"}, 'temperature should be a valid number, found "1"', "temperature"),
        ({"n": True}, "n should be a valid integer, found true", "n"),
        ({"n": 0}, "n should be greater than or equal to 1, found 0", "n"),
        ({"n": 10**6}, "n should be less than or equal to 128, found 1000000", "n"),
        ({"seed": 1.5}, "seed should be a valid integer, found 1.5", "seed"),
        ({"stop": 3}, "stop should be a valid string or should be a valid list, found 3", "stop"),
        ({"stop": ["a"] * 33}, "stop should have at most 32", "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x should match pattern", "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1 should be less than or equal", "logit_bias"),
        ({"messages": []}, "messages should have at least 1 item", "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content is missing", "messages"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "messages.0 Input tag 'bot'", "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type should be 'text', found \"image_url\"",
            "messages",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", None),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs should be less", "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens should be greater than or equal to 1", "max_tokens"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_wanted(
    fields: dict[str, Any], message: str, param: str | None
):
    body = json.dumps({"messages": MESSAGES, **fields}).encode()
    error = refused(body, "/v1/chat/completions")
    assert error["message"].startswith(message)
    assert error["param"] == (param or next(iter(fields)))


@pytest.mark.parametrize("name", ["audio", "functions", "suffix", "web_search_options"])
def test_an_unsupported_field_is_named_with_what_to_do(name: str):
    body = {"messages": MESSAGES, name: {}}
    error = refused(json.dumps(body).encode(), "/v1/chat/completions")
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert "hint" in error["message"]
    ignoring = client_of(FakePool(), accept_unknown_fields=True)
    assert ignoring.post("/v1/chat/completions", json=body).status_code == 400
    null = {"messages": MESSAGES, name: None}
    assert ignoring.post("/v1/chat/completions", json=null).status_code == 200


def test_an_unknown_field_is_refused_or_left_alone_with_a_warning(caplog):
    body = {
        "messages": [{"role": "user", "content": "Hi", "colour": "red"}],
        "flavour": 1,
        "response_format": {"type": "text", "sound": "loud"},
    }
    path = "/v1/chat/completions"
    error = refused(json.dumps(body).encode(), path)
    assert error["code"] == "unknown_parameter"
    pool = FakePool()
    response = client_of(pool, accept_unknown_fields=True).post(path, json=body)
    assert response.status_code == 200, response.text
    for name in ("colour", "flavour", "sound"):
        assert name in caplog.text
    messages = pool.client.generated()[0]["prompt"]["messages"]
    assert messages == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("fields", "field", "near"),
    [
        ({"temprature": 1}, "temprature", "temperature"),
        ({"max_token": 1}, "max_token", "max_tokens"),
        ({"messages": [{"role": "user", "contents": "Hi"}]}, "messages.0.contents", "content"),
        (
            {"stream_options": {"include_uses": True}},
            "stream_options.include_uses",
            "include_usage",
        ),
        ({"qqq": 1}, "qqq", None),
    ],
)
def test_an_unknown_field_is_told_its_nearest(fields: dict[str, Any], field: str, near: str | None):
    body = {"messages": MESSAGES, **fields}
    if "messages" in fields:
        body["messages"][0]["content"] = "Hi"
    message = refused(json.dumps(body).encode(), "/v1/chat/completions")["message"]
    hint = f" (hint: did you mean {near}?)" if near else ""
    assert message == f"there is no field {field}{hint}"


def test_a_wrong_value_beside_an_unknown_field_is_still_refused():
    client = client_of(FakePool(), accept_unknown_fields=True)
    response = client.post("/v1/completions", json={"prompt": 3, "flavour": 1})
    assert response.status_code == 400


def test_a_route_or_method_that_is_not_there_has_the_same_shape():
    client = client_of(FakePool())
    assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    response = client.put("/tokenize", json={})
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert "Method Not Allowed" in response.json()["error"]["message"]
