"""What Puna says to people: talk and progress go to stderr, data to stdout, `--json` everywhere."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TextIO

from puna.errors import UsageError

Progress = Callable[[str, float, float], object]  # a stage, what is done of it, the whole

SHORT_SECONDS = 1.5  # a stage that takes longer gets a bar, which shows itself 0.5 s later
SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}  # of counts
COUNT = re.compile(r"\$?\s*(\d+(?:\.\d+)?(?:[eE]\+?\d{1,2})?)\s*([kKmMbBtT]?)")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


class ProgressBar(Protocol):
    """What a long job needs from a progress bar; `n` is how far it is."""

    n: float

    def update(self, amount: float = 1) -> Any: ...

    def set_postfix_str(self, text: str, refresh: bool = True) -> Any: ...


class Console:
    """Where talk (stderr) and data (stdout) go; made once by the command, passed down.

    `quiet` keeps talk and bars back; `json_output` makes `result` print one JSON record
    instead of a text for people.
    """

    def __init__(
        self,
        *,
        json_output: bool = False,
        quiet: bool = False,
        color: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.json_output = json_output
        self.quiet = quiet
        self.color = color
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr

    def say(self, text: str = "") -> None:
        """Talk to the person at the terminal (stderr)."""
        if not self.quiet:
            print(text, file=self.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Say what is not as asked (a slower path, a smaller batch); never kept back by `quiet`."""
        print(self.paint(f"warning: {text}", "33"), file=self.stderr, flush=True)

    def heading(self, text: str) -> None:
        """A line that starts a stage of a longer job."""
        self.say(self.paint(text, "1"))

    def write(self, text: str, *, end: str = "\n") -> None:
        """Data for stdout: text that a pipe may read."""
        print(text, file=self.stdout, end=end, flush=True)

    def write_piece(self, text: str) -> None:
        """A piece of what a model says (stdout), as it is; on a terminal, made harmless."""
        is_terminal = bool(getattr(self.stdout, "isatty", lambda: False)())
        self.write(harmless(text) if is_terminal else text, end="")

    def result(self, record: dict[str, Any], text: str) -> None:
        """The outcome of a verb: `record` as one JSON line with `--json`, else `text`."""
        self.write(json.dumps(record, ensure_ascii=False) if self.json_output else text)

    def paint(self, text: str, code: str) -> str:
        """`text` in an ANSI colour where colours are on; the meaning never hangs on it."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    @contextmanager
    def progress(
        self, total: float | None, label: str, unit: str, *, initial: float = 0
    ) -> Iterator[ProgressBar]:
        """A bar with rate and ETA (tqdm); in a log it prints a line every ten seconds."""
        from tqdm import tqdm

        is_terminal = bool(getattr(self.stderr, "isatty", lambda: False)())
        bar = tqdm(
            total=total,
            initial=initial,
            desc=label,
            unit=unit,
            unit_scale=True,
            file=self.stderr,
            disable=self.quiet,
            dynamic_ncols=is_terminal,
            ncols=None if is_terminal else 80,
            mininterval=0.2 if is_terminal else 10.0,
            delay=0.5,
        )
        try:
            yield bar
        finally:
            bar.close()

    @contextmanager
    def stages(self, unit: str) -> Iterator[Progress]:
        """What a job of stages tells how far it is; each that is not short has a bar."""
        began: dict[str, float] = {}
        bars: dict[str, ProgressBar] = {}
        with ExitStack() as shown:

            def tell(stage: str, done: float, total: float) -> None:
                if stage not in began:
                    shown.close()
                    began[stage] = time.perf_counter()
                if stage in bars:
                    bars[stage].update(done - bars[stage].n)
                elif done < total and time.perf_counter() - began[stage] > SHORT_SECONDS:
                    bar = self.progress(total, stage, unit, initial=done)
                    bars[stage] = shown.enter_context(bar)

            yield tell


def untold(_stage: str, _done: float, _total: float) -> None:
    """The Progress of a job that nobody watches."""


def silent() -> Console:
    """A console that keeps talk back: for library use and tests."""
    return Console(quiet=True)


def harmless(text: str) -> str:
    """`text` with control characters, which could move a cursor or set a colour, as escapes."""
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as plain text: first left, the others right, wide enough for their cells."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]

    def line(values: Sequence[str]) -> str:
        first = values[0].ljust(widths[0])
        rest = [value.rjust(width) for value, width in zip(values[1:], widths[1:], strict=True)]
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *map(line, cells)])


def human_count(value: float) -> str:
    """A count in three digits: 950, 12.3k, 6.74B; more only beyond 1,000T."""
    for suffix in ("T", "B", "M", "k"):
        limit = SUFFIXES[suffix.lower()]
        if abs(value) >= limit * 999.5:
            return f"{value / limit:,.0f}{suffix}"
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def parse_count(text: str) -> float:
    """The number in 13B, 1.4T, 500k, $2M or 3e9: what `human_count` writes, and more.

    Raises UsageError for anything else, and for what is not finite or below 0.
    """
    found = COUNT.fullmatch(text)
    if found is None:
        raise UsageError(f"expected a count such as 500k, 13B or 1.4T, got {text[:40]!r}")
    return float(found[1]) * SUFFIXES[found[2].lower()]


def human_bytes(value: float) -> str:
    """Bytes in binary units: 812 B, 1.5 MiB."""
    for suffix in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or suffix == "TiB":
            return f"{value:.0f} B" if suffix == "B" else f"{value:.1f} {suffix}"
        value /= 1024
    raise AssertionError("unreachable: TiB always returns")


def human_scaled(value: float, units: Sequence[str]) -> str:
    """A value in three digits, in the unit of these (each 1,000 of the one before) that suits."""
    for unit in units:
        if abs(value) < 999.5 or unit == units[-1]:
            return f"{human_count(value)} {unit}"
        value /= 1000
    raise AssertionError("unreachable: the last unit always returns")


def human_duration(seconds: float) -> str:
    """A duration people read: 0.35 s, 42 s, 5 min 03 s, 3 h 20 min, 21 days, 7.4 years."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400 * 2:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    years = seconds / (365.25 * 86400)
    return f"{seconds / 86400:.3g} days" if years < 2 else f"{human_count(years)} years"
