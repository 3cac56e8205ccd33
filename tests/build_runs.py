"""Builds of text as processes of their own, and what of them has to be the same each time."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SLOW = "import slow_build; slow_build.main()"


def command(words: Sequence[object]) -> list[str]:
    """`puna data build`, with the stage `slow` beside Puna's own."""
    return [sys.executable, "-c", SLOW, "data", "build", *map(str, words)]


def environment() -> dict[str, str]:
    """Puna and the tests' own modules can be imported, here and in workers."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def results(out: Path) -> dict[str, bytes]:
    """Every file of a build but those that hold times."""
    timed = ("report.json", ".bin.json")
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.endswith(timed)
    }
