"""Ollama's routes: the fields, the lines, and one 400 for what would change an answer unheard."""

import json
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from serve.fake_pool import CONTEXT_TOKENS, FakeClient, FakePool
from serve.live_server import client_of
from starlette.testclient import TestClient

from puna.serve.app import build_app
from puna.serve.errors import ServeError
from puna.serve.ollama.responses import ChatLine, Embedded, GenerateLine, OneEmbedded
from puna.serve.settings import ServeSettings

USER = {"role": "user", "content": "Hi"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Oslo"}}\n</tool_call>'
LINES = {"/api/generate": GenerateLine, "/api/chat": ChatLine}  # as the document says
COUNTS = ("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration")


def generated(pool: FakePool, path: str = "/api/generate", **body: Any) -> list[dict[str, Any]]:
    """The lines of the answer."""
    answer = client_of(pool).post(path, json={"model": "fake", **body})
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    for line in lines:
        LINES[path].model_validate(line)
        assert line["model"] == "fake"
        assert datetime.fromisoformat(line["created_at"]).tzinfo is not None
    return lines


def asked(**body: Any) -> dict[str, Any]:
    """What the engine was asked for /api/generate."""
    pool = FakePool()
    generated(pool, prompt="Hi", **body)
    (fields,) = pool.client.generated()
    return fields


def refused(client: TestClient, path: str, **body: Any) -> str:
    answer = client.post(path, json={"model": "fake", **body})
    assert answer.status_code == 400, answer.text
    (name,) = answer.json()
    assert name == "error"
    return answer.json()["error"]


def test_generate_streams_lines_unless_told_otherwise():
    *pieces, last = generated(FakePool(), prompt="Hi")
    assert [line["response"] for line in pieces] == ["Hello", " there", "!"]
    assert not any(line["done"] for line in pieces)
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "stop")


def test_the_stream_is_newline_delimited_json():
    answer = client_of(FakePool()).post("/api/generate", json={"model": "fake", "prompt": "Hi"})
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    whole = client_of(FakePool()).post(
        "/api/generate", json={"model": "fake", "prompt": "Hi", "stream": False}
    )
    assert whole.headers["Content-Type"] == "application/json"


def test_a_whole_answer_is_the_stream_in_one():
    (line,) = generated(FakePool(), prompt="Hi", stream=False)
    assert (line["response"], line["done"]) == ("Hello there!", True)


def test_durations_are_nanoseconds_and_counts_are_tokens():
    (line,) = generated(FakePool(), prompt="Hi", raw=True, stream=False)
    assert [line[name] for name in COUNTS] == [2, 250_000_000, 3, 500_000_000]
    assert 0 <= line["load_duration"] <= line["total_duration"] < 10**10


def test_a_text_that_is_cut_off_says_length():
    (line,) = generated(FakePool(), prompt="Hi", stream=False, options={"num_predict": 2})
    assert (line["response"], line["done_reason"], line["eval_count"]) == (
        "Hello there",
        "length",
        2,
    )


def test_a_prompt_goes_through_the_chat_template():
    messages = [{"role": "system", "content": "Be brief"}, USER]
    assert asked(system="Be brief")["prompt"]["messages"] == messages
    assert asked()["prompt"]["messages"] == [USER]
    assert asked(raw=True)["prompt"] == {"text": "Hi"}


def test_a_model_without_a_template_goes_on_with_the_prompt():
    base = FakeClient()
    base.described["has_chat_template"] = False
    pool = FakePool(fake=base)
    generated(pool, prompt="Hi")
    assert base.generated()[0]["prompt"] == {"text": "Hi"}
    assert "no place for a system" in refused(
        client_of(pool), "/api/generate", prompt="Hi", system="x"
    )


def test_options_become_the_engines_settings():
    options = {
        "num_predict": 7,
        "temperature": 0,
        "top_k": 40,
        "top_p": 0,
        "min_p": 0.05,
        "typical_p": 0.9,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "seed": 42,
        "stop": ["\n", "."],
        "num_ctx": CONTEXT_TOKENS,
        "num_thread": 8,
        "num_gpu": 1,
        "use_mmap": True,
        "mirostat": 0,
        "tfs_z": 1,
        "vocab_only": False,
    }
    assert asked(options=options)["params"] == {
        "max_tokens": 7,
        "temperature": 0,
        "top_k": 40,
        "top_p": 1e-30,
        "min_p": 0.05,
        "typical_p": 0.9,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "seed": 42,
        "stop": ["\n", "."],
    }


@pytest.mark.parametrize("options", [{}, {"num_predict": -1}, {"num_predict": -2, "seed": -1}])
def test_without_a_limit_a_text_may_fill_the_context(options: dict[str, Any]):
    assert asked(options=options)["params"] == {"max_tokens": 2**31 - 1}
    assert asked()["params"] == {"max_tokens": 2**31 - 1}


def test_a_stop_may_be_one_text():
    assert asked(options={"stop": "x"})["params"]["stop"] == ["x"]


def test_a_format_constrains_the_text():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert asked(format="json")["constraint"] == {"json_object": True}
    assert asked(format=schema)["constraint"] == {"json_schema": schema}
    assert asked(format="")["constraint"] is None
    pool = FakePool()
    generated(pool, "/api/chat", messages=[USER], format=schema)
    assert pool.client.generated()[0]["constraint"] == {"json_schema": schema}


def test_keep_alive_is_taken_in_every_form():
    for value in ("5m", "-1", 0, -1, 300, 1.5):
        assert asked(keep_alive=value)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"template": "{{ .Prompt }}"}, "template is not supported"),
        ({"suffix": "end"}, "suffix is not supported"),
        ({"context": [1, 2]}, "context is not supported"),
        ({"images": ["aGk="]}, "images is not supported"),
        ({"think": True}, "think is not supported"),
        ({"think": "high"}, "think is not supported"),
        ({"raw": True, "system": "x"}, "raw prompt has no place"),
        ({"width": 100}, "there is no field width"),
        ({"options": {"mirostat": 2}}, "options.mirostat should be 0"),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n should be -1"),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z"),
        ({"options": {"num_ctx": CONTEXT_TOKENS + 1}}, "options.num_ctx should be at most 4096"),
        ({"options": {"temprature": 1}}, "there is no field options.temprature"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"stop": ["x"] * 33}}, "options.stop"),
        ({"format": "xml"}, "format"),
        ({"format": 5}, "format"),
        ({"stream": "yes"}, "stream"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"keep_alive": [5]}, "keep_alive"),
    ],
)
def test_what_would_change_the_answer_unheard_is_refused_by_name(body: dict[str, Any], named: str):
    pool = FakePool()
    assert named in refused(client_of(pool), "/api/generate", **{"prompt": "Hi", **body})
    assert pool.client.generated() == []


@pytest.mark.parametrize("body", [{"think": False}, {"images": []}, {"context": []}])
def test_what_asks_for_nothing_is_taken(body: dict[str, Any]):
    assert asked(**body)


def test_without_a_prompt_the_model_is_loaded():
    pool = FakePool()
    (line,) = generated(pool)
    assert (line["response"], line["done"], line["done_reason"]) == ("", True, "load")
    (line,) = generated(pool, "/api/chat", messages=[], stream=False)
    assert (line["message"]["content"], line["done_reason"]) == ("", "load")
    assert pool.client.asked == []


def test_a_model_is_not_unloaded_on_demand():
    assert "not unloaded" in refused(client_of(FakePool()), "/api/generate", keep_alive=0)


def test_log_probabilities_come_with_their_tokens():
    *pieces, _last = generated(FakePool(), prompt="Hi", logprobs=True, top_logprobs=2)
    (one,) = pieces[0]["logprobs"]
    assert (one["token"], one["logprob"]) == ("Hello", -0.5)
    assert [top["token"] for top in one["top_logprobs"]] == ["Hello", "!"]
    (whole,) = generated(FakePool(), prompt="Hi", logprobs=True, stream=False)
    assert [one["token"] for one in whole["logprobs"]] == ["Hello", " there", "!"]


def test_chat_streams_messages():
    *pieces, last = generated(FakePool(), "/api/chat", messages=[USER])
    assert [line["message"] for line in pieces] == [
        {"role": "assistant", "content": text} for text in ("Hello", " there", "!")
    ]
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert set(COUNTS) < set(last)


@pytest.mark.parametrize("pieces", [[CALL], list(CALL), ["So: ", *CALL]])
def test_tools_are_called_with_arguments_as_objects(pieces: list[str]):
    pool = FakePool(fake=FakeClient(says=pieces))
    body = {"messages": [USER], "tools": [TOOL]}
    (whole,) = generated(pool, "/api/chat", **body, stream=False)
    (call,) = whole["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"town": "Oslo"}}
    lines = generated(pool, "/api/chat", **body)
    (calling,) = [line for line in lines if "tool_calls" in line["message"]]
    assert calling["message"]["tool_calls"][0]["function"] == call["function"]
    assert "tool_call>" not in "".join(line["message"]["content"] for line in lines)
    assert lines[-1]["done_reason"] == "stop"


def test_a_call_that_is_no_object_is_said():
    for text in (
        '{"name": "weather", "arguments": {"town": ',
        '{"name": "weather", "arguments": {x}',
    ):
        pool = FakePool(fake=FakeClient(says=("<tool_call>", text)))
        for is_stream in (True, False):
            body = {"messages": [USER], "tools": [TOOL], "stream": is_stream}
            lines = generated(pool, "/api/chat", **body)
            assert "".join(line["message"]["content"] for line in lines) == text
            assert not any("tool_calls" in line["message"] for line in lines)


def test_a_conversation_with_calls_is_told_as_openais():
    messages = [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"function": {"name": "weather", "arguments": {"town": "Oslo"}}},
                {"function": {"name": "time", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "noon", "tool_name": "time"},
        {"role": "tool", "content": "rain", "tool_name": "weather"},
    ]
    pool = FakePool()
    generated(pool, "/api/chat", messages=messages, tools=[TOOL])
    told = pool.client.generated()[0]["prompt"]["messages"]
    calls = told[1]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [{"town": "Oslo"}, {}]
    assert told[2]["tool_call_id"] == calls[1]["id"]
    assert told[3]["tool_call_id"] == calls[0]["id"]


def test_a_message_that_the_assistant_began_is_gone_on_with():
    pool = FakePool()
    generated(pool, "/api/chat", messages=[USER, {"role": "assistant", "content": "Well"}])
    prompt = pool.client.generated()[0]["prompt"]
    assert (prompt["continue_final_message"], prompt["add_generation_prompt"]) == (True, False)


def test_images_in_messages_are_refused():
    error = refused(client_of(FakePool()), "/api/chat", messages=[{**USER, "images": ["aGk="]}])
    assert "images is not supported" in error


def test_a_failure_before_the_stream_has_a_status_and_one_within_is_a_line():
    failing = FakeClient(fails={"generate": ServeError("busy", "the queue is full")})
    answer = client_of(FakePool(fake=failing)).post(
        "/api/generate", json={"model": "fake", "prompt": "Hi"}
    )
    assert (answer.status_code, answer.json()) == (429, {"error": "the queue is full"})
    assert answer.headers["Retry-After"] == "1"
    later = FakePool(fake=FakeClient(says=["a", ServeError("failed", "broken")]))
    text = client_of(later).post("/api/generate", json={"model": "fake", "prompt": "Hi"}).text
    assert [json.loads(line) for line in text.splitlines()][-1] == {"error": "broken"}


def test_a_prompt_that_is_too_long_is_refused_and_never_cut():
    error = refused(client_of(FakePool()), "/api/generate", prompt="x" * CONTEXT_TOKENS, raw=True)
    assert "too long" in error


def test_models_are_found_with_and_without_latest():
    pool = FakePool(small=FakeClient(says=["s"]), **{"large:latest": FakeClient(says=["l"])})
    client = client_of(pool)

    def says(model: str) -> str:
        body = {"model": model, "prompt": "Hi", "stream": False}
        return client.post("/api/generate", json=body).json()["response"]

    assert says("small") == says("small:latest") == "s"
    assert says("large") == says("large:latest") == "l"
    answer = client.post("/api/generate", json={"model": "medium", "prompt": "Hi"})
    assert answer.status_code == 404
    assert "medium" in answer.json()["error"]


def test_tags_list_every_model_and_ps_the_loaded_ones():
    pool = FakePool(small=FakeClient(), large=FakeClient())
    pool.states["large"] = "unloaded"
    client = client_of(pool)
    small, large = client.get("/api/tags").json()["models"]
    assert (small["name"], small["model"]) == ("small:latest", "small:latest")
    assert small["details"]["quantization_level"] == "F32"
    assert small["details"]["parameter_size"] == "1.0K"
    assert large["name"] == "large:latest"
    assert len(small["digest"]) == 64
    assert small["digest"] != large["digest"]
    (running,) = client.get("/api/ps").json()["models"]
    assert (running["name"], running["context_length"]) == ("small:latest", CONTEXT_TOKENS)
    assert running["size"] == 4_000


def test_a_digest_changes_with_the_model_s_files_and_with_nothing_else(tmp_path: Path):
    file = tmp_path / "run" / "model.gguf"
    file.parent.mkdir()
    file.write_bytes(b"x" * 5)
    for model in (file, file.parent):
        pool = FakePool()
        settings = ServeSettings(models={"fake": str(model)})
        client = TestClient(build_app(settings, pool), base_url="http://127.0.0.1")

        def listed(client: TestClient = client) -> tuple[str, int, float]:
            (one,) = client.get("/api/tags").json()["models"]
            changed_at = datetime.fromisoformat(one["modified_at"]).timestamp()
            return one["digest"], one["size"], changed_at

        before = listed()
        assert before[1:] == pytest.approx((5, file.stat().st_mtime), abs=1e-3)
        pool.states["fake"] = "unloaded"
        assert listed() == before
        os.utime(file, (1, file.stat().st_mtime + 60))
        assert listed()[0] != before[0]
        assert listed()[2] == pytest.approx(before[2] + 60)


def test_show_tells_what_clients_ask_of_a_model():
    client = client_of(FakePool(small=FakeClient(), large=FakeClient()))
    for body in ({"model": "small"}, {"name": "small:latest"}, {"model": "small", "verbose": True}):
        shown = client.post("/api/show", json=body).json()
        architecture = shown["model_info"]["general.architecture"]
        assert shown["model_info"][f"{architecture}.context_length"] == CONTEXT_TOKENS
        assert shown["capabilities"] == ["completion", "embedding", "tools"]
        assert shown["template"] == "{{ messages }}"
    assert client.post("/api/show", json={"model": "other"}).status_code == 404
    assert client.post("/api/show", json={}).status_code == 400


def test_show_knows_the_only_model_by_its_name_alone():
    assert client_of(FakePool()).post("/api/show", json={"model": "other"}).status_code == 404


def test_embed_gives_vectors_of_length_1_and_embeddings_the_models_own():
    client = client_of(FakePool())
    answer = client.post("/api/embed", json={"model": "fake", "input": ["ab", "cdef"]}).json()
    assert [math.hypot(*vector) for vector in answer["embeddings"]] == pytest.approx([1, 1])
    assert answer["prompt_eval_count"] == 6
    assert answer["total_duration"] >= answer["load_duration"] >= 0
    one = client.post("/api/embed", json={"model": "fake", "input": "ab"}).json()
    assert one["embeddings"] == answer["embeddings"][:1]
    old = client.post("/api/embeddings", json={"model": "fake", "prompt": "ab"}).json()
    assert old == {"embedding": [2.0, 0.5]}
    assert Embedded.model_validate(answer)
    assert OneEmbedded.model_validate(old)


def test_embed_cuts_only_when_it_is_asked_to():
    pool = FakePool()
    body = {"model": "fake", "input": "x" * (CONTEXT_TOKENS + 9)}
    client_of(pool).post("/api/embed", json=body)
    client_of(pool).post("/api/embed", json={**body, "truncate": True})
    whole, cut = [fields["inputs"][0] for name, fields in pool.client.asked if name == "embed"]
    assert whole == {"text": body["input"]}
    assert len(cut["ids"]) == CONTEXT_TOKENS


def test_embed_refuses_other_widths():
    error = refused(client_of(FakePool()), "/api/embed", input="a", dimensions=8)
    assert "dimensions is not supported" in error


def test_clients_that_want_no_html_find_ollama_at_the_root():
    client = client_of(FakePool(), api_keys=("key",))
    assert client.get("/").text == "Ollama is running"
    assert client.head("/").status_code == 200
    page = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["Content-Type"].startswith("text/html")
