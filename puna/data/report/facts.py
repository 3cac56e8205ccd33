"""What a build's report.json says, as the page needs it: what came into each stage, what left it.

At every stage documents in = kept + dropped. For text there is a fourth: what a stage cuts out of
documents that it keeps (lines, spaces), or adds to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna import schema
from puna.data import files
from puna.data.build.documents import READ
from puna.data.build.stages import STAGES
from puna.errors import SchemaError

REPORT = "report.json"
DEDUPLICATION = "puna.data.dedup."  # where the stages that compare texts are
OF_ALL = " of all"  # ends the name of a stage over all sources together


@dataclass(frozen=True)
class Count:
    """Documents and the bytes of their text."""

    documents: int = 0
    text_bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.documents + other.documents, self.text_bytes + other.text_bytes)


@dataclass(frozen=True)
class Step:
    """One stage of one source. `dropped` has the reason of most documents first.

    `lines` are those a stage saw and dropped, where it drops lines; `counts` what else it counted;
    `damaged` places of damage.
    """

    source: str
    stage: str
    found: Count
    kept: Count
    dropped: dict[str, Count]
    seconds: float
    examples: dict[str, list[dict[str, Any]]]
    lines: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    damaged: tuple[dict[str, str], ...] = ()

    @property
    def lost(self) -> Count:
        """All that is dropped, for whatever reason."""
        return sum(self.dropped.values(), Count())

    @property
    def cut_bytes(self) -> int:
        """Text that went out of documents which stay; below 0 where a stage adds text."""
        return self.found.text_bytes - self.kept.text_bytes - self.lost.text_bytes

    @property
    def compares_texts(self) -> bool:
        """Whether what it drops are duplicates."""
        return STAGES.get(self.stage.removesuffix(OF_ALL), "").startswith(DEDUPLICATION)


@dataclass(frozen=True)
class SourceFacts:
    """One source: its files, its stages in order, and what came of it."""

    name: str
    files: int
    file_bytes: int
    steps: list[Step]
    tokens: int
    trained: Count  # what the tokens were made of
    heldout_tokens: int
    heldout: Count
    languages: dict[str, Count]
    licences: dict[str, Count]
    core_seconds: float
    tokenise_seconds: float
    work_bytes: int
    peak_bytes: int

    @property
    def found(self) -> Count:
        """What was read, kept or not."""
        return self.steps[0].found if self.steps else Count()

    @property
    def kept(self) -> Count:
        """What passed every stage."""
        return self.steps[-1].kept if self.steps else Count()


@dataclass(frozen=True)
class BuildFacts:
    """All that the page shows; `where` is what commands call the build, `record` report.json."""

    where: str
    record: dict[str, Any]
    sources: list[SourceFacts]

    @property
    def steps(self) -> list[Step]:
        """Every stage of every source."""
        return [step for source in self.sources for step in source.steps]

    @property
    def tokens(self) -> int:
        """Tokens to train on, of all sources."""
        return sum(source.tokens for source in self.sources)


def gather(folder: str) -> BuildFacts:
    """Read a build's folder, here or at a URL.

    Raises SchemaError where its report.json is not one, DataError where it cannot be read.
    """
    path = files.join(folder, REPORT)
    record = files.read_json(path)
    schema.check(record, "puna.build", path)
    is_absolute = not files.is_url(folder) and Path(folder).is_absolute()
    where = Path(folder).name if is_absolute else folder
    try:
        sources = [_source(name, one) for name, one in record["sources"].items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SchemaError(
            f"{path} should be a puna.build record, but {type(error).__name__}: {error}",
            hint="make it again: puna data build RECIPE",
        ) from None
    return BuildFacts(where, record, sources)


def _source(name: str, record: Mapping[str, Any]) -> SourceFacts:
    steps: list[Step] = []
    for one in record["stages"]:
        steps.append(_step(name, one, steps[-1].kept if steps else None))
    return SourceFacts(
        name=name,
        files=int(record["inputs"]["files"]),
        file_bytes=int(record["inputs"]["bytes"]),
        steps=steps,
        tokens=int(record["tokens"]),
        trained=_count(record),
        heldout_tokens=int(record["heldout"]["tokens"]),
        heldout=_count(record["heldout"]),
        languages=_counts(record["languages"]),
        licences=_counts(record["licences"]),
        core_seconds=float(record["core_seconds"]),
        tokenise_seconds=float(record.get("tokenise_seconds", 0)),
        work_bytes=int(record["work_bytes"]),
        peak_bytes=int(record.get("peak_bytes", 0)),
    )


def _step(source: str, record: Mapping[str, Any], before: Count | None) -> Step:
    """A stage; `before` is what the one before it kept, None for reading."""
    kept = _count(record)
    dropped = _counts(record["dropped"])
    found = kept + sum(dropped.values(), Count())
    if before is not None and record["stage"] != READ:
        found = Count(found.documents, before.text_bytes)
    return Step(
        source=source,
        stage=str(record["stage"]),
        found=found,
        kept=kept,
        dropped=dropped,
        seconds=float(record["seconds"]),
        examples=dict(record["examples"]),
        lines={name: int(count) for name, count in record.get("lines", {}).items()},
        counts={name: int(count) for name, count in record.get("counts", {}).items()},
        damaged=tuple(record.get("damaged", ())),
    )


def _count(record: Mapping[str, Any]) -> Count:
    return Count(int(record["documents"]), int(record["text_bytes"]))


def _counts(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Count]:
    """The groups' counts, most documents first."""
    found = {str(name): _count(facts) for name, facts in groups.items()}
    return dict(sorted(found.items(), key=lambda one: (-one[1].documents, one[0])))
