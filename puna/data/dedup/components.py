"""Connected components of any number of edges: large-star and small-star in turn.

Kiveris et al. 2014, "Connected Components in MapReduce and Beyond": each node hands its
neighbours on to the smallest it knows, until every component is a star around its smallest node.
  large-star  the larger neighbours of a node are joined to the smallest of them all
  small-star  a node and its smaller neighbours are joined to the smallest of these
Rows lie by a hash of their node, so a task sees all neighbours of its nodes and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from puna.data import files
from puna.data.build.stages import Context, Rounds
from puna.data.build.task import Task
from puna.data.dedup.join import Rows, read_slice, write_by

EDGE = np.dtype([("node", "<u8"), ("neighbour", "<u8")])


@dataclass(frozen=True)
class _Star:
    part: int
    of: int
    is_large: bool


def stars(edges: list[files.File], parts: int, context: Context) -> Rounds:
    """Rounds of tasks after which each row of their files is (node, smallest of its component).

    `edges` are files of write_edges for a large-star. No smallest node has a row.
    """
    turn = 0
    while True:
        edges = yield _turn(edges, parts, turn, context)
        if turn % 2 == 0 and not sum(_unsettled(file) for file in edges):
            return edges
        turn += 1


def _turn(edges: list[files.File], parts: int, turn: int, context: Context) -> list[Task]:
    names = tuple(file.path for file in edges)
    return [
        Task(
            f"{__name__}:star",
            names,
            _Star(part, parts, turn % 2 == 0),
            context.name(f"star{turn:02d}", part, ".bin"),
        )
        for part in range(parts)
    ]


def _unsettled(file: files.File) -> int:
    return int(files.read_json(file.path + ".report.json")["unsettled"])


def star(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """One part of a large-star or a small-star."""
    settings: _Star = task.settings
    slices = [read_slice(name, settings.part, settings.of, EDGE) for name in task.inputs]
    rows = np.unique(np.concatenate(slices))
    joined, unsettled = linked(rows, settings.is_large)
    write_edges(output, joined, settings.of, is_for_large=not settings.is_large)
    report.update(edges=len(joined), unsettled=unsettled)


def linked(rows: Rows, is_large: bool) -> tuple[Rows, int]:
    """The edges of a star step on sorted rows, and how many of their nodes are in no star yet."""
    node, neighbour = rows["node"], rows["neighbour"]
    begins = np.flatnonzero(np.r_[True, node[1:] != node[:-1]]) if len(rows) else np.empty(0, int)
    sizes = np.diff(np.r_[begins, len(rows)])
    smallest = np.minimum(node[begins], neighbour[begins])
    is_leaf = (neighbour[begins] < node[begins]) & (sizes == 1)
    is_center = neighbour[begins] > node[begins]
    hub = np.repeat(smallest, sizes)
    if is_large:
        goes_on = neighbour > node
        joined = _edges(neighbour[goes_on], hub[goes_on])
    else:
        goes_on = neighbour != hub
        joined = _edges(np.r_[neighbour[goes_on], node[begins]], np.r_[hub[goes_on], smallest])
    return np.unique(joined), int(np.count_nonzero(~(is_leaf | is_center)))


def write_edges(output: BinaryIO, rows: Rows, parts: int, *, is_for_large: bool) -> None:
    """Write (larger, smaller) nodes as the next step reads them: a large-star from both sides."""
    if is_for_large:
        rows = np.concatenate([rows, _edges(rows["neighbour"], rows["node"])])
    spread = (rows["node"] * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    write_by(output, rows, spread % np.uint64(parts), parts)


def _edges(node: NDArray[Any], neighbour: NDArray[Any]) -> Rows:
    rows = np.empty(len(node), EDGE)
    rows["node"], rows["neighbour"] = node, neighbour
    return rows
