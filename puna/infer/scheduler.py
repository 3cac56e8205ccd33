"""Which rows run in the next step: who is read, who goes on, who waits, who gives way."""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass
from operator import attrgetter

from puna.infer.backends.base import PAGE_POSITIONS, pages_for
from puna.infer.page_pool import PagePool
from puna.infer.sequence import Sequence

SHARED_ROWS = 4  # the part of a step for prompts, 1 / 4, while texts are written: they wait for it
SCORED_AT_ONCE = 1 << 24  # logits of one text's prompt in a step, 64 MiB of float32


@dataclass(frozen=True)
class Limits:
    """What bounds a step.

    `step_rows`: rows of one step; decoding sequences always get theirs, and a prompt at least a
    page: beside them up to a quarter of all (SHARED_ROWS), without them all. `running`: sequences
    under way at once. `unstretched_length`: how long a sequence may be before its length changes
    its rotary factors; `vocabulary_size`: the model's.
    """

    step_rows: int
    running: int
    unstretched_length: int
    vocabulary_size: int


@dataclass(frozen=True, slots=True)
class Work:
    """A sequence's part in a step: so many of its ids, and then the drafts."""

    sequence: Sequence
    rows: int
    drafts: list[int]


class Scheduler:
    """Sequences in the order of their arrival; all that run came before all that wait.

    When pages run out, the youngest gives its own away and is computed again later.
    """

    def __init__(self, pages: int, limits: Limits) -> None:
        self.pool = PagePool(pages)
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._arrivals = 0
        rows = SCORED_AT_ONCE // limits.vocabulary_size // PAGE_POSITIONS * PAGE_POSITIONS
        self._scored_rows = max(PAGE_POSITIONS, rows)

    def add(self, sequence: Sequence) -> None:
        """Have a new sequence wait for its turn."""
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self.waiting.append(sequence)

    def plan(self) -> list[Work]:
        """The next step's work; none only where no sequence is left."""
        self._admit()
        works = self._decode()
        rows = self.limits.step_rows // SHARED_ROWS if works else self.limits.step_rows
        left = rows - sum(work.rows + len(work.drafts) for work in works)
        works += self._read(max(left, PAGE_POSITIONS))
        return [work for work in works if work.sequence.is_running]  # some gave way meanwhile

    def settle(self, sequence: Sequence) -> None:
        """After a step: offer its full pages to others; where it is over, free them all."""
        shared = min(sequence.computed, self._shareable(sequence))
        while (sequence.known_pages + 1) * PAGE_POSITIONS <= shared:
            ids = _page_ids(sequence, sequence.known_pages)
            page = int(sequence.pages[sequence.known_pages])
            sequence.link = self.pool.prefixes.add(sequence.link, ids, page)
            sequence.known_pages += 1
        if sequence.is_over:
            self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Let go of a sequence that waits or runs, and of its pages."""
        (self.running if sequence.is_running else self.waiting).remove(sequence)
        sequence.is_running = False
        self._release(sequence)

    def _admit(self) -> None:
        """Let those that wait in, as long as there are pages for all that they hold so far."""
        while self.waiting and len(self.running) < self.limits.running:
            promised = sum(
                max(0, pages_for(len(one.ids) + 1) - one.page_count) for one in self.running
            )
            first = self.waiting[0]
            needed = pages_for(min(len(first.ids) + 1, first.prompt_tokens + first.limit))
            room = self.pool.available - promised
            if self.running and needed > room and needed - self._known_pages(first) > room:
                return
            first.count_queue()
            first.is_running = True
            insort(self.running, self.waiting.popleft(), key=attrgetter("arrival"))

    def _known_pages(self, sequence: Sequence) -> int:
        """How many pages of its beginning others use now, so that it needs none for them."""
        count, link = 0, sequence.link
        for number in range(self._adoptable(sequence)):
            known = self.pool.prefixes.find(link, _page_ids(sequence, number))
            if known is None:
                break
            count += not self.pool.is_unused(known.page)
            link = known.link
        return count

    def _decode(self) -> list[Work]:
        """The sequences that need one row more for their next token, with drafts where asked."""
        works = []
        for sequence in self.running:  # of which only later ones may give way meanwhile
            self._adopt(sequence)
            if sequence.remaining != 1 or not self._has_pages(sequence, sequence.computed + 1):
                continue
            drafts = []
            if sequence.params.draft_tokens:
                room = (sequence.page_count + self.pool.available) * PAGE_POSITIONS
                longest = min(room - sequence.computed, self._longest_chunk(sequence))
                drafts = sequence.drafts(longest - 1)
                self._has_pages(sequence, sequence.computed + 1 + len(drafts))
            works.append(Work(sequence, 1, drafts))
        return works

    def _read(self, left: int) -> list[Work]:
        """Prompts, and texts that gave way: half the rows for the oldest, then the shortest first.

        A page that is being filled with the same text for another sequence is waited for.
        """
        awaited = set()
        reading = []
        for sequence in self.running:
            if sequence.remaining == 1:
                continue
            key = self._next_page(sequence)
            if key is None or key not in awaited:
                reading.append(sequence)
                awaited.add(key)
        if not reading:
            return []
        oldest = reading[0]
        granted = {oldest: min(oldest.remaining, max(left // 2, PAGE_POSITIONS))}
        left -= granted[oldest]
        for sequence in sorted(reading[1:], key=attrgetter("remaining", "arrival")):
            if min(sequence.remaining, PAGE_POSITIONS) <= left:
                granted[sequence] = min(sequence.remaining, left)
                left -= granted[sequence]
        granted[oldest] += max(left, 0)
        works = [self._read_chunk(sequence, rows) for sequence, rows in granted.items()]
        return [work for work in works if work is not None]

    def _read_chunk(self, sequence: Sequence, rows: int) -> Work | None:
        """As many of its next rows as it is granted, in whole pages before the last one."""
        if not sequence.is_running:  # it gave way to an older one
            return None
        longest = self._longest_chunk(sequence)
        if sequence.prompt_tokens > self.limits.unstretched_length:
            rows = longest
        end = min(sequence.computed + min(rows, longest), len(sequence.ids))
        if end < len(sequence.ids) and end - end % PAGE_POSITIONS > sequence.computed:
            end -= end % PAGE_POSITIONS
        if end == sequence.computed or not self._has_pages(sequence, end):
            return None
        return Work(sequence, end - sequence.computed, [])

    def _longest_chunk(self, sequence: Sequence) -> int:
        """Rows that one step may run, so that its factors and the memory stay as they should.

        Where the length changes the factors, a prompt that is too long for the original ones is
        read at once; what was generated beyond them came one by one, and so it does again.
        """
        computed, unstretched = sequence.computed, self.limits.unstretched_length
        if sequence.prompt_tokens > unstretched:
            return sequence.prompt_tokens if not computed else 1
        longest = max(1, unstretched - computed)
        return min(longest, self._scored_rows) if sequence.must_score_prompt else longest

    def _shareable(self, sequence: Sequence) -> int:
        """Positions whose keys do not hang on the length of the sequence."""
        unstretched = self.limits.unstretched_length
        return unstretched if sequence.prompt_tokens <= unstretched else 0

    def _adoptable(self, sequence: Sequence) -> int:
        """Pages that may come from others: the last id has to be run, for its logits."""
        if sequence.needs_all_rows:
            return 0
        return min(len(sequence.ids) - 1, self._shareable(sequence)) // PAGE_POSITIONS

    def _next_page(self, sequence: Sequence) -> tuple[int, tuple[int, ...]] | None:
        """What its next page will hold, if others could use it: the link before it, and the ids."""
        number = sequence.page_count
        if sequence.computed != number * PAGE_POSITIONS or number >= self._adoptable(sequence):
            return None
        return sequence.link, tuple(_page_ids(sequence, number))

    def _adopt(self, sequence: Sequence) -> None:
        """Go on behind all the pages that others have filled with its next ids."""
        while (key := self._next_page(sequence)) is not None:
            known = self.pool.prefixes.find(*key)
            if known is None:
                return
            self.pool.share(known.page)
            sequence.adopt(known.page, known.link)

    def _has_pages(self, sequence: Sequence, end: int) -> bool:
        """Take pages for all positions below `end`, from those that came later if need be."""
        while sequence.page_count < pages_for(end):
            if not self.pool.available and not self._make_room(sequence):
                return False
            sequence.take_page(self.pool.take())
        return True

    def _make_room(self, sequence: Sequence) -> bool:
        """Have the youngest of those that came after `sequence` and hold pages give way."""
        for youngest in reversed(self.running):
            if youngest is sequence:
                return False
            if youngest.page_count:
                self.remove(youngest)
                insort(self.waiting, youngest, key=attrgetter("arrival"))
                self.preemptions += 1
                return True
        return False

    def _release(self, sequence: Sequence) -> None:
        for page in reversed(sequence.drop_pages()):
            self.pool.release(page)


def _page_ids(sequence: Sequence, number: int) -> list[int]:
    return sequence.ids[number * PAGE_POSITIONS : (number + 1) * PAGE_POSITIONS]
