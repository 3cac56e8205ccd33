"""The access log: a line for each request, whatever became of it, and never what was asked."""

import json
import logging
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from serve.fake_pool import FakeClient, FakePool
from serve.live_server import client_of, serving
from serve.raw_http import chat, connected

from puna.errors import ConfigError
from puna.serve.errors import ServeError

CHAT = "/v1/chat/completions"
SECRET = "the words of the prompt"
BODY = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_says_what_was_asked_how_it_ended_and_what_it_cost(path: Path):
    client = client_of(FakePool(), access_log=path, api_keys=("the-key",))
    headers = {"Authorization": "Bearer the-key"}
    answer = client.post(f"{CHAT}?secret=query", json=BODY, headers=headers)
    (line,) = lines(path)
    assert line.pop("seconds") >= 0
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line.pop("request_id") == answer.headers["X-Request-Id"]
    assert line.pop("response_bytes") == len(answer.content)
    prompt_tokens = len(f"user: {SECRET}\n")
    assert line == {
        "client": "testclient",
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "is_whole": True,
        "model": "fake",
        "prompt_tokens": prompt_tokens,
        "cached_tokens": 1,
        "completion_tokens": 2,
    }
    text = path.read_text()
    assert SECRET not in text
    assert "the-key" not in text
    assert "query" not in text


def test_a_line_names_the_model_that_was_used_where_there_are_several(path: Path):
    client = client_of(FakePool(a=FakeClient(), b=FakeClient()), access_log=path)
    client.post(CHAT, json={**BODY, "model": "b"})
    client.post("/tokenize", json={"model": "a", "content": SECRET})
    client.get("/v1/models")
    assert [line.get("model") for line in lines(path)] == ["b", "a", None]


def test_with_log_prompts_the_body_is_there(path: Path):
    client = client_of(FakePool(), access_log=path, log_prompts=True)
    client.post(CHAT, json=BODY)
    client.post("/api/generate", json={"model": "fake", "prompt": SECRET, "stream": False})
    client.get("/v1/models")
    first, second, third = lines(path)
    assert json.loads(first["body"]) == BODY
    assert json.loads(second["body"])["prompt"] == SECRET
    assert "body" not in third


def test_refusals_are_logged_with_their_status(path: Path):
    client = client_of(FakePool(), access_log=path, api_keys=("key",), limits={"body_bytes": 100})
    key = {"Authorization": "Bearer key"}
    client.get("/v1/models")
    client.get("/v1/models", headers={"Host": "evil.com"})
    client.post(CHAT, content="{}", headers=key)
    client.post(CHAT, json={"messages": "x" * 200}, headers=key)
    client.get("/v1/nothing", headers=key)
    assert [line["status"] for line in lines(path)] == [401, 403, 415, 413, 404]


def test_a_bug_is_logged_as_500_and_answered_with_the_id(path: Path):
    pool = FakePool()
    pool.client.fails["generate"] = RuntimeError("a bug")  # type: ignore[assignment]
    answer = client_of(pool, access_log=path).post(CHAT, json=BODY)
    (line,) = lines(path)
    assert (answer.status_code, line["status"]) == (500, 500)
    assert answer.headers["X-Request-Id"] == line["request_id"]
    assert "a bug" not in answer.text


def test_a_stream_that_fails_on_its_way_is_still_whole(path: Path):
    pool = FakePool(fake=FakeClient(says=["a", ServeError("failed", "broken")]))
    client_of(pool, access_log=path).post(CHAT, json={**BODY, "stream": True})
    assert [line["status"] for line in lines(path)] == [200]


def test_who_leaves_has_a_line_that_is_not_whole(path: Path):
    endless = FakePool(fake=FakeClient(never_ends=True, wait_seconds=0.01))
    with serving(endless, access_log=path) as url:
        connection = connected(url)
        connection.sendall(chat(stream=True, max_tokens=100_000))
        assert connection.recv(1000)
        connection.close()
        began = time.monotonic()
        while path.stat().st_size == 0 and time.monotonic() < began + 5:
            time.sleep(0.02)
    (line,) = lines(path)
    assert (line["status"], line["is_whole"], line["client"]) == (200, False, "127.0.0.1")


def test_a_request_keeps_the_id_that_its_client_gave():
    client = client_of(FakePool())
    answer = client.get("/v1/models", headers={"X-Request-Id": "trace-1.2_3"})
    assert answer.headers["X-Request-Id"] == "trace-1.2_3"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é".encode(), 'a"b', "a\tb", "../x"])
def test_an_id_that_could_do_harm_is_replaced(given: str | bytes):
    answer = client_of(FakePool()).get("/v1/models", headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f]{24}", answer.headers["X-Request-Id"])


def test_ids_differ():
    client = client_of(FakePool())
    assert len({client.get("/version").headers["X-Request-Id"] for _ in range(20)}) == 20


def test_a_path_cannot_forge_a_line(path: Path):
    client = client_of(FakePool(), access_log=path)
    client.get('/x%0a{"status":200}%22')
    client.get("/" + "y" * 5_000)
    first, second = lines(path)
    assert first["path"] == '/x\n{"status":200}"'
    assert len(second["path"]) == 512


def test_a_log_that_is_moved_away_begins_anew(path: Path):
    client = client_of(FakePool(), access_log=path)
    client.get("/version")
    path.rename(path.with_suffix(".1"))
    client.get("/version")
    assert len(lines(path)) == len(lines(path.with_suffix(".1"))) == 1


def test_a_log_that_cannot_be_written_is_said_at_the_start(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be written"):
        client_of(FakePool(), access_log=tmp_path / "missing" / "access.jsonl")


def test_a_log_that_fails_later_costs_no_request_and_warns_once(
    path: Path, caplog: pytest.LogCaptureFixture
):
    client = client_of(FakePool(), access_log=path)
    path.unlink()
    path.mkdir()
    with caplog.at_level(logging.WARNING, "puna.serve"):
        assert client.get("/version").status_code == 200
        assert client.get("/version").status_code == 200
    assert caplog.text.count("the access log cannot be written") == 1
