"""What comes out of the engine: pieces of a text as they are made, and the whole at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from puna.infer.logprobs import TokenLogprob

Ending = Literal[
    "eos", "stop token", "stop string", "constraint", "max tokens", "context end", "cancelled"
]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class GenerationResult:
    """What a generation did so far; `ended_by` is None while it runs.

    `ids` are those of the text: without the EOS, end of turn or stop token that ended it, which
    `generated_tokens` counts. `logprobs` has an entry for each of them where asked for, and
    `prompt_logprobs` one for each of the prompt's ids, None for the first. `seed` repeats the text.

    `cached_tokens` of the prompt were found computed. `prefill_seconds` and `decode_seconds` are
    those of the steps up to the first token and after it, shared or not with other texts;
    `queue_seconds` passed before the first of them.
    """

    text: str
    ended_by: Ending | None
    prompt_tokens: int
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    seed: int
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None

    @property
    def finish_reason(self) -> FinishReason | None:
        """`stop`: EOS, a stop token or string, or the constraint lets nothing follow; `length`:
        max_tokens or the context's end."""
        if self.ended_by in ("eos", "stop token", "stop string", "constraint"):
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
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step added to one text: it may be no text yet, where a character is not complete.

    `choice` counts the texts of a request from 0. The last piece carries the `result`, or the
    `error` that ended the text.
    """

    choice: int
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    result: GenerationResult | None = None
    error: Exception | None = None
