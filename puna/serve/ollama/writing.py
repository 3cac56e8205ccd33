"""POST /api/generate and /api/chat."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from puna.serve.body import JsonRoute
from puna.serve.engine_client import EngineClient, Piece, Started
from puna.serve.errors import ServeError
from puna.serve.ollama.conversation import is_begun, openai_messages
from puna.serve.ollama.naming import meant_name, timestamp
from puna.serve.ollama.responses import ERRORS, ChatLine, GenerateLine, lines_of
from puna.serve.ollama.schemas import (
    GenerateRequest,
    OllamaChat,
    Options,
    Written,
    require_served,
)
from puna.serve.openai import schemas as openai
from puna.serve.openai.answering import Ask, Chunk, Tally, respond, texts
from puna.serve.openai.chat import ChatChoice
from puna.serve.openai.conversation import ToolUse, conversation_prompt, tool_use
from puna.serve.openai.logprobs import TokenLogprob, chat_logprobs
from puna.serve.openai.sampling import (
    NO_LIMIT,
    Constraint,
    choosing_fields,
    constraint_of,
    logprob_fields,
)
from puna.serve.openai.streaming import LineStream, json_bytes, unless_client_leaves
from puna.serve.openai.tools import Call, joined

router = APIRouter(tags=["Ollama"], route_class=JsonRoute)

Said = Callable[[str, list[Call]], dict[str, Any]]


@router.post(
    "/api/generate", response_model=GenerateLine, responses={**ERRORS, 200: lines_of(GenerateLine)}
)
async def generate(body: GenerateRequest, request: Request) -> Response:
    """How a prompt goes on, or what is answered to it where the model has a chat template."""
    require_served(body)
    if body.raw and body.system:
        message = "a raw prompt has no place for a system message"
        raise ServeError("invalid", message, param="system")
    if not body.prompt:
        return await _loaded(request, body, _said)
    constraint = constraint_of(_format(body), None, request.app.state.settings.limits)
    return await _answer(request, body, constraint, lambda client: _prompt(client, body), _said)


@router.post("/api/chat", response_model=ChatLine, responses={**ERRORS, 200: lines_of(ChatLine)})
async def chat(body: OllamaChat, request: Request) -> Response:
    """The next message of a conversation; one that the assistant began is gone on with."""
    require_served(body)
    for message in body.messages or []:
        require_served(message)
    if not body.messages:
        return await _loaded(request, body, _message)
    asked = openai.ChatRequest.model_validate(
        {
            "messages": openai_messages(body.messages),
            "tools": body.tools,
            "response_format": _format(body),
            "continue_final_message": is_begun(body.messages[-1]),
        }
    )
    tools, constraint = tool_use(asked, request.app.state.settings.limits)
    return await _answer(
        request,
        body,
        constraint,
        lambda client: conversation_prompt(client, asked),
        _message,
        tools=tools,
    )


async def _answer(
    request: Request,
    body: Written,
    constraint: Constraint | None,
    prompt: Callable[[EngineClient], dict[str, Any]],
    said: Said,
    *,
    tools: ToolUse | None = None,
) -> Response:
    pool = request.app.state.pool
    params = _params(body)
    answer = LineAnswer(body, said, tools or ToolUse())

    async def asks(client: EngineClient) -> list[Ask]:
        answer.is_loaded()
        _require_context(client, body.options)
        return [{"prompt": prompt(client), "params": params, "constraint": constraint}]

    parts = texts(pool, meant_name(pool, body.model), asks)
    return await respond(request, answer, parts, is_stream=body.is_stream, stream=LineStream)


async def _loaded(request: Request, body: Written, said: Said) -> Response:
    """The answer to who only wants the model loaded."""
    if body.keep_alive in (0, "0", "0s"):
        raise ServeError(
            "invalid",
            "a model is not unloaded on demand",
            hint="the server unloads what was not used for the longest when it needs the memory",
            param="keep_alive",
        )
    pool = request.app.state.pool
    answer = LineAnswer(body, said, ToolUse())

    async def load() -> None:
        async with pool.use(meant_name(pool, body.model)):
            answer.is_loaded()

    await unless_client_leaves(request, load())
    line = answer.line("", [], done=True, done_reason="load") | answer.durations()
    kind = LineStream.media_type if body.is_stream else "application/json"
    return Response(json_bytes(line) + b"\n", media_type=kind)


class LineAnswer:
    """The answer to a request, line by line and whole; `said` shapes what each of them says."""

    def __init__(self, body: Written, said: Said, tools: ToolUse) -> None:
        self.tally = Tally()
        self._model = body.model
        self._has_logprobs = bool(body.logprobs)
        self._said = said
        self._choice = ChatChoice(0, tools.reader())
        self._began = time.perf_counter()
        self._load_seconds = 0.0
        self._called = 0  # calls that were told

    def is_loaded(self) -> None:
        """Note that the model is there."""
        self._load_seconds = time.perf_counter() - self._began

    def begin(self, _prompt: int, _started: Started) -> Iterator[Chunk]:
        """No line."""
        return iter(())

    def add(self, _prompt: int, piece: Piece) -> Iterator[Chunk]:
        """A line for what the text goes on with."""
        text, logprobs = self._choice.take(piece).get("content", ""), piece.logprobs or []
        self._choice.logprobs += logprobs
        reader, calls = self._choice.reader, []
        if reader is not None:
            whole = reader.whole if piece.ending is None else reader.begun
            calls, self._called = joined(self._choice.calling)[self._called : whole], whole
        if text or calls or logprobs:
            yield self.line(text, calls, logprobs)
        if piece.ending is not None:
            self.tally.add(piece)

    def end(self) -> Iterator[Chunk]:
        """The last line."""
        yield self.line("", [], done=True, done_reason=self._done_reason()) | self.durations()

    def whole(self) -> dict[str, Any]:
        """All in one line."""
        message = self._choice.message()
        text, calls = message["content"] or "", message.get("tool_calls", [])
        logprobs = self._choice.logprobs
        last = self.line(text, calls, logprobs, done=True, done_reason=self._done_reason())
        return last | self.durations()

    def line(
        self,
        text: str,
        calls: list[Call],
        logprobs: list[TokenLogprob] | None = None,
        *,
        done: bool = False,
        **more: Any,
    ) -> Chunk:
        """One line that says this."""
        line = {"model": self._model, "created_at": timestamp(time.time())}
        line |= self._said(text, calls) | {"done": done} | more
        if self._has_logprobs and logprobs:
            line["logprobs"] = chat_logprobs(logprobs)["content"]
        return line

    def durations(self) -> dict[str, int]:
        """Ollama's counts, and times in nanoseconds."""
        return {
            "total_duration": _nanoseconds(time.perf_counter() - self._began),
            "load_duration": _nanoseconds(self._load_seconds),
            "prompt_eval_count": self.tally.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(self.tally.prefill_seconds),
            "eval_count": self.tally.completion_tokens,
            "eval_duration": _nanoseconds(self.tally.decode_seconds),
        }

    def _done_reason(self) -> str:
        return "length" if self._choice.finish_reason == "length" else "stop"


def _said(text: str, _calls: list[Call]) -> dict[str, Any]:
    return {"response": text}


def _message(text: str, calls: list[Call]) -> dict[str, Any]:
    """A call whose arguments are no JSON is said, as it cannot be an object."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    for call in calls:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        try:
            function = {"name": name, "arguments": json.loads(arguments)}
        except (ValueError, RecursionError):
            message["content"] += f'{{"name": "{name}", "arguments": {arguments}'
        else:
            made = message.setdefault("tool_calls", [])
            made.append({"id": call["id"], "function": function})
    return {"message": message}


def _prompt(client: EngineClient, body: GenerateRequest) -> dict[str, Any]:
    """The prompt in the model's template, where it has one and the request is not raw."""
    prompt = body.prompt or ""
    if body.raw or not client.described["has_chat_template"]:
        if body.system:
            message = "a model without a chat template has no place for a system message"
            raise ServeError("invalid", message, param="system", hint="put it before the prompt")
        return {"text": prompt}
    messages = [{"role": "user", "content": prompt}]
    if body.system:
        messages.insert(0, {"role": "system", "content": body.system})
    return conversation_prompt(client, openai.Templated.model_validate({"messages": messages}))


def _format(body: Written) -> openai.JsonObject | openai.JsonSchema | None:
    if not body.format:
        return None
    if body.format == "json":
        return openai.JsonObject(type="json_object")
    schema = openai.SchemaFormat.model_validate({"name": "format", "schema": body.format})
    return openai.JsonSchema(type="json_schema", json_schema=schema)


def _params(body: Written) -> dict[str, Any]:
    """SamplingParams' fields that the request gives."""
    options = body.options or Options.model_validate({})
    limit = -1 if options.num_predict is None else options.num_predict
    return {
        **choosing_fields(options),
        "max_tokens": NO_LIMIT if limit < 0 else limit,
        **logprob_fields(body.logprobs, body.top_logprobs),
    }


def _require_context(client: EngineClient, options: Options | None) -> None:
    """Raises ServeError for a context that the model is not loaded with."""
    most = client.described["context_tokens"]
    if options is not None and (options.num_ctx or 0) > most:
        raise ServeError(
            "invalid",
            f"options.num_ctx should be at most {most}, got {options.num_ctx}",
            hint="the server decides it: --context-tokens",
            param="options",
        )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
