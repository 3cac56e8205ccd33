"""The sweep: a ladder of small models, the scaling law they follow, and a prediction put to a test.

  timing/          the smallest and the largest shape for a few steps, from which time is estimated
  runs/NAME/       one run of the trainer each, with result.json once it is finished
  law.json         the fitted law: `puna plan ask --law` takes it
  prediction.json  what the law says of the target; written before the target's first step
  target/          the target's run
  sweep.json       all of it together
Every run has a cosine of its own. Branches from one long run at a constant rate (Hägele et al.
2024) would read half the tokens, but thirty runs of so small models take an hour, and each is
plain `puna train`, resumed as that is.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from puna import config as recipes
from puna import hardware, schema
from puna.console import Console, human_count, human_duration, silent
from puna.data.build.local import LocalProcesses
from puna.data.build.task import Task, digest_of
from puna.errors import DataError, TrainingError, missing_package
from puna.model import count
from puna.plan import law as laws
from puna.plan.fit import DRAWS, LEAST_VALUES, Fitted, fit
from puna.plan.law import FloatArray
from puna.plan.runs import Run, Runs, embedding_parameters
from puna.tokens.mixture import Mixture
from puna.train.metrics import read_metrics
from puna.train.only_process import only_process
from puna.train.pretrain import Inputs, pretrain
from puna.workflows.ladder import Ladder, Rung
from puna.workflows.text_to_model import Shards, open_shards

KIND = "puna.sweep"
# Ways to fit, of which the ladder itself decides: which parameters N counts, and how many of the
# least amounts of tokens are left out (arXiv 2404.10102 leaves out the shortest runs, too).
WAYS: tuple[tuple[laws.Counts, int], ...] = (
    ("all", 0), ("without embeddings", 0), ("all", 1), ("without embeddings", 1),
)  # fmt: skip
COVERAGE = 0.95
TIMED_STEPS = 20
SECONDS_BETWEEN_LOOKS = 2.0
JOURNAL_END_BYTES = 4096


@dataclass(frozen=True)
class Measured:
    """What a finished run came to; `inputs` is a digest of what decides its loss."""

    name: str
    inputs: str
    parameters: int
    embedding_parameters: int
    tokens: int
    loss: float  # held-out, nats a token
    core_seconds: float
    token_seconds: float  # median, of training

    def run(self, counts: laws.Counts) -> Run:
        """The run as a law is fitted to it."""
        left_out = self.embedding_parameters if counts == "without embeddings" else 0
        return Run(self.name, self.parameters - left_out, self.tokens, self.loss)


@dataclass(frozen=True)
class Prediction:
    """What a law says of the target before it is trained: nats a token, 95 % between the bounds.

    `tested_on` is the ladder's largest size on its most tokens: how much the law of the smaller
    sizes was off there, as a share, by how it was fitted.
    """

    name: str
    loss: float
    low: float
    high: float
    counts: laws.Counts
    tested_on: str
    tests: Mapping[str, float]
    unix_time: float
    left_out: int = 0  # of the least amounts of tokens
    runs: int = 0  # of the ladder, when it was said

    def record(self) -> dict[str, Any]:
        """The prediction for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Swept:
    """A finished sweep: the runs, the fit, the prediction and the truth."""

    folder: Path
    measured: tuple[Measured, ...]
    fitted: Fitted
    prediction: Prediction
    truth: Measured

    @property
    def error(self) -> float:
        """How much the prediction was off: predicted over measured, less one."""
        return self.prediction.loss / self.truth.loss - 1

    @property
    def errors(self) -> FloatArray:
        """Of the law on every run: log of predicted loss over measured [measured]."""
        runs = Runs(tuple(one.run(self.fitted.law.counts) for one in self.measured))
        return np.log(self.fitted.law.loss(runs.parameters, runs.tokens) / runs.loss)

    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        constants = {
            name: {"value": getattr(self.fitted.law, name), "interval": self.fitted.interval(name)}
            for name in (*laws.CONSTANTS, "parameter_exponent")
        }
        return {
            "runs": [dataclasses.asdict(one) for one in self.measured],
            "law": {**self.fitted.law.record(), "constants": constants},
            "errors": [float(error) for error in self.errors],
            "notes": list(self.fitted.notes),
            "prediction": self.prediction.record(),
            "truth": dataclasses.asdict(self.truth),
            "error": self.error,
        }


def sweep(ladder: Ladder, folder: Path, out: Path, console: Console, workers: int) -> Swept:
    """Train the ladder on the shards in `folder`, fit its law, predict the target, train that.

    What is in `out` already is not done again, and a run that was killed goes on. Raises DataError
    for too little text or for other runs in `out`, TrainingError for a run that fails three times,
    MachineError without SciPy.
    """
    if not hardware.has_package("scipy"):
        raise missing_package("scipy", "plan", "fitting the sweep's law")
    shards = open_shards(folder)
    pieces, cores = shards.tokenizer.vocabulary_size, hardware.usable_cores()
    rungs = ladder.rungs(pieces, max(1, cores // workers))
    target = ladder.target_rung(pieces, cores)
    _require_text([*rungs, target], shards, folder)
    with only_process(out):
        recipes.write(ladder, out / "recipe.toml")
        trainer = _Trainer(shards, folder, out, console, workers)
        trainer.estimate(rungs, target)
        measured = trainer.measure(rungs, "runs")
        fitted, prediction = _predicted(measured, target, out)
        tell = f"{prediction.loss:.4f} ({prediction.low:.4f} to {prediction.high:.4f})"
        console.say(f"predicted  {target.name}: {tell} nats a token; now it is trained")
        (truth,) = trainer.measure([target], "target")
        swept = Swept(out, tuple(measured), fitted, prediction, truth)
        schema.write_json(out / "sweep.json", KIND, swept.record())
    return swept


def _require_text(rungs: Sequence[Rung], shards: Shards, folder: Path) -> None:
    """Raise DataError unless no run sees a token twice, and all can be measured."""
    tokens = max(rung.tokens for rung in rungs)
    train = shards.train
    has = train.tokens
    if isinstance(train, Mixture):  # the source that is used up first sets the end
        has = int(tokens / max(train.epochs(tokens).values()))
    if tokens > has:
        raise DataError(
            f"the longest run wants {tokens:,} tokens, none of them twice; {folder} has {has:,}",
            hint=f"give {tokens / has:.2g} times the text, or --set tokens=[...] and "
            "target_tokens=... below what is there",
        )
    wanted = rungs[0].config.train.validation_tokens
    heldout = shards.heldout.tokens if shards.heldout else 0
    if heldout < wanted:
        raise DataError(
            f"every run is measured on the same {wanted:,} held-out tokens, {folder} has "
            f"{heldout:,}",
            hint="hold out more (corpus.heldout_every), or --set train.validation_tokens="
            f"{heldout}; with fewer than 200,000 the loss itself is uncertain by 0.5 %",
        )


class _Trainer:
    """Trains rungs on processes of this machine, and says how long it takes."""

    def __init__(
        self, shards: Shards, folder: Path, out: Path, console: Console, workers: int
    ) -> None:
        heldout = shards.heldout.fingerprint if shards.heldout else None
        self.text, self.folder = (shards.train.fingerprint, heldout), folder
        self.out, self.console, self.workers = out, console, workers
        self.seconds: dict[str, float] = {}  # of a whole run on one process, by its name

    def estimate(self, rungs: Sequence[Rung], target: Rung) -> None:
        """Time the cheapest and the dearest shape, two at once as they will run; say what the
        sweep will take. A token's time is linear in its FLOPs between the two."""
        by_cost = sorted([*rungs, target], key=_flops)
        timed = [_shortened(by_cost[0]), _shortened(by_cost[-1])]
        low, high = (_flops(rung) for rung in timed)
        first, last = self.measure(timed, "timing")
        for rung in by_cost:
            share = (_flops(rung) - low) / max(high - low, 1.0)
            each = first.token_seconds + share * (last.token_seconds - first.token_seconds)
            # A held-out token, scored without compilation, takes about as long as a trained one.
            self.seconds[rung.name] = each * (rung.tokens + rung.config.train.validation_tokens)
        left = sum(self._seconds_left(rung, "runs") for rung in rungs)
        tokens = sum(rung.tokens for rung in rungs)
        self.console.say(
            f"sweep      {len(rungs)} runs, {human_count(tokens)} tokens in all: about "
            f"{human_duration(left / self.workers)} left, {self.workers} at a time; then "
            f"{target.name}: about {human_duration(self._seconds_left(target, 'target'))} on one "
            "core, less on all"
        )

    def measure(self, rungs: Sequence[Rung], kind: str) -> list[Measured]:
        """Train what is not yet trained, the longest first; what each rung came to, in order."""
        todo = []
        for rung in rungs:
            task = self._task(rung, kind)
            if Path(task.output).is_file():
                self._read(task)  # of another recipe: refused before hours of the rest
            else:
                todo.append(rung)
        todo.sort(key=lambda rung: -_flops(rung) * rung.tokens)
        with LocalProcesses(self.workers) as processes, self._watched(todo, kind):
            for done in processes.run([self._task(rung, kind) for rung in todo]):
                if done.error:
                    raise TrainingError(
                        f"{done.task.output}: {done.error}",
                        hint="what is trained is kept: run the command again to go on",
                    )
        return [self._read(self._task(rung, kind)) for rung in rungs]

    def _task(self, rung: Rung, kind: str) -> Task:
        folder = self.out / kind / (rung.name if kind != "target" else "")
        config = rung.config
        inputs = digest_of(config.learnt(), config.train.validation_tokens, self.text)
        settings, output = (rung.name, inputs, config), str(folder / "result.json")
        return Task(f"{__name__}:train_rung", (str(self.folder),), settings, output)

    def _read(self, task: Task) -> Measured:
        """A rung's result, which must be of the same recipe and text."""
        path = Path(task.output)
        record = schema.read_json(path, KIND)
        _name, inputs, _config = task.settings
        if record.get("inputs") != inputs:
            raise DataError(
                f"{path.parent} was trained by another recipe or on other text",
                hint="give the same ones to go on, or another --out for a new sweep",
            )
        return recipes.from_table(Measured, _without_stamp(record), str(path))

    def _seconds_left(self, rung: Rung, kind: str) -> float:
        journal = Path(self._task(rung, kind).output).with_name("metrics.jsonl")
        return self.seconds.get(rung.name, 0.0) * (1 - tokens_told(journal) / rung.tokens)

    @contextmanager
    def _watched(self, rungs: Sequence[Rung], kind: str) -> Iterator[None]:
        """A bar of the seconds that the runs are estimated to take, moved by their journals."""
        total = sum(self.seconds.get(rung.name, 0.0) for rung in rungs)
        if not total:
            yield
            return

        def done() -> float:
            return total - sum(self._seconds_left(rung, kind) for rung in rungs)

        ended = threading.Event()
        with self.console.progress(total, kind, "core-s", initial=done()) as bar:

            def look() -> None:
                while not ended.wait(SECONDS_BETWEEN_LOOKS):
                    bar.update(done() - bar.n)

            thread = threading.Thread(target=look, daemon=True)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()


def train_rung(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The TaskFunction of one rung: train it in its folder, or go on; write what it came to."""
    import torch

    name, inputs, config = task.settings
    shards, folder = open_shards(Path(task.inputs[0])), Path(task.output).parent
    given = Inputs(shards.train, shards.heldout, shards.tokenizer, {})
    outcome = pretrain(config, given, folder, silent())
    if outcome.exit_code:
        raise SystemExit(outcome.exit_code)  # stopped by a signal, and saved
    torch.compiler.reset()  # the next rung has another shape
    run = read_metrics(folder / "metrics.jsonl")
    loss = run.validations[-1].loss
    if loss is None:
        raise TrainingError(f"{folder}: its held-out loss is not a finite number")
    measured = Measured(
        name=name,
        inputs=inputs,
        parameters=count.parameters(config.model),
        embedding_parameters=embedding_parameters(config.model),
        tokens=run.steps[-1].tokens,
        loss=loss,
        core_seconds=run.core_seconds,
        token_seconds=1 / statistics.median(step.tokens_per_second for step in run.steps),
    )
    record = {**schema.stamp(KIND), **dataclasses.asdict(measured)}
    output.write(json.dumps(record).encode("utf-8"))


def tokens_told(journal: Path) -> int:
    """Tokens that a run has seen by the last whole line of its journal that says so; 0 at first."""
    try:
        with journal.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - JOURNAL_END_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    for line in reversed(lines):
        if line.startswith(b'{"event": "step"') and line.endswith(b"}"):
            return int(json.loads(line)["tokens"])
    return 0


def _flops(rung: Rung) -> float:
    return count.training_flops_per_token(rung.config.model)


def _shortened(rung: Rung) -> Rung:
    """The same shape for a few steps."""
    train = rung.config.train
    steps, tokens = TIMED_STEPS, train.batch_tokens
    few = replace(
        train, steps=steps, warmup_steps=1, validate_every=steps, validation_tokens=tokens
    )
    return Rung(replace(rung.config, train=few))


def _without_stamp(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("schema", "version")}


def _predicted(measured: Sequence[Measured], target: Rung, out: Path) -> tuple[Fitted, Prediction]:
    """The ladder's fit and what it says of the target; said once, before the target is begun.

    It is fitted in the way by which the smaller sizes say best what the largest comes to on the
    most tokens: as far beyond them as the target is beyond the ladder.
    """
    path = out / "prediction.json"
    if (out / "target").exists():
        record = _without_stamp(schema.read_json(path, KIND))
        prediction = recipes.from_table(Prediction, record, str(path))
        fitted = _fitted(measured, prediction.counts, prediction.left_out, out)
        if prediction.runs not in (0, len(measured)):
            since = f"the prediction is of {prediction.runs} runs, the law of {len(measured)}"
            fitted = replace(fitted, notes=(*fitted.notes, since))
        return fitted, prediction
    largest = max(measured, key=lambda one: (one.parameters, one.tokens))
    tests = {way: _test(measured, largest, *way) for way in _ways(measured)}
    counts, left_out = min(tests, key=lambda way: tests[way])
    fitted = _fitted(measured, counts, left_out, out)
    model = target.config.model
    embedded = embedding_parameters(model) if counts == "without embeddings" else 0
    loss, low, high = predict(fitted, count.parameters(model) - embedded, target.tokens)
    prediction = Prediction(
        target.name, loss, low, high, counts, largest.name,
        {_way_told(*way): error for way, error in tests.items()}, time.time(), left_out,
        len(measured),
    )  # fmt: skip
    schema.write_json(path, KIND, prediction.record())
    return fitted, prediction


def _fitted(measured: Sequence[Measured], counts: laws.Counts, left_out: int, out: Path) -> Fitted:
    fitted = fit(_chosen(measured, counts, left_out), DRAWS)
    laws.save(replace(fitted.law, name="sweep", source=str(out)), out / "law.json")
    return fitted


def _ways(measured: Sequence[Measured]) -> list[tuple[laws.Counts, int]]:
    """Those of WAYS that leave enough amounts of tokens for a fit."""
    amounts = len({one.tokens for one in measured})
    return [way for way in WAYS if way[1] == 0 or amounts - way[1] >= LEAST_VALUES]


def _way_told(counts: laws.Counts, left_out: int) -> str:
    return f"{counts}, shortest left out" if left_out else counts


def _chosen(measured: Sequence[Measured], counts: laws.Counts, left_out: int) -> Runs:
    """The runs as one way takes them."""
    least = sorted({one.tokens for one in measured})[left_out]
    return Runs(tuple(one.run(counts) for one in measured if one.tokens >= least), counts)


def predict(fitted: Fitted, parameters: float, tokens: float) -> tuple[float, float, float]:
    """Loss of a new run and its 95 % interval, nats a token.

    The interval is of the law's draws, each with each run's own distance from the law: a new run
    scatters as those did.
    """
    drawn = np.array([draw.loss(parameters, tokens) for draw in fitted.law.draws])
    scattered = np.outer(drawn, np.exp(-fitted.errors))
    low, high = np.quantile(scattered, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return fitted.law.loss(parameters, tokens), float(low), float(high)


def _test(
    measured: Sequence[Measured], largest: Measured, counts: laws.Counts, left_out: int
) -> float:
    """How far the law of the smaller sizes is off on the largest run, as a share."""
    smaller = [one for one in measured if one.parameters < largest.parameters]
    law = fit(_chosen(smaller, counts, left_out), draws=0).law
    asked = largest.run(counts)
    return abs(law.loss(asked.parameters, asked.tokens) / asked.loss - 1)
