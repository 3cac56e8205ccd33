"""From the texts of one request to its answer: what chat and completions share."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from puna.serve.clients import Pool
from puna.serve.engine_client import EngineClient, Piece, Started
from puna.serve.openai.schemas import Sampling
from puna.serve.openai.streaming import (
    EventStream,
    cancelled,
    json_response,
    unless_client_leaves,
)

Chunk = dict[str, Any]
Ask = dict[str, Any]
Asks = Callable[[EngineClient], Awaitable[list[Ask]]]
Part = tuple[int, Started | Piece]  # of which prompt, counted from 0

_AT_ONCE = 32  # prompts of one request under way: it alone never fills the queue


@dataclass
class Tally:
    """What an answer cost; a prompt counts once, however many texts go on from it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    _decode_steps: int = 0

    def add(self, piece: Piece) -> None:
        """Count a text that is over."""
        ending = piece.ending
        assert ending is not None
        self.completion_tokens += ending["generated_tokens"]
        self._decode_steps += max(ending["generated_tokens"] - 1, 0)
        self.decode_seconds = max(self.decode_seconds, ending["decode_seconds"])
        if piece.choice == 0:
            self.prompt_tokens += ending["prompt_tokens"]
            self.cached_tokens += ending["cached_tokens"]
            self.prefill_seconds = max(self.prefill_seconds, ending["prefill_seconds"])

    def usage(self) -> dict[str, Any]:
        """OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def timings(self) -> dict[str, float]:
        """llama.cpp's `timings`: `prompt_n` tokens were computed, `cache_n` found."""
        computed = self.prompt_tokens - self.cached_tokens
        return {
            "cache_n": self.cached_tokens,
            "prompt_n": computed,
            "prompt_ms": self.prefill_seconds * 1e3,
            "prompt_per_second": _rate(computed, self.prefill_seconds),
            "predicted_n": self.completion_tokens,
            "predicted_ms": self.decode_seconds * 1e3,
            "predicted_per_second": _rate(self._decode_steps, self.decode_seconds),
        }


@dataclass
class Heading:
    """What every chunk of an answer begins with."""

    prefix: str
    object_name: str
    model: str
    has_usage: bool = False  # chunks say "usage": null, and the last one has it
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"

    def around(self, choices: list[dict[str, Any]], **more: Any) -> Chunk:
        """An answer, or a chunk of it, with these choices and what of `more` is not None."""
        heading: Chunk = {
            "id": self.id,
            "object": self.object_name,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        if self.has_usage:
            heading["usage"] = None
        return heading | {name: value for name, value in more.items() if value is not None}


class OpenAIAnswer:
    """What the answers of chat and completions share."""

    def __init__(self, body: Sampling, heading: Heading) -> None:
        self.tally = Tally()
        self._heading = heading
        heading.has_usage = bool(body.stream_options and body.stream_options.include_usage)

    def end(self) -> Iterator[Chunk]:
        """The usage, where it was asked for."""
        if self._heading.has_usage:
            yield self._heading.around([], usage=self.tally.usage())

    def around_all(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The whole answer with these choices."""
        return self._heading.around(choices, usage=self.tally.usage(), timings=self.tally.timings())


class Answer(Protocol):
    """Takes the parts of all texts; tells what each adds in chunks, and the whole at the end."""

    tally: Tally

    def begin(self, prompt: int, started: Started) -> Iterable[Chunk]:
        """The chunks with which the texts of a prompt begin."""
        ...

    def add(self, prompt: int, piece: Piece) -> Iterable[Chunk]:
        """The chunks that a piece gives."""
        ...

    def end(self) -> Iterable[Chunk]:
        """The chunks after all texts."""
        ...

    def whole(self) -> dict[str, Any]:
        """The answer to who does not stream."""
        ...


async def texts(pool: Pool, model: str, asks: Asks) -> AsyncGenerator[Part]:
    """The parts of the texts that `asks` wants of a model, of several prompts as they come.

    Closing it cancels them within one step.
    """
    async with pool.use(model) as client:
        wanted = await asks(client)
        if len(wanted) == 1:
            async with aclosing(client.generate(**wanted[0])) as parts:
                async for part in parts:
                    yield 0, part
            return
        async with aclosing(_merged(client, wanted)) as merged:
            async for prompt, part in merged:
                yield prompt, part


async def respond(
    request: Request,
    answer: Answer,
    parts: AsyncGenerator[Part],
    *,
    is_stream: bool,
    stream: type[EventStream] = EventStream,
) -> Response:
    """The answer in one piece or as a stream. What fails before the first chunk is raised."""
    request.state.tally = answer.tally  # for the access log
    if not is_stream:
        await unless_client_leaves(request, _take_all(answer, parts))
        return json_response(answer.whole())
    first = await unless_client_leaves(request, anext(parts))
    ping_seconds = request.app.state.settings.limits.ping_seconds
    return stream(_chunks(answer, first, parts), ping_seconds)


async def _take_all(answer: Answer, parts: AsyncGenerator[Part]) -> None:
    async with aclosing(parts):
        async for part in parts:
            _chunks_of(answer, part)


async def _chunks(
    answer: Answer, first: Part, parts: AsyncGenerator[Part]
) -> AsyncGenerator[Chunk]:
    async with aclosing(parts):
        for chunk in _chunks_of(answer, first):
            yield chunk
        async for part in parts:
            for chunk in _chunks_of(answer, part):
                yield chunk
    for chunk in answer.end():
        yield chunk


def _chunks_of(answer: Answer, part: Part) -> list[Chunk]:
    prompt, one = part
    if isinstance(one, Started):
        return list(answer.begin(prompt, one))
    return list(answer.add(prompt, one))


async def _merged(client: EngineClient, wanted: list[Ask]) -> AsyncGenerator[Part]:
    """The parts of several prompts' texts, a bounded number of them under way."""
    waiting = iter(enumerate(wanted))
    ready: asyncio.Queue[Part | None] = asyncio.Queue()

    async def work() -> None:
        for prompt, ask in waiting:
            async with aclosing(client.generate(**ask)) as parts:
                async for part in parts:
                    ready.put_nowait((prompt, part))

    workers = [asyncio.ensure_future(work()) for _ in range(min(_AT_ONCE, len(wanted)))]
    working = asyncio.gather(*workers)
    working.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        while (part := await ready.get()) is not None:
            yield part
        await working
    finally:
        await cancelled(working, *workers)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
