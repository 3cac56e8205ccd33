"""metrics.jsonl: what happened in a run, one JSON line an event, only ever appended to.

The same dataclasses are written and read. A resumed run goes on in the same file: its `resume`
line takes the run back to a step, so that what an interrupted process wrote after it is dropped,
and the last line of a step counts.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import typing
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, TypeVar

from puna import schema
from puna.console import Console
from puna.errors import SchemaError, TrainingError, missing_package

KIND = "puna.metrics"


@dataclass(frozen=True, kw_only=True)
class Session:
    """One process's part of the run: `start` at step 0, `resume` after a later one."""

    time: float  # Unix seconds
    recipe: dict[str, Any]
    parameters: int
    flops_per_token: float
    device: str
    device_name: str
    threads: int
    precision: str
    compiled: bool
    attention: str
    train_tokens_per_epoch: int
    step: int = 0  # the last step that is kept; the session's first step is the next one
    peak_tflops: float | None = None
    peak_source: str | None = None
    command: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    corpus: dict[str, Any] = field(default_factory=dict)  # documents, text_bytes, licences, sources


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step. `elapsed_seconds` and `core_seconds` count from the start of the run and
    go on from the checkpoint's values after a resume. A value that was not finite is None."""

    step: int
    tokens: int  # seen since the run began
    epoch: float
    loss: float | None  # nats a token
    learning_rate: float
    gradient_norm: float | None  # before clipping
    seconds: float
    tokens_per_second: float
    memory_bytes: int
    elapsed_seconds: float
    core_seconds: float
    mfu: float | None = None  # share of the device's peak, 0 to 1


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The model on text it does not train on."""

    step: int
    tokens: int
    loss: float | None  # nats a token
    bits_per_byte: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the model wrote after `prompt`."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint folder, relative to the run's."""

    step: int
    path: str
    seconds: float
    bytes: int
    best: bool


@dataclass(frozen=True, kw_only=True)
class End:
    """How a process left the run: `reason` is "finished" or says what stopped it."""

    step: int
    tokens: int
    elapsed_seconds: float
    core_seconds: float
    reason: str


Record = TypeVar("Record", Step, Validation, Sample, Checkpoint)
Event = Session | Step | Validation | Sample | Checkpoint | End

KINDS: dict[str, type[Event]] = {
    "start": Session,
    "resume": Session,
    "step": Step,
    "validation": Validation,
    "sample": Sample,
    "checkpoint": Checkpoint,
    "end": End,
}


@dataclass(frozen=True)
class RunMetrics:
    """A whole run, in step order, with what a resume took back left out."""

    sessions: list[Session]
    steps: list[Step]
    validations: list[Validation]
    samples: list[Sample]
    checkpoints: list[Checkpoint]
    end: End | None  # None while it runs, and after a process that was killed
    repeated_steps: int  # done again after a resume
    repeated_core_seconds: float  # what those cost; not part of the last step's core_seconds

    @property
    def session(self) -> Session:
        """The facts of the latest process."""
        return self.sessions[-1]

    @property
    def core_seconds(self) -> float:
        """What the run cost so far, with steps that had to be repeated."""
        last = self.end or (self.steps[-1] if self.steps else None)
        return (last.core_seconds if last else 0.0) + self.repeated_core_seconds

    @property
    def elapsed_seconds(self) -> float:
        """Seconds of training, validation and sampling so far, without repeated steps."""
        last = self.end or (self.steps[-1] if self.steps else None)
        return last.elapsed_seconds if last else 0.0


class MetricsWriter:
    """Appends events to `path`, each one whole line that other processes see when `write` returns.

    A half line that a killed process left at the end is cut off first. With `tensorboard`, numbers
    also go to a `tensorboard` folder beside the file.

    Raises TrainingError when the disk is full, SchemaError when the file is not ours or newer,
    MachineError when TensorBoard is wanted and missing.
    """

    def __init__(self, path: Path, console: Console, *, tensorboard: bool = False) -> None:
        self.path = path
        self._board = _tensorboard(path.parent / "tensorboard") if tensorboard else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_bytes = _mend(path)
            # Unbuffered: a failed write must not be tried again when the file is closed.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise _cannot_write(path, error) from None
        if cut_bytes:
            console.say(f"{path.name}: cut off a half-written last line ({cut_bytes} bytes)")

    def write(self, event: Event) -> None:
        """Append one event; a number that is not finite is written as null."""
        line = (json.dumps(_record(event), ensure_ascii=False) + "\n").encode("utf-8")
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        if self._board is not None:
            _to_tensorboard(self._board, event)

    def close(self) -> None:
        """Close the file; a second close does nothing."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path) -> RunMetrics:
    """The run that `path` tells of; a truncated last line is passed over.

    Raises SchemaError for a missing file, a newer schema, or a broken line (with its number).
    """
    sessions: list[Session] = []
    kept: dict[type, dict[tuple[int, int], Any]] = {kind: {} for kind in KINDS.values()}
    samples_at: Counter[int] = Counter()
    end: End | None = None
    repeated_steps, repeated_core_seconds = 0, 0.0
    for event in _events(path):
        if isinstance(event, Session):
            steps = [step for (number, _), step in kept[Step].items() if number > event.step]
            before = kept[Step].get((event.step, 0))
            if steps:
                repeated_steps += len(steps)
                repeated_core_seconds += max(step.core_seconds for step in steps)
                repeated_core_seconds -= before.core_seconds if before else 0.0
            for kind, events in kept.items():
                kept[kind] = {key: old for key, old in events.items() if key[0] <= event.step}
            sessions.append(event)
            samples_at.clear()
            end = None
        elif isinstance(event, End):
            end = event
        else:
            nth = 0
            if isinstance(event, Sample):  # a step may have several, told apart by their order
                nth = samples_at[event.step]
                samples_at[event.step] += 1
            kept[type(event)][event.step, nth] = event

    def in_order(kind: type[Record]) -> list[Record]:
        return [event for _, event in sorted(kept[kind].items())]

    return RunMetrics(
        sessions=sessions,
        steps=in_order(Step),
        validations=in_order(Validation),
        samples=in_order(Sample),
        checkpoints=in_order(Checkpoint),
        end=end,
        repeated_steps=repeated_steps,
        repeated_core_seconds=repeated_core_seconds,
    )


def _events(path: Path) -> Iterator[Event]:
    """Each line's event; the first must be a `start` of a schema understood here."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise SchemaError(
            f"{path} should be a {KIND} file, found nothing there",
            hint="give the folder of a run: the one that `puna train` wrote",
        ) from None
    except OSError as error:
        raise SchemaError(f"{path} should be a {KIND} file, but cannot be read: {error}") from None
    is_first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # no line break follows: the process died while writing it
                continue
            raise SchemaError(
                f"{where} should be one JSON object, found {_shortened(line)} ({error})",
                hint="the file was changed or damaged; remove that line to read the rest",
            ) from None
        if is_first or (isinstance(record, dict) and "schema" in record):
            schema.check(record, KIND, where)
            is_first = False
        yield _event(record, where)
    if is_first:
        raise SchemaError(
            f"{path} should begin with a start line, found no whole line",
            hint="the run has just begun, or was stopped before its first step",
        )


def _event(record: Any, where: str) -> Event:
    """The dataclass a line stands for, its fields checked; fields not known here are left out."""
    name = record.get("event") if isinstance(record, dict) else None
    if name not in KINDS:
        raise SchemaError(f"{where}: event should be one of {', '.join(KINDS)}, found {name!r}")
    values: dict[str, Any] = {}
    for key, (accepted, is_required) in _FIELDS[KINDS[name]].items():
        if key not in record:
            if is_required:
                raise SchemaError(f"{where}: a {name} line should have {key}, found none")
            continue
        value = record[key]
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            wanted = " or ".join(kind.__name__.replace("NoneType", "null") for kind in accepted)
            raise SchemaError(f"{where}: {key} should be {wanted}, found {_shortened(value)}")
        values[key] = value
    return KINDS[name](**values)


def _fields(kind: type) -> dict[str, tuple[tuple[type, ...], bool]]:
    """For each field of an event: the JSON types it may have, and whether it must be there."""
    hints = typing.get_type_hints(kind)
    result = {}
    for entry in dataclasses.fields(kind):
        hint = hints[entry.name]
        options = [typing.get_origin(option) or option for option in typing.get_args(hint)]
        if NoneType not in options:  # a plain type, or dict[str, Any]
            options = [typing.get_origin(hint) or hint]
        if float in options:
            options.insert(0, int)
        has_default = (
            entry.default is not dataclasses.MISSING
            or entry.default_factory is not dataclasses.MISSING
        )
        result[entry.name] = (tuple(options), not has_default)
    return result


_FIELDS = {kind: _fields(kind) for kind in set(KINDS.values())}


def _record(event: Event) -> dict[str, Any]:
    """The JSON object of an event: its name first, a session with the schema stamp."""
    names = [name for name, kind in KINDS.items() if kind is type(event)]
    values = _finite(dataclasses.asdict(event))
    if isinstance(event, Session):
        return {"event": names[event.step > 0], **schema.stamp(KIND), **values}
    return {"event": names[0], **values}


def _finite(value: Any) -> Any:
    """`value` with NaN and infinity, which JSON does not have, as None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _mend(path: Path) -> int:
    """Make `path` end with a whole line; returns the bytes of half a line that were cut off."""
    if not path.is_file() or path.stat().st_size == 0:
        return 0
    with path.open("rb+") as file:
        first = file.readline()
        if first.endswith(b"\n"):
            schema.check(_parsed(first), KIND, path)
        last = (first, *deque(file, maxlen=1))[-1]
        if last.endswith(b"\n"):
            return 0
        if _parsed(last) is not None:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
            return 0
        file.truncate(file.seek(0, os.SEEK_END) - len(last))
        return len(last)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _cannot_write(path: Path, error: OSError) -> TrainingError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return TrainingError(
        f"{path} could not be written: {'the disk is full' if full else error.strerror}",
        hint="the checkpoints written so far are good: make room (or permission) and run the "
        "command again to resume",
    )


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer. Raises MachineError when the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_package("tensorboard", "tensorboard", "TensorBoard logging") from None
    writer: Any = SummaryWriter
    return writer(str(folder))


def _to_tensorboard(board: Any, event: Event) -> None:
    """An event's numbers as scalars under `step/` or `validation/`, a sample as text."""
    if isinstance(event, Sample):
        board.add_text(f"sample/{event.prompt}", event.text, event.step)
    elif isinstance(event, Step | Validation):
        for name, value in dataclasses.asdict(event).items():
            if name != "step" and value is not None and math.isfinite(value):
                board.add_scalar(f"{type(event).__name__.lower()}/{name}", value, event.step)
