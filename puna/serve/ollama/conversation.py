"""Ollama's messages in OpenAI's form, in which calls have ids and their arguments are texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from puna.serve.ollama.schemas import OllamaMessage

Call = dict[str, Any]


def openai_messages(messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    """The same conversation. A tool's answer belongs to the first call of its name that waits."""
    shaped: list[dict[str, Any]] = []
    waiting: list[Call] = []
    for number, message in enumerate(messages):
        one: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.role == "assistant" and message.tool_calls:
            waiting = _calls(message, number)
            one["tool_calls"] = list(waiting)
        elif message.role == "tool":
            one["name"] = message.tool_name
            one["tool_call_id"] = message.tool_call_id or _answered(message, waiting, number)
        shaped.append(one)
    return shaped


def is_begun(message: OllamaMessage) -> bool:
    """Whether the assistant began the message, for the model to go on with."""
    return message.role == "assistant" and not message.tool_calls


def _calls(message: OllamaMessage, number: int) -> list[Call]:
    return [
        {
            "id": call.id or f"call_{number}_{index}",
            "function": {
                "name": call.function.name,
                "arguments": json.dumps(call.function.arguments),
            },
        }
        for index, call in enumerate(message.tool_calls or [])
    ]


def _answered(message: OllamaMessage, waiting: list[Call], number: int) -> str:
    """The id of the call that a tool's message answers, which waits no more."""
    for call in waiting:
        if message.tool_name in (None, call["function"]["name"]):
            waiting.remove(call)
            return str(call["id"])
    return f"call_{number}"
