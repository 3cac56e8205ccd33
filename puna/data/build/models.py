"""What stages use and a build makes first: models of sources, compiled benchmarks.

  WORK/SOURCE/model-STAGE-DIGEST/  what one stage of a source uses, and what it was made from
The digest stands for the stage's settings, the documents that come to it, and the last documents of
the sources it is made of.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from puna.data import files
from puna.data.build import reading, stages
from puna.data.build.documents import Stage
from puna.data.build.stages import Context, Given
from puna.data.build.task import Task, digest_of
from puna.data.build.work import Build

Making = Generator[list[Task], list[files.File], tuple[Stage, str]]


class Before(NamedTuple):
    """What comes to a stage: files of documents, and the digest of all that decides them."""

    documents: Sequence[files.File]
    digest: str


def versions(chain: Sequence[Stage]) -> list[list[Any]]:
    """What changes when a file does that settings name."""
    needed = [file for stage in chain for file in stages.needed_files(stage)]
    return [[file.path, file.bytes, file.version] for file in needed]


def made(state: Build, name: str, stage: Stage, before: Before) -> Making:
    """Rounds that make what a stage of the source `name` uses, when the sources of it are ready.

    Returns the stage that names it, and the digest of all that decides it.
    """
    needed = list(stages.made_of(stage) or ())
    while not all(one in state.ready for one in needed):
        yield []
    given = {one: _given(state, one) for one in needed}
    places = [
        [one, [file.path.removeprefix(state.work) for file in source.documents]]
        for one, source in given.items()
    ]
    digest = digest_of(before.digest, stage, versions([stage]), places, state.recipe.seed)
    folder = files.join(state.work, name, f"model-{stage.name}-{digest}")
    context = Context(folder, stage.name, state.recipe.seed)
    return (yield from stages.make(stage, before.documents, given, context)), digest


def _given(state: Build, name: str) -> Given:
    found, reader = state.inputs[name], state.plans[name].reader
    pieces = reading.pieces_of(found, reader, state.recipe.part_bytes)
    return Given(tuple(state.ready[name]), tuple((found[one], part) for one, part in pieces))
