"""A conversation as the engine process takes it: messages for the template, tools, a constraint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from puna.serve.engine_client import EngineClient
from puna.serve.errors import ServeError
from puna.serve.openai import schemas
from puna.serve.openai.sampling import Constraint, constraint_of, schema_constraint
from puna.serve.openai.tools import ToolReader, answer_or_calls, calls_schema, spelled_out
from puna.serve.settings import RequestLimits

_OWN_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt")


@dataclass(frozen=True)
class ToolUse:
    """The tools that an answer may call, whether it has to, and how often it may at most."""

    tools: tuple[schemas.Tool, ...] = ()
    is_forced: bool = False
    most_calls: int | None = None

    def reader(self) -> ToolReader | None:
        """What finds the calls in one text; None where there are no tools."""
        if not self.tools:
            return None
        names = frozenset(one.function.name for one in self.tools)
        return ToolReader(names, self.is_forced, self.most_calls)


def tool_use(
    request: schemas.ChatRequest, limits: RequestLimits
) -> tuple[ToolUse, Constraint | None]:
    """The tools to call, and what the text must follow, for their sake or the format's.

    With a format an answer follows it, or calls tools. Raises ServeError for a choice that the
    tools do not have and for a grammar beside them.
    """
    constraint = constraint_of(request.response_format, request.grammar, limits)
    tools, choice = request.tools or [], request.tool_choice
    names = [one.function.name for one in tools]
    if len(set(names)) < len(names):
        raise _invalid("tools", f"tools should have names of their own, got {', '.join(names)}")
    if choice == "none" or not tools:
        if choice not in (None, "none", "auto"):
            raise _invalid("tool_choice", "tool_choice needs tools, found none")
        return ToolUse(), constraint
    if request.grammar is not None:
        message = "tools cannot be called in a text that follows a grammar"
        raise _invalid("tools", message, hint='tool_choice "none", or one of the two')
    is_parallel = request.parallel_tool_calls is not False
    if choice in (None, "auto"):
        if constraint is not None:
            schema = constraint.get("json_schema", {"type": "object"})
            constraint = answer_or_calls(schema, tools, is_parallel=is_parallel)
        return ToolUse(tuple(tools), most_calls=None if is_parallel else 1), constraint
    if isinstance(choice, schemas.NamedTool):
        tools = [one for one in tools if one.function.name == choice.function.name]
        if not tools:
            raise _invalid("tool_choice", f"there is no tool {choice.function.name!r}")
    schema = calls_schema(tools, is_parallel=is_parallel and choice == "required")
    return ToolUse(tuple(tools), is_forced=True), schema_constraint(schema, "tools", limits)


def conversation_prompt(client: EngineClient, request: schemas.Templated) -> dict[str, Any]:
    """The fields of the engine's `generate` and `render` that describe a conversation.

    A template that takes no tools gets them in the texts. Raises ServeError.
    """
    variables = request.chat_template_kwargs or {}
    taken = next((name for name in _OWN_VARIABLES if name in variables), None)
    if taken is not None:
        message = f"{taken} is set by the request itself"
        raise _invalid("chat_template_kwargs", message)
    is_continued = bool(request.continue_final_message)
    if is_continued and request.messages[-1].role != "assistant":
        message = "the last message should be the assistant's, to go on with it"
        raise _invalid("continue_final_message", message)
    if is_continued and request.add_generation_prompt:
        message = "a message is continued or begun, not both"
        raise _invalid("add_generation_prompt", message)
    has_prompt = request.add_generation_prompt is not False and not is_continued
    messages = [_for_template(one) for one in request.messages]
    tools = request.tools or []
    has_calls = any(one["role"] == "tool" or "tool_calls" in one for one in messages)
    if (tools or has_calls) and not client.described["supports_tools"]:
        messages, tools = spelled_out(messages, tools), []
    return {
        "messages": messages,
        "tools": [one.model_dump(exclude_none=True) for one in tools] or None,
        "template_variables": variables,
        "add_generation_prompt": has_prompt,
        "continue_final_message": is_continued,
    }


def _for_template(message: schemas.Message) -> dict[str, Any]:
    """A message as templates know it: text content, roles of three names, arguments as objects."""
    role = "system" if message.role == "developer" else message.role
    shaped: dict[str, Any] = {"role": role, "content": _text(message.content)}
    if message.name is not None:
        shaped["name"] = message.name
    if isinstance(message, schemas.ToolMessage):
        shaped["tool_call_id"] = message.tool_call_id
    if isinstance(message, schemas.AssistantMessage) and message.tool_calls:
        shaped["tool_calls"] = [_call_for_template(one) for one in message.tool_calls]
    return shaped


def _call_for_template(call: schemas.ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise _invalid("messages", f"the arguments of {call.function.name} should be a JSON object")
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _text(content: schemas.Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)


def _invalid(param: str, message: str, hint: str | None = None) -> ServeError:
    return ServeError("invalid", message, param=param, hint=hint)
