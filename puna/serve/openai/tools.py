"""Functions that a model may call: how it is told of them, held to them, and understood.

A template that takes `tools` spells them as the model was trained. Else the system message gets
`tool_prompt`, calls and answers of before are written into the texts. A call that is required or
named is constrained: the text is then one JSON object {"name", "arguments"}, or a list of them. Of
other texts calls are read as the known models write them:

    <tool_call>{"name": ..., "arguments": {...}}</tool_call>    Hermes, Qwen, and `tool_prompt`
    [TOOL_CALLS] [{"name": ..., "arguments": {...}}]            Mistral
    <|python_tag|>{"name": ..., "parameters": {...}}            LLaMA 3, also without the mark
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from puna.serve.openai.schemas import Tool

Call = dict[str, Any]
Delta = dict[str, Any]  # a part of a call: the first has its id and name
Message = dict[str, Any]

_OPENINGS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
_MARKS = (*_OPENINGS, "</tool_call>")
_BETWEEN_CALLS = re.compile(rf"(?:{'|'.join(map(re.escape, _MARKS))}|[\s,;\[\]])*")
_BARE_CALL = '{"name"'
_NAMED = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]*)"')
_CALL_HEAD = re.compile(_NAMED.pattern + r'\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_STRUCTURE = re.compile(r'\\.|["{}\[\]]', re.DOTALL)
_MOST_FORCED_CALLS = 16


def tool_prompt(tools: list[Tool]) -> str:
    """What a model without a template for tools is told of them."""
    lines = [json.dumps(one.function.model_dump(exclude_none=True)) for one in tools]
    return (
        "You may call functions. They are, one a line, with their parameters as JSON schemas:\n"
        + "\n".join(lines)
        + '\nTo call one, answer with its name and arguments in this form:\n<tool_call>\n{"name": '
        '"the name", "arguments": {"a parameter": "its value"}}\n</tool_call>\n'
        "What it returns is then given to you between <tool_response> and </tool_response>. "
        "Answer without a call where none is needed."
    )


def spelled_out(messages: list[Message], tools: list[Tool]) -> list[Message]:
    """The conversation for a template that knows no tools: all about them is in the texts."""
    spelled = [_as_text(message) for message in messages]
    if not tools:
        return spelled
    if spelled[0]["role"] == "system":
        told = f"{spelled[0]['content']}\n\n{tool_prompt(tools)}"
        return [{**spelled[0], "content": told}, *spelled[1:]]
    return [{"role": "system", "content": tool_prompt(tools)}, *spelled]


def calls_schema(tools: list[Tool], *, is_parallel: bool) -> dict[str, Any]:
    """The JSON schema of a call of one of the tools, or of a list of such calls.

    Each tool's parameters lie under $defs, where their own references are made to point.
    """
    definitions: dict[str, Any] = {}
    choices: list[dict[str, Any]] = []
    for number, tool in enumerate(tools):
        place = f"tool{number}"
        parameters = tool.function.parameters or {"type": "object"}
        definitions[place] = _moved(parameters, f"#/$defs/{place}")
        choices.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": {"$ref": f"#/$defs/{place}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    call = choices[0] if len(choices) == 1 else {"anyOf": choices}
    if is_parallel:
        call = {"type": "array", "items": call, "minItems": 1, "maxItems": _MOST_FORCED_CALLS}
    return {**call, "$defs": definitions}


def answer_or_calls(
    schema: dict[str, Any], tools: list[Tool], *, is_parallel: bool
) -> dict[str, Any]:
    """The constraint of a text that follows the schema, or calls tools as `tool_prompt` says."""
    brief = {"x-guidance": {"whitespace_pattern": " ?"}}  # else there may be any amount of it
    # A grammar with this mark would be taken for llama.cpp's.
    answer, call = (
        json.dumps({**one, **brief}).replace("::=", ":\\u003a=")
        for one in (schema, calls_schema(tools, is_parallel=False))
    )
    rules = [
        f"start: answer | (OPEN call CLOSE){'+' if is_parallel else ''}",
        f"answer: %json {answer}",
        f"call: %json {call}",
        r"OPEN: /\s*<tool_call>\s*/",
        r"CLOSE: /\s*<\/tool_call>/",
    ]
    return {"grammar": "\n".join(rules)}


@dataclass
class _Brackets:
    """Where a scan of an object that is not whole stands."""

    scanned: int = 0  # characters
    depth: int = 0
    is_in_string: bool = False
    is_escaped: bool = False  # the next character

    def end(self, text: str, begin: int) -> int | None:
        """Where the object that begins there ends; None while it is not whole."""
        position = max(self.scanned, begin)
        if self.is_escaped and position < len(text):
            position, self.is_escaped = position + 1, False
        for match in _STRUCTURE.finditer(text, position):
            position, mark = match.end(), match[0]
            if mark == '"':
                self.is_in_string = not self.is_in_string
            elif not self.is_in_string and mark[0] != "\\":
                self.depth += 1 if mark in "{[" else -1
                if self.depth == 0:
                    return position
        self.is_escaped = self.is_escaped or text.endswith("\\", position)
        self.scanned = len(text)
        return None


@dataclass
class ToolReader:
    """Parts a text that comes in pieces into what is said and what is called.

    A call begins when the name of a tool and the first bracket of its arguments are there, which
    then are given as they come. What looks like a call and is none, as there is no such tool, is
    said, and so are calls after the first `most_calls`. `is_forced`: the text is all calls.
    """

    names: frozenset[str]
    is_forced: bool = False
    most_calls: int | None = None
    begun: int = 0  # calls so far, and those of them whose arguments are whole
    whole: int = 0
    _held: str = ""  # what may be the beginning of a call
    _has_said: bool = False
    _is_calling: bool = False
    _has_called: bool = False  # since the calls began
    _is_after_arguments: bool = False  # and the call's own bracket is open
    _brackets: _Brackets = field(default_factory=_Brackets)  # of what is held

    def push(self, piece: str) -> tuple[str, list[Delta]]:
        """What the next piece adds: text, and parts of calls in OpenAI's form."""
        self._held += piece
        said: list[str] = []
        deltas: list[Delta] = []
        while self._read(said, deltas):
            pass
        text = "".join(said)
        self._has_said = self._has_said or bool(text.strip())
        return text, deltas

    def finish(self) -> str:
        """What was held back at the text's end and is no call."""
        is_closed = self._has_called and _match_end(self._held) == len(self._held)
        rest, self._held = self._held, ""
        return "" if self._is_calling and is_closed else rest

    def _read(self, said: list[str], deltas: list[Delta]) -> bool:
        """Take the next part of what is held; whether there is one that is complete."""
        if self.whole < self.begun:
            return self._read_arguments(deltas)
        if self._is_after_arguments:  # some have an id there
            end = self._brackets.end(self._held, 0)
            self._is_after_arguments = end is None
            return self._drop(end)
        if not (self._is_calling or self._begin_calls(said)):
            return False
        begin = _match_end(self._held)
        rest = self._held[begin : begin + len("</tool_call>")]
        if any(mark.startswith(rest) for mark in _MARKS):
            return False
        end = begin
        if self._may_call(begin):
            head = _CALL_HEAD.match(self._held, begin)
            if head is not None:
                self._begin_call(head[1], "", deltas)
                return self._drop(head.end())
            end = self._brackets.end(self._held, begin)
        if end is not None and not self._read_whole(self._held[begin:end], deltas):
            self._is_calling = False
            said.append(self._held[begin:end] if self._has_called else self._held[:end])
        return self._drop(end)

    def _begin_calls(self, said: list[str]) -> bool:
        """Whether calls begin in what is held; what is before them is said."""
        held = self._held
        is_bare = self.is_forced or held.lstrip().startswith("{")
        if is_bare and not self._has_said and not said:
            start, begins = 0, True
        else:
            starts = [at for mark in _OPENINGS if (at := held.find(mark)) >= 0]
            start = min(starts, default=len(held) - _unfinished(held))
            begins = bool(starts)
        if begins:
            self._is_calling, self._has_called = True, False
        if start and (self._has_said or said or held[:start].strip()):
            said.append(held[:start])
            self._held = held[start:]
        return begins

    def _may_call(self, begin: int) -> bool:
        """Whether an object begins there; without a mark before it, one that begins as calls do."""
        if not self._held.startswith("{", begin) or self.begun == self.most_calls:
            return False
        named = _NAMED.match(self._held, begin)
        if named is not None:
            return named[1] in self.names
        has_mark = bool(self._held[:begin].strip()) or self._has_called or self.is_forced
        start = "".join(self._held[begin : begin + 80].split())[: len(_BARE_CALL)]
        return has_mark or _BARE_CALL.startswith(start)

    def _begin_call(self, name: str, arguments: str, deltas: list[Delta]) -> None:
        function = {"name": name, "arguments": arguments}
        call_id = f"call_{secrets.token_hex(12)}"
        deltas.append(
            {"index": self.begun, "id": call_id, "type": "function", "function": function}
        )
        self.begun += 1
        self._has_called = True

    def _read_arguments(self, deltas: list[Delta]) -> bool:
        end = self._brackets.end(self._held, 0)
        part = self._held[:end]
        self._held, self._brackets.scanned = self._held[len(part) :], 0
        if part:
            deltas.append({"index": self.begun - 1, "function": {"arguments": part}})
        if end is None:
            return False
        self.whole, self._is_after_arguments = self.begun, True
        self._brackets = _Brackets(depth=1)  # the call's own
        return True

    def _drop(self, end: int | None) -> bool:
        """Forget what is held up to there; False where nothing ends yet."""
        if end is not None:
            self._held, self._brackets = self._held[end:], _Brackets()
        return end is not None

    def _read_whole(self, text: str, deltas: list[Delta]) -> bool:
        """Whether the text is a call, with its fields in any order."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(value, dict) or value.get("name") not in self.names:
            return False
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            return False
        self._begin_call(value["name"], json.dumps(arguments, ensure_ascii=False), deltas)
        self.whole = self.begun
        return True


def joined(deltas: Iterable[Delta]) -> list[Call]:
    """The calls that the parts of them make."""
    calls: list[Call] = []
    parts: list[list[str]] = []
    for delta in deltas:
        if "id" in delta:
            calls.append({name: value for name, value in delta.items() if name != "index"})
            parts.append([])
        parts[-1].append(delta["function"]["arguments"])
    return [
        {**call, "function": {**call["function"], "arguments": "".join(texts)}}
        for call, texts in zip(calls, parts, strict=True)
    ]


def _match_end(text: str) -> int:
    match = _BETWEEN_CALLS.match(text)
    assert match is not None  # it matches the empty text
    return match.end()


def _unfinished(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a mark."""
    longest = max(map(len, _OPENINGS))
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(mark.startswith(text[-size:]) for mark in _OPENINGS):
            return size
    return 0


def _as_text(message: Message) -> Message:
    """A message with its calls, or as a tool's answer, in words."""
    if message["role"] == "tool":
        answer = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": answer}
    calls = message.get("tool_calls") or []
    spelled = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in calls
    ]
    texts = [message["content"], *spelled]
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": "\n".join(text for text in texts if text)}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to its own parts hold where it lies at `place`."""
    if isinstance(schema, list):
        return [_moved(one, place) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(value, place) for name, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
