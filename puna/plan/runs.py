"""What a scaling law is fitted to: finished runs as (parameters, tokens, loss)."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from puna import schema
from puna.config import from_table
from puna.errors import DataError, PunaError, SchemaError
from puna.model.sizes import ModelConfig
from puna.plan.law import Counts, FloatArray, Span

CHINCHILLA = Path(__file__).with_name("chinchilla_figure4.csv")
CHINCHILLA_OUTLIERS = 5  # those of the fewest tokens a parameter, left out as in arXiv 2404.10102
METRICS = "puna.metrics"
FORMS = "give folders of runs, their metrics.jsonl, or a .csv with parameters, tokens and loss"


class Run(NamedTuple):
    """One finished run: parameters, tokens seen, held-out loss in nats a token."""

    name: str
    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Runs:
    """Runs to fit one law to; `counts` says which parameters are counted, `notes` what was left
    out or is doubtful."""

    runs: tuple[Run, ...]
    counts: Counts = "all"
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> FloatArray:
        """Parameters of each run [runs]."""
        return np.array([run.parameters for run in self.runs], dtype=np.float64)

    @property
    def tokens(self) -> FloatArray:
        """Tokens of each run [runs]."""
        return np.array([run.tokens for run in self.runs], dtype=np.float64)

    @property
    def loss(self) -> FloatArray:
        """Nats a token of each run [runs]."""
        return np.array([run.loss for run in self.runs], dtype=np.float64)

    @property
    def span(self) -> Span:
        """The lowest and highest parameters, tokens and tokens a parameter."""
        each = (self.parameters, self.tokens, self.tokens / self.parameters)
        return Span(*((float(values.min()), float(values.max())) for values in each))


def chinchilla() -> Runs:
    """The 240 runs of Chinchilla's figure 4 that the Epoch replication fits (arXiv 2404.10102)."""
    runs = sorted(_csv_runs(CHINCHILLA), key=lambda run: run.tokens / run.parameters)
    return Runs(tuple(runs[CHINCHILLA_OUTLIERS:]))


def read_runs(paths: Sequence[Path], counts: Counts = "all") -> Runs:
    """The runs that `paths` hold: folders of runs, metrics.jsonl files, .csv tables.

    A run counts with its last held-out loss. An unfinished one is left out, with a note: its
    learning rate has not come down, so its loss is not what so many tokens give.
    Raises DataError or SchemaError for what is none of these.
    """
    runs: list[Run] = []
    notes: list[str] = []
    for path in paths:
        if path.suffix == ".csv":
            runs += _csv_runs(path)
            continue
        file = path / "metrics.jsonl" if path.is_dir() else path
        run, told = _trained_run(file, counts)
        runs += [run] if run else []
        notes += told
    return Runs(tuple(runs), counts, tuple(notes))


def _csv_runs(path: Path) -> list[Run]:
    """The rows of a table: parameters, loss, and tokens or flops = 6 parameters tokens."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(line for line in file if not line.startswith("#"))
            columns = [name.strip() for name in rows.fieldnames or ()]
            rows.fieldnames = columns
            if not {"parameters", "loss"} <= {*columns} or not {"tokens", "flops"} & {*columns}:
                raise DataError(
                    f"{path} should have the columns parameters, loss, and tokens or flops, "
                    f"found {', '.join(columns)[:80] or 'none'}"
                )
            return [_csv_run(row, f"{path} row {number}") for number, row in enumerate(rows, 1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} should be a table of runs: {error}", hint=FORMS) from None


def _csv_run(row: dict[str, Any], where: str) -> Run:
    """One row as a run. Raises DataError for what is no number above 0."""
    values = {}
    for name in ("parameters", "loss", "tokens" if "tokens" in row else "flops"):
        try:
            values[name] = float(row[name])
        except (TypeError, ValueError):
            values[name] = math.nan
        if not 0 < values[name] < math.inf:
            raise DataError(f"{where}: {name} should be a number above 0, found {row[name]!r:.40}")
    parameters = values["parameters"]
    tokens = values.get("tokens") or values["flops"] / 6 / parameters
    return Run(row.get("name") or where[where.rindex("row") :], parameters, tokens, values["loss"])


def _trained_run(path: Path, counts: Counts) -> tuple[Run | None, list[str]]:
    """What a run of `puna train` came to, None for an unfinished one, and notes about it."""
    name = path.parent.name or str(path)
    session: dict[str, Any] = {}
    losses: dict[int, tuple[float, float]] = {}  # step -> tokens, loss
    epoch, reason = 0.0, "killed"
    try:
        for record in _events(path):
            event = record["event"]
            if event in ("start", "resume"):
                session, reason = record, "killed"
                losses = {step: seen for step, seen in losses.items() if step <= record["step"]}
            elif event == "validation" and record["loss"] is not None:
                losses[record["step"]] = record["tokens"], record["loss"]
            elif event == "step":
                epoch = record["epoch"]
            elif event == "end":
                reason = record["reason"]
        if reason != "finished":
            return None, [f"{name} is left out: not finished ({reason})"]
        if not losses:
            return None, [f"{name} is left out: it has no held-out loss"]
        tokens, loss = losses[max(losses)]
        parameters = _parameters(session, counts, path)
    except (KeyError, TypeError) as error:
        raise SchemaError(f"{path} should be a {METRICS} file, a line lacks {error}") from None
    told = [f"{name} saw its text {epoch:.1f} times: repeated tokens teach less"]
    return Run(name, parameters, tokens, loss), told if epoch > 1.01 else []


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl; the last line may be cut off."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} should hold a run: {error.strerror}", hint=FORMS) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines) > 1:
                return
            raise SchemaError(f"{path} line {number} should be one JSON object") from None
        if number == 1 or (isinstance(record, dict) and "schema" in record):
            schema.check(record, METRICS, path)
        yield record


def _parameters(session: dict[str, Any], counts: Counts, path: Path) -> float:
    """All parameters of the run's model, or those beside its embedding tables."""
    if counts == "all":
        return float(session["parameters"])
    try:
        config = from_table(ModelConfig, session["recipe"]["model"], str(path))
    except PunaError as error:
        raise SchemaError(f"{path}: its recipe's model cannot be read: {error.message}") from None
    return float(session["parameters"] - embedding_parameters(config))


def embedding_parameters(config: ModelConfig) -> int:
    """Weights of the embedding table, and of the output's where that is another one."""
    tables = 1 if config.tied_embeddings else 2
    return tables * config.vocabulary_size * config.dim
