"""One continuation under way: token by token, as text that never splits a character."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from puna import hardware
from puna.errors import UsageError
from puna.infer.backends.base import Chunk, IdArray, PageArray, pages_for
from puna.infer.sampler import next_token
from puna.infer.sampling_params import SamplingParams
from puna.infer.stop import StopStrings
from puna.model import count

if TYPE_CHECKING:
    from puna.infer.engine import Engine

Ending = Literal["eos", "stop string", "max tokens", "context end", "cancelled"]

PREFILL_ROWS = 256  # prompt tokens read at once: bounds the attention scores of the NumPy twin


@dataclass(frozen=True)
class GenerationResult:
    """What a generation did so far; `ended_by` is None while it runs.

    `generated_tokens` counts the EOS or end of turn. `seed` repeats the text.
    """

    text: str
    ended_by: Ending | None
    prompt_tokens: int
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    seed: int

    @property
    def finish_reason(self) -> Literal["stop", "length", "cancelled"] | None:
        """`stop`: EOS or a stop string; `length`: max_tokens or the context's end."""
        if self.ended_by in ("eos", "stop string"):
            return "stop"
        if self.ended_by in ("max tokens", "context end"):
            return "length"
        return "cancelled" if self.ended_by else None

    @property
    def tokens_per_second(self) -> float:
        """Rate of the tokens after the first, which reading the prompt gives; 0 without any.

        The time that the reader takes between two pieces does not count.
        """
        steps = self.generated_tokens - 1
        return steps / self.decode_seconds if steps > 0 else 0.0


class Generation(Iterator[str]):
    """Iterate for the pieces of text; read `result` at any time; `cancel` ends it early.

    Raises UsageError at once when the prompt is empty or leaves no room in the context,
    TokenizerError when it cannot be encoded, MachineError when memory does not suffice.
    """

    def __init__(self, engine: Engine, prompt: str | Sequence[int], params: SamplingParams) -> None:
        self._engine = engine
        self._params = params
        if isinstance(prompt, str):
            prompt = engine.tokenizer.encode(prompt, bos=engine.tokenizer.adds_bos)
        self._prompt_ids = list(prompt)
        if not self._prompt_ids:
            raise UsageError(
                "this model needs a prompt: its tokenizer puts no begin token before a text",
                hint="give at least a character",
            )
        self._room = engine.config.context_length - len(self._prompt_ids)
        if self._room < 1:
            raise UsageError(
                f"the prompt has {len(self._prompt_ids)} tokens, which leaves none to generate in "
                f"the model's context of {engine.config.context_length}",
                hint="give a shorter prompt; Puna cuts nothing off by itself",
            )
        self._limit = min(self._room, params.max_tokens)
        length = len(self._prompt_ids) + self._limit
        kv_bytes = count.kv_cache_bytes(engine.config, 1, length, 4)  # float32
        hardware.require_memory(kv_bytes, f"a text of {length} tokens, its keys and values,")
        self._seed = secrets.randbits(32) if params.seed is None else params.seed
        self._ended_by: Ending | None = None
        self._generated_tokens = 0
        self._prefill_seconds = self._decode_seconds = 0.0
        self._text: list[str] = []
        self._pieces = self._run()

    def __next__(self) -> str:
        piece = next(self._pieces)
        self._text.append(piece)
        return piece

    def cancel(self) -> None:
        """End here; the text so far stays in `result`."""
        self._pieces.close()
        self._ended_by = self._ended_by or "cancelled"

    @property
    def result(self) -> GenerationResult:
        """Text, counts and times so far."""
        return GenerationResult(
            text="".join(self._text),
            ended_by=self._ended_by,
            prompt_tokens=len(self._prompt_ids),
            generated_tokens=self._generated_tokens,
            prefill_seconds=self._prefill_seconds,
            decode_seconds=self._decode_seconds,
            seed=self._seed,
        )

    def _run(self) -> Generator[str, None, None]:
        """Decode the sampled ids and watch for stop strings."""
        stops = StopStrings(self._params.stop)
        decoder = self._engine.tokenizer.stream()
        for token in self._prompt_ids:  # so that the first piece keeps the space before it
            decoder.push(token)
        for token in self._tokens():
            piece = stops.push(decoder.push(token))
            if piece:
                yield piece
            if stops.found is not None:
                break
        piece = stops.push(decoder.flush()) + stops.flush()
        if stops.found is not None:
            self._ended_by = "stop string"
        if piece:
            yield piece

    def _tokens(self) -> Iterator[int]:
        """The sampled ids up to one that ends a text, max_tokens or the context's end."""
        tokenizer, params = self._engine.tokenizer, self._params
        generator = np.random.default_rng(self._seed)
        seen = np.zeros(tokenizer.vocabulary_size, dtype=np.bool_)
        seen[self._prompt_ids] = True
        limit = self._limit
        began = time.perf_counter()
        pages = np.arange(pages_for(len(self._prompt_ids) + limit), dtype=np.int32)
        self._engine.backend.reserve(len(pages))
        new = self._read_prompt(pages)
        start = len(self._prompt_ids) - len(new)
        for step in range(limit):
            logits = self._engine.backend.step([Chunk(pages, start, new)])[-1]
            start += len(new)
            # A model's vocabulary may be padded beyond the tokenizer's pieces.
            token = next_token(logits[: len(seen)], params, seen, generator)
            self._count(time.perf_counter() - began, is_first=step == 0)
            if token in tokenizer.stop_ids:
                self._ended_by = "eos"
                return
            yield token
            began = time.perf_counter()
            seen[token] = True
            new = np.array([token], dtype=np.int64)
        self._ended_by = "max tokens" if limit == params.max_tokens else "context end"

    def _read_prompt(self, pages: PageArray) -> IdArray:
        """Run all but the last piece of the prompt; that piece, whose logits give a token."""
        ids: IdArray = np.array(self._prompt_ids, dtype=np.int64)
        last = (len(ids) - 1) // PREFILL_ROWS * PREFILL_ROWS
        for start in range(0, last, PREFILL_ROWS):
            self._engine.backend.step([Chunk(pages, start, ids[start : start + PREFILL_ROWS], 0)])
        return ids[last:]

    def _count(self, seconds: float, *, is_first: bool) -> None:
        self._generated_tokens += 1
        if is_first:
            self._prefill_seconds = seconds
        else:
            self._decode_seconds += seconds
