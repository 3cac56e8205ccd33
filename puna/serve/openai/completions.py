"""POST /v1/completions: texts that go on from prompts, as evaluation harnesses need them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response

from puna.serve.body import JsonRoute
from puna.serve.engine_client import EngineClient, Piece, Started
from puna.serve.errors import ServeError
from puna.serve.openai.answering import Ask, Chunk, Heading, OpenAIAnswer, respond, texts
from puna.serve.openai.logprobs import LegacyLogprobs, TokenLogprob
from puna.serve.openai.models import served_name
from puna.serve.openai.responses import COMPLETION_STREAM, ERRORS, Completion
from puna.serve.openai.sampling import constraint_of, sampling_fields
from puna.serve.openai.schemas import CompletionRequest, Prompt
from puna.serve.settings import RequestLimits

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

_DEFAULT_TOKENS = 16  # OpenAI's


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses={**ERRORS, 200: COMPLETION_STREAM},
)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """How each prompt goes on; with `stream`, in chunks as it is made."""
    state = request.app.state
    limits: RequestLimits = state.settings.limits
    model = served_name(state.pool, body.model)
    prompts = prompts_of(body.prompt)
    _require_servable(body, len(prompts), limits)
    constraint = constraint_of(body.response_format, body.grammar, limits)
    params = {**sampling_fields(body), **_own_fields(body)}
    answer = CompletionAnswer(body, model, len(prompts))

    async def asks(_client: EngineClient) -> list[Ask]:
        asked = {"params": params, "constraint": constraint, "echo_prompt": bool(body.echo)}
        return [{"prompt": prompt, **asked} for prompt in prompts]

    return await respond(
        request, answer, texts(state.pool, model, asks), is_stream=bool(body.stream)
    )


def prompts_of(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompts of OpenAI's four forms as the engine process takes them."""
    if isinstance(prompt, str):
        return [{"text": prompt}]
    if isinstance(prompt[0], int):
        return [{"ids": prompt}]
    return [{"text": one} if isinstance(one, str) else {"ids": one} for one in prompt]


def require_few(count: int, limits: RequestLimits, param: str) -> None:
    """Raises ServeError for more texts than one request may have."""
    if count > limits.texts:
        message = f"a request may have {limits.texts} texts, got {count}"
        raise ServeError("invalid", message, param=param)


def _require_servable(body: CompletionRequest, prompts: int, limits: RequestLimits) -> None:
    require_few(prompts * (body.n or 1), limits, "prompt")
    if body.best_of is not None and body.best_of != (body.n or 1):
        message = f"best_of should be n, {body.n or 1}, got {body.best_of}"
        raise ServeError("invalid", message, param="best_of", hint="ask for n texts and choose")


def _own_fields(body: CompletionRequest) -> dict[str, Any]:
    """SamplingParams' fields that completions name otherwise than chat."""
    limit = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    fields: dict[str, Any] = {"max_tokens": limit}
    if body.logprobs is not None:
        fields["logprobs"] = body.logprobs
        if body.echo:
            fields["prompt_logprobs"] = body.logprobs
            if limit == 1:  # lm-eval takes the last entry for the token after the prompt, EOS too
                fields["ignore_eos"] = True
    return fields


@dataclass
class CompletionChoice:
    """One of the texts of an answer, as far as it has come."""

    index: int
    text: list[str] = field(default_factory=list)
    logprobs: LegacyLogprobs = field(default_factory=LegacyLogprobs)
    finish_reason: str | None = None

    def entry(self, text: str, logprobs: dict[str, list[Any]] | None) -> dict[str, Any]:
        """The choice in an answer or a chunk that has this of it."""
        return {
            "index": self.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": self.finish_reason,
        }


@dataclass
class Echo:
    """A prompt that is echoed with its log-probabilities, which come with its first text's piece;
    what its other texts say before that is `held`."""

    text: str
    tokens: int
    held: list[Piece] = field(default_factory=list)


class CompletionAnswer(OpenAIAnswer):
    """The answer to a completions request, chunk by chunk and whole."""

    def __init__(self, body: CompletionRequest, model: str, prompts: int) -> None:
        super().__init__(body, Heading("cmpl", "text_completion", model))
        self._has_logprobs = body.logprobs is not None
        self._count = body.n or 1
        self._choices = [CompletionChoice(i) for i in range(prompts * self._count)]
        self._echoes: dict[int, Echo] = {}  # that are still to come, by their prompts

    def begin(self, prompt: int, started: Started) -> Iterator[Chunk]:
        """The prompt where it is echoed, for each of its texts."""
        if started.prompt_text is None:
            return
        if self._has_logprobs:
            self._echoes[prompt] = Echo(started.prompt_text, started.prompt_tokens)
        else:
            yield from self._echo(prompt, started.prompt_text, [])

    def add(self, prompt: int, piece: Piece) -> Iterator[Chunk]:
        """What the text goes on with, and at its end why it is over."""
        logprobs, echo = piece.logprobs or [], self._echoes.get(prompt)
        if echo is not None and piece.choice:
            echo.held.append(piece)
            return
        if echo is not None:
            del self._echoes[prompt]
            yield from self._echo(prompt, echo.text, logprobs[: echo.tokens])
            logprobs = logprobs[echo.tokens :]
        choice = self._choices[prompt * self._count + piece.choice]
        if piece.text or logprobs:
            yield self._said(choice, piece.text, logprobs)
        if piece.ending is not None:
            choice.finish_reason = piece.ending["finish_reason"]
            self.tally.add(piece)
            is_last = all(one.finish_reason for one in self._choices)
            timings = self.tally.timings() if is_last else None
            yield self._heading.around([choice.entry("", None)], timings=timings)
        for held in echo.held if echo is not None else ():
            yield from self.add(prompt, held)

    def whole(self) -> dict[str, Any]:
        """A text_completion."""
        choices = [
            one.entry("".join(one.text), one.logprobs.lists if self._has_logprobs else None)
            for one in self._choices
        ]
        return self.around_all(choices)

    def _echo(self, prompt: int, text: str, logprobs: list[TokenLogprob]) -> Iterator[Chunk]:
        for choice in self._choices[prompt * self._count : (prompt + 1) * self._count]:
            yield self._said(choice, text, logprobs)

    def _said(self, choice: CompletionChoice, text: str, logprobs: list[TokenLogprob]) -> Chunk:
        choice.text.append(text)
        told = choice.logprobs.add(logprobs) if logprobs else None
        return self._heading.around([choice.entry(text, told)])
