"""One text under way: its ids, the pages they fill, how its tokens are chosen, what it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.infer.backends.base import PAGE_POSITIONS, Chunk, pages_for
from puna.infer.embedding import StateMean
from puna.infer.logprobs import TokenLogprob, token_logprob
from puna.infer.prefix_cache import BEGINNING
from puna.infer.result import Ending, GenerationResult, Piece
from puna.infer.sampler import TokenCounts, draw_for, next_token, uniform
from puna.infer.sampling_params import SamplingParams
from puna.infer.speculative import NgramDrafts
from puna.infer.stop import StopStrings
from puna.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from puna.infer.grammar import Grammar

Listener = Callable[[Piece], None]


@dataclass(frozen=True)
class Request:
    """A checked prompt and what to do with it; `limit` is how many tokens there is room for.

    `grammar` is what the params' constraint became; with `wants_mean` the states are averaged.
    """

    prompt_ids: ListLike[int]
    params: SamplingParams
    seed: int
    limit: int
    listener: Listener | None = None
    grammar: Grammar | None = None
    wants_mean: bool = False


class Sequence:
    """The text `choice` of a request. The scheduler moves it, the core hands it its logits.

    `computed` positions have their keys and values in `pages`; the ids beyond are to be run.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer, choice: int = 0) -> None:
        self.params = request.params
        self.choice = choice
        self.arrival = 0  # in the order of arrival, from the scheduler
        self.seed = request.seed
        self.ids = list(request.prompt_ids)
        self.prompt_tokens = len(self.ids)
        self.limit = request.limit
        self.computed = self.cached_tokens = 0
        self.pages = np.zeros(pages_for(self.prompt_tokens + self.limit), dtype=np.int32)
        self.page_count = 0
        self.known_pages = 0  # of them, those that the prefix cache was told of
        self.link = BEGINNING
        self._gave_way = False
        self.is_running = False  # as the scheduler says
        self.ended_by: Ending | None = None
        self.error: Exception | None = None
        self.is_cancelled = False
        self.generated_tokens = 0
        self.queue_seconds = self.prefill_seconds = self.decode_seconds = 0.0
        self._is_read = False  # whether the first token is there
        self._arrived = time.perf_counter()
        self._listener = request.listener
        self._vocabulary_size = tokenizer.vocabulary_size
        self._counts = TokenCounts(self.ids if self.params.has_penalties else ())
        self._drafts = (
            NgramDrafts(self.ids, self.params.shortest_ngram, self.params.longest_ngram)
            if self.params.draft_tokens
            else None
        )
        self._stops = StopStrings(self.params.stop)
        self._decoder = tokenizer.stream()
        for token in self.ids:  # so that the first piece keeps the space before it
            self._decoder.push(token)
        self._ends = frozenset() if self.params.ignore_eos else tokenizer.stop_ids
        self._grammar = (
            request.grammar.text(self._ends.union(self.params.stop_ids))
            if request.grammar is not None
            else None
        )
        self.mean = StateMean() if request.wants_mean else None
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._said = (0, self.prompt_tokens, 0)  # texts, ids, logprobs of earlier pieces
        self.prompt_logprobs: list[TokenLogprob | None] = [None]
        # Of several texts of a request the first alone does it.
        self._scores_prompt = choice == 0 and self.params.prompt_logprobs is not None

    @property
    def remaining(self) -> int:
        """Ids to be run before the next token can be chosen."""
        return len(self.ids) - self.computed

    @property
    def is_over(self) -> bool:
        """Whether no token will follow."""
        return self.ended_by is not None or self.error is not None

    @property
    def must_score_prompt(self) -> bool:
        """Whether log-probabilities of prompt tokens are still to be taken."""
        return self._scores_prompt and len(self.prompt_logprobs) < self.prompt_tokens

    @property
    def needs_all_rows(self) -> bool:
        """Whether every id has to be run here, also where others have computed its page."""
        return self.must_score_prompt or self.mean is not None

    def drafts(self, most: int) -> list[int]:
        """Guesses of the tokens after the next one, at most so many."""
        most = min(most, self.params.draft_tokens, self.limit - self.generated_tokens - 1)
        return self._drafts.propose(most) if self._drafts is not None and most > 0 else []

    def take_page(self, page: int) -> None:
        """Have one page more to fill."""
        self.pages[self.page_count] = page
        self.page_count += 1

    def adopt(self, page: int, link: int) -> None:
        """Go on behind a page that holds the next ids already."""
        self.take_page(page)
        self.link = link
        self.known_pages += 1
        self.computed += PAGE_POSITIONS
        if not self._gave_way:
            self.cached_tokens += PAGE_POSITIONS

    def drop_pages(self) -> list[int]:
        """The pages, which are given away: all ids are to be run again."""
        pages: list[int] = self.pages[: self.page_count].tolist()
        self.page_count = self.known_pages = self.computed = 0
        self.link = BEGINNING
        self._gave_way = True
        return pages

    def chunk(self, rows: int, drafts: ListLike[int]) -> Chunk:
        """The next `rows` ids and then the drafts, with the logits that `advance` needs."""
        start, end = self.computed, self.computed + rows
        wanted = 1 + len(drafts) if end == len(self.ids) and self.limit else 0
        draws = []
        if self.needs_all_rows:
            wanted = rows
        elif not self.params.needs_logits:
            draws = [
                draw_for(self.params, self._vocabulary_size, self._point(self.generated_tokens + i))
                for i in range(wanted)
            ]
        new = np.array([*self.ids[start:end], *drafts], dtype=np.int64)
        return Chunk(self.pages[: pages_for(start + len(new))], start, new, wanted, draws)

    def advance(self, rows: int, drafts: ListLike[int], output: Any) -> None:
        """Take what a step gave for the chunk, for each wanted row: the id drawn or logits
        [vocabulary], or a state [dim] where it has a `mean`.

        Raises CheckpointError where the logits are not finite, ConfigError where the constraint
        cannot be kept to.
        """
        self.computed += rows
        if self.mean is not None:
            self.mean.add(self.computed - rows, output)
        elif self.must_score_prompt:
            self._score_prompt(self.computed - rows, output)
        if self.remaining or self.is_cancelled:
            return
        if not self.limit:
            self.ended_by = "max tokens"
            return
        for row, draft in enumerate([*drafts, -1], len(output) - 1 - len(drafts)):
            token = self._choose(output[row])
            self._append(token, output[row])
            if self.is_over or token != draft:
                break
            self.computed += 1

    def count_seconds(self, seconds: float) -> None:
        """Count the time of a step with a part in it."""
        if self._is_read:
            self.decode_seconds += seconds
        else:
            self.prefill_seconds += seconds
            self._is_read = self.generated_tokens > 0

    def count_queue(self) -> None:
        """The first step begins."""
        if not self.prefill_seconds:
            self.queue_seconds = time.perf_counter() - self._arrived

    def tell(self) -> None:
        """Tell the listener what is new, if anything is."""
        texts, ids, logprobs = self._said
        if self._listener is None or (len(self.ids) == ids and not self.is_over):
            return
        self._said = (len(self._texts), len(self.ids), len(self._logprobs))
        self._listener(
            Piece(
                choice=self.choice,
                text="".join(self._texts[texts:]),
                ids=tuple(self.ids[ids:]),
                logprobs=tuple(self._logprobs[logprobs:]),
                result=self.result if self.ended_by is not None else None,
                error=self.error,
            )
        )

    @property
    def result(self) -> GenerationResult:
        """Text, counts and times so far."""
        params = self.params
        return GenerationResult(
            text="".join(self._texts),
            ended_by=self.ended_by,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
            seed=self.seed,
            cached_tokens=self.cached_tokens,
            queue_seconds=self.queue_seconds,
            ids=tuple(self.ids[self.prompt_tokens :]),
            logprobs=tuple(self._logprobs) if params.logprobs is not None else None,
            prompt_logprobs=(
                tuple(self.prompt_logprobs) if params.prompt_logprobs is not None else None
            ),
        )

    def _choose(self, output: Any) -> int:
        """The next token: chosen by the backend, or drawn from logits [vocabulary]."""
        if isinstance(output, int):
            return output
        # A model's vocabulary may be padded beyond the tokenizer's pieces.
        logits = output[: self._vocabulary_size]
        if self._grammar is not None:
            logits = self._grammar.masked(logits)
        point = self._point(self.generated_tokens)
        return next_token(logits, self.params, self._counts, point)

    def _point(self, index: int) -> float:
        """The random number for generated token `index`; 0 where none is drawn."""
        return uniform(self.seed, index, self.choice) if self.params.temperature else 0.0

    def _append(self, token: int, output: Any) -> None:
        """One more token of the text, or the end of it."""
        params = self.params
        self.generated_tokens += 1
        if token in self._ends:
            return self._end("eos")
        if token in params.stop_ids:
            return self._end("stop token")
        self.ids.append(token)
        if params.has_penalties:
            self._counts.add(token)
        if self._drafts is not None:
            self._drafts.extend([token])
        if params.logprobs is not None:
            self._logprobs.append(token_logprob(output, token, params.logprobs))
        self._texts.append(self._stops.push(self._decoder.push(token)))
        if self._grammar is not None:
            self._grammar.take(token)
        if self._stops.found is not None:
            self.ended_by = "stop string"
        elif self._grammar is not None and self._grammar.is_complete:
            self._end("constraint")
        elif self.generated_tokens == self.limit:
            self._end("max tokens" if self.limit == params.max_tokens else "context end")

    def _end(self, ending: Ending) -> None:
        self._texts.append(self._stops.push(self._decoder.flush()) + self._stops.flush())
        self.ended_by = ending if self._stops.found is None else "stop string"

    def _score_prompt(self, start: int, output: Any) -> None:
        alternatives = self.params.prompt_logprobs or 0
        for position, logits in enumerate(output, start + 1):
            if position == len(self.prompt_logprobs) < self.prompt_tokens:
                token = self.ids[position]
                self.prompt_logprobs.append(token_logprob(logits, token, alternatives))
