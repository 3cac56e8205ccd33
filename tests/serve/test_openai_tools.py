"""Tools: how a model is told of them and held to them, and how its calls are read."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from serve.fake_pool import DESCRIPTION, FakeClient, FakePool
from serve.live_server import client_of
from tiny_model import write_tokenizer

from puna.infer.constraint import Constraint
from puna.infer.grammar import Grammars
from puna.serve.openai.responses import ChatCompletion, ChatCompletionChunk
from puna.serve.openai.schemas import Tool
from puna.serve.openai.tools import ToolReader, answer_or_calls, calls_schema, joined
from puna.tokens.tokenizer import Tokenizer

NAMES = frozenset({"add", "look"})
ADD = '{"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}'
LOOK = '{"name": "look", "parameters": {}}'
CALLED_ADD = ("add", {"a": 1, "b": [2, {"c": "}"}]})
CALLED_LOOK = ("look", {})


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("add", type="object", properties={"a": {"type": "integer"}}), tool("look")]


def read(pieces: list[str], is_forced: bool = False) -> tuple[str, list[tuple[str, Any]]]:
    """What is said, and the calls' names and arguments."""
    reader, said, deltas = ToolReader(NAMES, is_forced), "", []
    for piece in pieces:
        text, found = reader.push(piece)
        said += text
        deltas += found
    calls = [one["function"] for one in joined(deltas)]
    return said + reader.finish(), [(c["name"], json.loads(c["arguments"])) for c in calls]


TEXTS = [
    (f"<tool_call>\n{ADD}\n</tool_call>", "", [CALLED_ADD]),
    (f"Let me see. <tool_call>{LOOK}</tool_call>", "Let me see. ", [CALLED_LOOK]),
    (
        f"<tool_call>{ADD}</tool_call>\n<tool_call>{LOOK}</tool_call>",
        "",
        [CALLED_ADD, CALLED_LOOK],
    ),
    (f"[TOOL_CALLS] [{ADD}, {LOOK}]", "", [CALLED_ADD, CALLED_LOOK]),
    (f"<|python_tag|>{LOOK}; {ADD}", "", [CALLED_LOOK, CALLED_ADD]),
    (LOOK, "", [CALLED_LOOK]),
    (f"  \n{LOOK}", "", [CALLED_LOOK]),
    (f"<tool_call>{ADD}</tool_call>done", "done", [CALLED_ADD]),
    ("a < b, <tool and <tool_cal", "a < b, <tool and <tool_cal", []),
    ('{"answer": 42} it is', '{"answer": 42} it is', []),
    ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
    ('{"name": "add", "arguments": 3}', '{"name": "add", "arguments": 3}', []),
    ("<tool_call> nothing </tool_call>", "<tool_call> nothing </tool_call>", []),
    ('<tool_call>{"name": "add", "arg', '<tool_call>{"name": "add", "arg', []),
    ('<tool_call>{"name": add}</tool_call>', '<tool_call>{"name": add}</tool_call>', []),
    ("Said {braces} and [brackets] in text", "Said {braces} and [brackets] in text", []),
    ('<tool_call>{"name": "look"}</tool_call>', "", [CALLED_LOOK]),
    ('<tool_call>{"arguments": {}, "name": "look"}</tool_call>', "", [CALLED_LOOK]),
    ('[TOOL_CALLS][{"name": "look", "arguments": {}, "id": "a}"}]', "", [CALLED_LOOK]),
    (r'{"name": "add", "arguments": {"é": "\\\"}{"}} 🦙', "🦙", [("add", {"é": '\\"}{'})]),
    ('{"name": "other"<tool_call>' + LOOK, '{"name": "other"', [CALLED_LOOK]),
]


@pytest.mark.parametrize(("text", "said", "calls"), TEXTS)
def test_calls_are_read_as_the_models_write_them(text: str, said: str, calls: list[Any]):
    assert read(list(text)) == (said, calls)
    for cut in range(len(text) + 1):
        assert read([text[:cut], text[cut:]]) == (said, calls)


@given(some.sampled_from(TEXTS), some.lists(some.integers(0, 100), max_size=8))
def test_where_a_text_is_cut_does_not_matter(case: tuple[str, str, list[Any]], cuts: list[int]):
    text, said, calls = case
    marks = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(marks)]
    assert read(pieces) == (said, calls)


@given(some.text(alphabet='<>{}[]"\\/tool_cal ,;:name\n', max_size=60), some.booleans())
def test_no_text_is_lost_that_is_no_call(text: str, is_forced: bool):
    said, calls = read(list(text), is_forced)
    assert calls == []
    assert said.strip() == text.strip()


def test_what_is_no_call_is_said_as_it_comes():
    reader = ToolReader(NAMES)
    assert reader.push("Good") == ("Good", [])
    assert reader.push(" day <")[0] == " day "
    assert reader.push(" then")[0] == "< then"
    assert ToolReader(NAMES).push('{"answer"')[0] == '{"answer"'


def test_forced_calls_are_one_object_or_a_list():
    assert read([ADD], is_forced=True) == ("", [CALLED_ADD])
    assert read(list(f"[{ADD}, {LOOK}]"), is_forced=True) == ("", [CALLED_ADD, CALLED_LOOK])


def chat(client: FakeClient, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, **fields}
    response = client_of(FakePool(fake=client)).post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    ChatCompletion.model_validate_json(response.text)
    return response.json()["choices"][0]


def test_an_answer_with_calls_ends_for_them():
    choice = chat(FakeClient(says=("<tool", f"_call>{ADD}</tool_call>")))
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] is None
    (call,) = message["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert json.loads(call["function"]["arguments"]) == CALLED_ADD[1]


def streamed(client: FakeClient, **fields: Any) -> list[dict[str, Any]]:
    """The choices of a stream's chunks, checked against the document's schema."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "stream": True}
    response = client_of(FakePool(fake=client)).post(
        "/v1/chat/completions", json={**body, **fields}
    )
    events = [one.removeprefix("data: ") for one in response.text.split("\n\n")[:-2]]
    return [ChatCompletionChunk.model_validate_json(one).choices[0].model_dump() for one in events]


def test_a_stream_begins_a_call_with_its_name_and_gives_the_arguments_as_they_come():
    says = ("So: ", "<tool_call>", '{"name": "add", "arguments"', ': {"a"', ": 1}", "}", LOOK)
    choices = streamed(FakeClient(says=(*says, "</tool_call>")))
    assert choices[1]["delta"]["content"] == "So: "
    parts = [part for one in choices for part in one["delta"]["tool_calls"] or ()]
    told = [(one["index"], *one["function"].values()) for one in parts]
    assert told == [
        (0, "add", ""), (0, None, '{"a"'), (0, None, ": 1}"), (1, "look", ""), (1, None, "{}")
    ]  # fmt: skip
    assert [bool(one["id"]) for one in parts] == [True, False, False, True, False]
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_off_ends_for_that_reason():
    client = FakeClient(says=("<tool_call>", '{"name": "add", "arguments": {"a": ', "1}}"))
    choice = chat(client, max_tokens=2)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": '


def test_without_parallel_calls_there_is_one():
    choice = chat(FakeClient(says=(LOOK, ADD)), parallel_tool_calls=False)
    assert [one["function"]["name"] for one in choice["message"]["tool_calls"]] == ["look"]
    assert choice["message"]["content"] == ADD


def test_an_answer_of_a_format_may_be_calls_instead(tmp_path: Path):
    """Checked by what llguidance lets be written."""
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
    grammars = Grammars(tokenizer)

    def is_whole(constraint: dict[str, Any], text: str) -> bool:
        grammar = grammars.of(Constraint.of(constraint)).text(tokenizer.stop_ids)
        ids = tokenizer.encode(text, goes_on=True)
        for number, token in enumerate([*ids, min(tokenizer.stop_ids)]):
            if number == len(ids) and grammar.is_complete:
                return True
            logits = grammar.masked(np.zeros(tokenizer.vocabulary_size, np.float32))
            if not np.isfinite(logits[token]):
                return False
            grammar.take(token)
        return True

    schema = {"type": "object", "properties": {"x::=": {"type": "integer"}}, "required": ["x::="]}
    schema["additionalProperties"] = False
    tools = [Tool.model_validate(one) for one in TOOLS]
    both, one = (answer_or_calls(schema, tools, is_parallel=value) for value in (True, False))
    call = f"<tool_call>\n{ADD}\n</tool_call>"
    for text in ('{"x::=": 3}', call):
        assert is_whole(both, text)
        assert is_whole(one, text)
    assert is_whole(both, f"{call}\n{call}")
    assert not is_whole(one, f"{call}\n{call}")
    for text in ("Well", '{"y": 3}', "<tool_call>{}</tool_call>", call.replace('"add"', '"no"')):
        assert not is_whole(both, text)


def test_a_format_and_tools_are_both_served():
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": {"type": "array"}}}
    client = FakeClient(says=("[1]",))
    assert chat(client, response_format=form)["message"]["content"] == "[1]"
    assert 'answer: %json {"type": "array", ' in client.generated()[0]["constraint"]["grammar"]
    client = FakeClient(says=(LOOK,))
    choice = chat(client, response_format={"type": "json_object"}, tool_choice="required")
    assert choice["finish_reason"] == "tool_calls"
    assert "json_schema" in client.generated()[0]["constraint"]


def test_a_template_that_takes_tools_gets_them():
    client = FakeClient()
    chat(client)
    prompt = client.generated()[0]["prompt"]
    assert [one["function"]["name"] for one in prompt["tools"]] == ["add", "look"]
    assert [one["role"] for one in prompt["messages"]] == ["user"]
    assert client.generated()[0]["constraint"] is None


def test_a_template_that_takes_none_gets_all_in_texts():
    client = FakeClient(described={**DESCRIPTION, "supports_tools": False})
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "Yes", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ]
    chat(client, messages=messages)
    prompt = client.generated()[0]["prompt"]
    assert prompt["tools"] is None
    system, user, assistant, answer = prompt["messages"]
    assert system["content"].startswith("Be brief.\n\nYou may call functions.")
    assert '{"name": "add", "parameters"' in system["content"]
    assert user == {"role": "user", "content": "Look"}
    called = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    assert assistant == {"role": "assistant", "content": f"Yes\n{called}"}
    answered = "<tool_response>\na cat\n</tool_response>"
    assert answer == {"role": "user", "content": answered}


def test_a_required_call_is_a_list_a_named_or_single_one_an_object():
    for choice, parallel, kind in (
        ("required", None, "array"),
        ("required", False, None),
        ({"type": "function", "function": {"name": "look"}}, None, "object"),
    ):
        client = FakeClient(says=(LOOK,))
        answer = chat(client, tool_choice=choice, parallel_tool_calls=parallel)
        assert client.generated()[0]["constraint"]["json_schema"].get("type") == kind
        assert answer["message"]["tool_calls"][0]["function"]["name"] == "look"


def test_without_a_choice_to_call_nothing_is_told_or_read():
    client = FakeClient(says=(LOOK,))
    choice = chat(client, tool_choice="none")
    assert client.generated()[0]["prompt"]["tools"] is None
    assert (choice["message"]["content"], choice["finish_reason"]) == (LOOK, "stop")


def test_the_schema_of_calls_keeps_references_within_their_tool():
    """Checked by what jsonschema accepts."""
    jsonschema = pytest.importorskip("jsonschema")
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/leaf"}, "again": {"$ref": "#"}},
        "additionalProperties": False,
        "$defs": {"leaf": {"type": "integer"}},
    }
    tools = [Tool.model_validate(tool("grow", **tree)), Tool.model_validate(tool("stop"))]
    schema = calls_schema(tools, is_parallel=True)

    def is_valid(*calls: dict[str, Any]) -> bool:
        return bool(jsonschema.Draft202012Validator(schema).is_valid(list(calls)))

    assert is_valid({"name": "grow", "arguments": {"left": 1, "again": {"left": 2}}})
    assert is_valid({"name": "stop", "arguments": {}}, {"name": "grow", "arguments": {}})
    assert not is_valid({"name": "grow", "arguments": {"again": {"left": "x"}}})
    assert not is_valid({"name": "other", "arguments": {}})
    assert not is_valid()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required", "tools": None}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tools": [tool("a"), tool("a")]}, "tools"),
        ({"tools": [tool("a b")]}, "tools"),
        ({"grammar": 'start: "a"'}, "tools"),
        ({"tool_choice": "required", "tools": [tool("a", x="y" * 70_000)]}, "tools"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
    ],
)
def test_tools_that_cannot_be_served_are_refused(fields: dict[str, Any], param: str):
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, **fields}
    response = client_of(FakePool()).post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
