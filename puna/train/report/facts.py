"""What a run folder knows about itself: the one reader behind every section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from puna import schema
from puna.errors import CheckpointError, SchemaError
from puna.tokens.tokenizer import Tokenizer
from puna.train.metrics import RunMetrics, read_metrics
from puna.weights.checkpoint import find_checkpoint


@dataclass(frozen=True)
class Evaluation:
    """evaluation.json: the held-out text, document by document, and what it is compared with."""

    documents: int
    bytes: int
    tokens: int
    bits_per_byte: float
    perplexity_per_token: float
    context_length: int
    step: int
    seconds: float
    baselines: dict[str, float]
    per_document: list[tuple[str, int, float]]  # id, bytes, bits per byte


@dataclass(frozen=True)
class RunFacts:
    """All that the report shows. `name` is the folder's, `where` what commands call it."""

    name: str
    where: str
    metrics: RunMetrics
    evaluation: Evaluation | None
    tokenizer: Tokenizer | None
    tokenizer_manifest: dict[str, Any]  # empty where the folder of its training is not found
    recipe_text: str

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved config that the latest session ran with."""
        return self.metrics.session.recipe

    @property
    def planned_steps(self) -> int | None:
        """The steps that the recipe asks for."""
        steps = section(self.recipe, "train").get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def last_step(self) -> int:
        """The last optimizer step that was taken."""
        return self.metrics.steps[-1].step if self.metrics.steps else 0


def gather(run: Path) -> RunFacts:
    """Read a run folder. Only metrics.jsonl must be there; a broken file of the others is an error.

    Raises SchemaError, or TokenizerError when the checkpoint's tokenizer cannot be read.
    """
    if not run.is_dir():
        raise SchemaError(
            f"{run} should be the folder of a training run, found "
            f"{'a file' if run.exists() else 'nothing'}",
            hint="give the folder that `puna train` wrote; it holds metrics.jsonl",
        )
    metrics = read_metrics(run / "metrics.jsonl")
    tokenizer = _tokenizer(run)
    return RunFacts(
        name=run.resolve().name,
        where=run.resolve().name if run.is_absolute() else str(run),
        metrics=metrics,
        evaluation=_evaluation(run / "evaluation.json"),
        tokenizer=tokenizer,
        tokenizer_manifest=_tokenizer_manifest(run, tokenizer),
        recipe_text=_recipe_text(run / "recipe.toml", metrics.session.recipe),
    )


def section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a recipe, empty where it has none."""
    value = table.get(name)
    return value if isinstance(value, Mapping) else {}


def _evaluation(path: Path) -> Evaluation | None:
    if not path.exists():
        return None
    record = schema.read_json(path, "puna.evaluation")
    try:
        return Evaluation(
            documents=int(record["documents"]),
            bytes=int(record["bytes"]),
            tokens=int(record["tokens"]),
            bits_per_byte=float(record["bits_per_byte"]),
            perplexity_per_token=float(record["perplexity_per_token"]),
            context_length=int(record["context_length"]),
            step=int(record["step"]),
            seconds=float(record["seconds"]),
            baselines={str(key): float(value) for key, value in record["baselines"].items()},
            per_document=[
                (str(each["id"]), int(each["bytes"]), float(each["bits_per_byte"]))
                for each in record["per_document"]
            ],
        )
    except KeyError as error:
        problem = f"{error} is missing"
    except (TypeError, ValueError, AttributeError) as error:
        problem = str(error)
    raise SchemaError(
        f"{path} should be a puna.evaluation record, but {problem}",
        hint="make it again: puna evaluate perplexity RUN --data CORPUS",
    )


def _tokenizer(run: Path) -> Tokenizer | None:
    """The tokenizer of the latest checkpoint, None before there is one."""
    try:
        folder = find_checkpoint(run)
    except CheckpointError:
        return None
    return Tokenizer.load(folder / "tokenizer.model")


def _tokenizer_manifest(run: Path, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What the training of exactly this tokenizer wrote, in the run folder or beside it."""
    for folder in (run / "tokenizer", run.resolve().parent / "tokenizer"):
        path = folder / "manifest.json"
        if tokenizer is not None and path.is_file():
            record = schema.read_json(path, "puna.tokenizer")
            if record.get("sha256") == tokenizer.sha256:
                return record
    return {}


def _recipe_text(path: Path, recipe: Mapping[str, Any]) -> str:
    """The recipe as it lies in the run folder, else as the journal has it."""
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return tomli_w.dumps(_without_none(recipe))


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }
