"""The first tasks of a source: which input files there are, and which of them each task reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from puna.console import Console
from puna.data import files
from puna.data.build import documents, stages
from puna.data.build.documents import SUFFIX, Chain, Stage
from puna.data.build.recipe import DataRecipe, Plan
from puna.data.build.task import Task
from puna.errors import DataError

PATH_LISTS = (".paths", ".paths.gz")


def inputs_of(source: Plan, console: Console) -> dict[str, files.File]:
    """The files that a source reads, by their short names. Raises DataError where there is none."""
    found = _found(source)
    suffixes = stages.suffixes_of(source.reader)
    wanted = {name: one for name, one in found.items() if name.lower().endswith(suffixes)}
    if not wanted:
        raise DataError(f"sources.{source.name}: none of {len(found)} files ends as its source's")
    if others := len(found) - len(wanted):
        console.say(f"{source.name}: {others:,} files of other kinds are left alone")
    return wanted


def pieces_of(
    found: Mapping[str, files.File], reader: Stage, part_bytes: int
) -> list[tuple[str, range | None]]:
    """The short name of each file, as often as it has parts, and the part; None for a whole."""
    return [
        (name, part)
        for name, file in found.items()
        for part in stages.parts_of(reader, file, part_bytes)
    ]


def tasks(
    found: Mapping[str, files.File], reader: Stage, chain: Chain, folder: str, recipe: DataRecipe
) -> list[Task]:
    """One task a file, or a part of one; small ones together, up to `task_bytes`, about equally."""
    pieces = pieces_of(found, reader, recipe.part_bytes)
    sizes = [_piece_bytes(found[name], part, recipe.task_bytes) for name, part in pieces]
    total = max(sum(sizes), 1)
    count = -(-total // recipe.task_bytes)
    groups: dict[int, list[tuple[str, range | None]]] = {}
    before = 0
    for piece, size in zip(pieces, sizes, strict=True):
        groups.setdefault((before + size // 2) * count // total, []).append(piece)
        before += size
    return [
        Task(
            f"{documents.__name__}:run",
            tuple(found[name].path for name, _ in group),
            replace(chain, source=reader, pieces=tuple(group)),
            files.join(folder, f"{number:05d}{SUFFIX}"),
        )
        for number, group in enumerate(groups.values())
    ]


def _piece_bytes(file: files.File, part: range | None, task_bytes: int) -> int:
    if part:
        return len(part)
    return file.bytes or files.is_url(file.path) * task_bytes  # not known: a large one


def _found(source: Plan) -> dict[str, files.File]:
    """The input files by their short names; a list of paths stands for the files it names."""
    read_paths = stages.paths_reader(source.reader)
    listed: dict[str, files.File] = {}
    others = []
    for path in source.inputs:
        if not read_paths or not path.endswith(PATH_LISTS):
            others.append(path)
            continue
        with files.open_bytes(path) as file:
            listed |= {name: files.File(name, 0) for name in read_paths(file, path)}
    return {**(files.find_all(others) if others else {}), **listed}
