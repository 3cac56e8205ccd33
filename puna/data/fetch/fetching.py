"""Bring listed files to a folder: a few at a time, each resumed, checked and recorded.

What is not there (404, 410) is counted and the others go on; a file that comes wrong twice is told
at the end; any other failure stops all, and the same command goes on from there.
"""

from __future__ import annotations

import gzip
import queue
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from puna.console import Console, ProgressBar
from puna.data.fetch.ledger import Ledger
from puna.data.fetch.listing import Listed
from puna.download import (
    CHUNK_BYTES,
    OtherContent,
    Refused,
    download,
    measure,
    require_room_for_download,
)
from puna.errors import DataError
from puna.politeness import Manner, Stopped

GONE = (404, 410)
LEAVING_SECONDS = 2.0  # for what is under way when all is stopped
SAMPLE_BYTES = 8 << 20
SAMPLE_SECONDS = 5.0
SHOWN = 5


@dataclass
class Outcome:
    """What became of a list: files here before and fetched, and names of those that were not."""

    files: int = 0
    here: int = 0
    fetched: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)  # name -> what was wrong with it


@dataclass(frozen=True)
class _Came:
    """What a connection tells: a file and its hash, or why it did not come."""

    listed: Listed
    sha256: str = ""
    error: Exception | None = None


def fetch(
    files: Sequence[Listed],
    folder: Path,
    ledger: Ledger,
    connections: Connections,
    console: Console,
) -> Outcome:
    """Bring what is missing of `files`, and record it.

    Raises DataError when some came wrong twice, and the error that stopped all the others.
    """
    with _written(folder):
        ledger.begin()
        wanted = [one for one in files if not ledger.has(one)]
        outcome = Outcome(files=len(files), here=len(files) - len(wanted))
        require_room_for_download(folder, bytes_to_come(wanted, folder), connections.room_hint)
        label = f"{len(wanted):,} files"
        with (
            console.progress(bytes_of(wanted), label, "B") as bar,
            closing(connections.bring(wanted, folder, bar)) as arrivals,
        ):
            for came in arrivals:
                _note(came, outcome, ledger, folder)
    if outcome.missing:
        some = ", ".join(outcome.missing[:SHOWN])
        console.warn(f"{len(outcome.missing):,} of the listed files are not there: {some}")
    if outcome.wrong:
        name, what = next(iter(outcome.wrong.items()))
        raise DataError(
            f"{len(outcome.wrong):,} files came wrong twice; {name}: {what}",
            hint="they lie beside as NAME.wrong; ask a mirror (--mirror), or later",
        )
    return outcome


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """A block in which the folder is written; what the disk says against it is one error."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}",
            hint="make room or give another --out; the same command goes on",
        ) from None


def bytes_of(files: Sequence[Listed]) -> int | None:
    """The bytes of files whose lists tell them, or None where one does not."""
    sizes = [one.wanted.size for one in files if one.wanted.size is not None]
    return sum(sizes) if len(sizes) == len(files) else None


def bytes_to_come(files: Sequence[Listed], folder: Path) -> int:
    """The bytes that are told of files, less those of parts that are here."""
    parts = [folder / f"{one.name}.part" for one in files]
    here = sum(path.stat().st_size for path in parts if path.exists())
    return max(sum(one.wanted.size or 0 for one in files) - here, 0)


def estimate(files: Sequence[Listed]) -> tuple[int, float]:
    """About how many bytes files have, and the bytes a second at which the first one begins.

    Where the list gives no sizes, all are taken to be like the first.
    """
    rate, size = measure(files[0].wanted, SAMPLE_BYTES, SAMPLE_SECONDS)
    known = bytes_of(files)
    return known if known is not None else (size or 0) * len(files), rate


class Connections:
    """Threads that bring files; what they have brought or met comes back in one queue."""

    def __init__(self, manner: Manner, count: int) -> None:
        self._manner = manner
        self._count = count
        self._todo: queue.SimpleQueue[Listed] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[_Came | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    @property
    def room_hint(self) -> str:
        """What to do when the disk is full."""
        return self._manner.room_hint

    def bring(
        self, files: Iterable[Listed], folder: Path, bar: ProgressBar
    ) -> Generator[_Came, None, None]:
        """What becomes of each file, as it comes."""
        for one in files:
            self._todo.put(one)
        try:
            yield from self._results(folder, _Shared(bar))
        finally:
            self.stop()

    def _results(self, folder: Path, bar: ProgressBar) -> Iterator[_Came]:
        for _number in range(self._count):
            thread = threading.Thread(target=self._work, args=(folder, bar), daemon=True)
            self._threads.append(thread)
            thread.start()
        working = self._count
        while working:
            came = self._done.get()
            if came is None:
                working -= 1
            else:
                yield came

    def stop(self) -> None:
        """End all; parts stay, to be gone on with."""
        self._manner.stop()
        for thread in self._threads:
            thread.join(LEAVING_SECONDS)

    def _work(self, folder: Path, bar: ProgressBar) -> None:
        while True:
            try:
                listed = self._todo.get_nowait()
                self._done.put(_Came(listed, _bring(listed, folder, bar, self._manner)))
            except (queue.Empty, Stopped):
                self._done.put(None)
                return
            except Exception as error:
                if not _is_of_one_file(error):
                    self._manner.stop()
                self._done.put(_Came(listed, error=error))


class _Shared:
    """One bar that several threads move."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._lock = threading.Lock()
        self.n = 0.0

    def update(self, amount: float = 1) -> None:
        """Move it."""
        with self._lock:
            self.n += amount
            self._bar.update(amount)

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Say something beside it."""
        self._bar.set_postfix_str(text, refresh)


def _note(came: _Came, outcome: Outcome, ledger: Ledger, folder: Path) -> None:
    """Record what came; raise what has to stop all the others."""
    name, error = came.listed.name, came.error
    if error is None:
        ledger.add(came.listed, came.sha256)
        outcome.fetched += 1
        outcome.bytes += (folder / name).stat().st_size
    elif not _is_of_one_file(error):
        raise error
    elif isinstance(error, OtherContent):
        outcome.wrong[name] = error.message
    else:
        outcome.missing.append(name)


def _is_of_one_file(error: Exception) -> bool:
    """Whether an error tells of its file alone, so that the others may go on."""
    is_gone = isinstance(error, Refused) and error.status in GONE
    return is_gone or isinstance(error, OtherContent)


def _bring(listed: Listed, folder: Path, bar: ProgressBar, manner: Manner) -> str:
    """Bring one file, once more where it came wrong; its SHA-256."""
    path = folder / listed.name
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = replace(listed.wanted, is_set_aside=True)
    for attempt in (1, 2):
        try:
            sha256 = download(wanted, path, bar, manner)
            if listed.is_gzip:
                _require_whole_gzip(path)
            path.with_name(f"{path.name}.wrong").unlink(missing_ok=True)
            return sha256
        except OtherContent:
            if attempt == 2:
                raise
    raise AssertionError("unreachable: the second attempt returns or raises")


def _require_whole_gzip(path: Path) -> None:
    """Raise OtherContent for a file whose gzip is cut or fails its own checksums."""
    try:
        with gzip.open(path) as file:
            while file.read(CHUNK_BYTES):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        path.replace(path.with_name(f"{path.name}.wrong"))
        raise OtherContent(f"{path.name} should be a whole gzip file: {error}") from None
