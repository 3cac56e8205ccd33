"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response

from puna.serve.body import JsonRoute
from puna.serve.engine_client import EngineClient, Piece, Started
from puna.serve.errors import ServeError
from puna.serve.openai.answering import Ask, Chunk, Heading, OpenAIAnswer, respond, texts
from puna.serve.openai.conversation import ToolUse, conversation_prompt, tool_use
from puna.serve.openai.logprobs import TokenLogprob, chat_logprobs
from puna.serve.openai.models import served_name
from puna.serve.openai.responses import CHAT_STREAM, ERRORS, ChatCompletion
from puna.serve.openai.sampling import NO_LIMIT, logprob_fields, sampling_fields
from puna.serve.openai.schemas import ChatRequest
from puna.serve.openai.tools import Delta, ToolReader, joined

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={**ERRORS, 200: CHAT_STREAM},
)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """The next message of a conversation; with `stream`, in chunks as it is made."""
    state = request.app.state
    model = served_name(state.pool, body.model)
    tools, constraint = tool_use(body, state.settings.limits)
    params = {**sampling_fields(body), **_own_fields(body)}

    async def asks(client: EngineClient) -> list[Ask]:
        asked = body if tools.tools else body.model_copy(update={"tools": None})
        prompt = conversation_prompt(client, asked)
        return [{"prompt": prompt, "params": params, "constraint": constraint}]

    answer = ChatAnswer(body, model, tools)
    return await respond(
        request, answer, texts(state.pool, model, asks), is_stream=bool(body.stream)
    )


def _own_fields(body: ChatRequest) -> dict[str, Any]:
    """SamplingParams' fields that chat names otherwise than completions. Raises ServeError."""
    limits = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise ServeError(
            "invalid",
            "max_tokens and max_completion_tokens are the same, found two values",
            param="max_tokens",
        )
    limit = limits.pop() if limits else NO_LIMIT
    return {"max_tokens": limit, **logprob_fields(body.logprobs, body.top_logprobs)}


@dataclass
class ChatChoice:
    """One of the texts of an answer, as far as it has come."""

    index: int
    reader: ToolReader | None
    said: list[str] = field(default_factory=list)
    calling: list[Delta] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def take(self, piece: Piece) -> dict[str, Any]:
        """The delta that a piece gives, empty where it is held back."""
        text, calling = (piece.text, []) if self.reader is None else self.reader.push(piece.text)
        if piece.ending is not None and self.reader is not None:
            text += self.reader.finish()
        delta: dict[str, Any] = {"content": text} if text else {}
        if calling:
            delta["tool_calls"] = calling
        self.said.append(text)
        self.calling += calling
        if piece.ending is not None:
            reason = piece.ending["finish_reason"]
            self.finish_reason = "tool_calls" if self.calling and reason == "stop" else reason
        return delta

    def message(self) -> dict[str, Any]:
        """The whole message; without content where there are but calls."""
        content = "".join(self.said)
        if not self.calling:
            return {"role": "assistant", "content": content, "refusal": None}
        calls, said = joined(self.calling), content.strip() or None
        return {"role": "assistant", "content": said, "refusal": None, "tool_calls": calls}


class ChatAnswer(OpenAIAnswer):
    """The answer to a chat request, chunk by chunk and whole."""

    def __init__(self, body: ChatRequest, model: str, tools: ToolUse) -> None:
        name = "chat.completion.chunk" if body.stream else "chat.completion"
        super().__init__(body, Heading("chatcmpl", name, model))
        self._has_logprobs = bool(body.logprobs)
        self._choices = [ChatChoice(index, tools.reader()) for index in range(body.n or 1)]

    def begin(self, _prompt: int, _started: Started) -> Iterator[Chunk]:
        """Each message's role."""
        for choice in self._choices:
            yield self._chunk(choice, {"role": "assistant", "content": ""})

    def add(self, _prompt: int, piece: Piece) -> Iterator[Chunk]:
        """What the message goes on with, and at its end why it is over."""
        choice = self._choices[piece.choice]
        delta, logprobs = choice.take(piece), piece.logprobs or []
        choice.logprobs += logprobs
        if delta or logprobs:
            yield self._chunk(choice, delta or {"content": ""}, logprobs)
        if piece.ending is not None:
            self.tally.add(piece)
            is_last = all(one.finish_reason for one in self._choices)
            yield self._chunk(choice, {}, timings=self.tally.timings() if is_last else None)

    def whole(self) -> dict[str, Any]:
        """A chat.completion."""
        choices = [
            {
                "index": choice.index,
                "message": choice.message(),
                "logprobs": chat_logprobs(choice.logprobs) if self._has_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for choice in self._choices
        ]
        return self.around_all(choices)

    def _chunk(
        self,
        choice: ChatChoice,
        delta: dict[str, Any],
        logprobs: list[TokenLogprob] | None = None,
        timings: dict[str, float] | None = None,
    ) -> Chunk:
        entry = {
            "index": choice.index,
            "delta": delta,
            "logprobs": chat_logprobs(logprobs) if self._has_logprobs and logprobs else None,
            "finish_reason": None if delta else choice.finish_reason,
        }
        return self._heading.around([entry], timings=timings)
