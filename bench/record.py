"""One row of bench/history.jsonl: what was measured, where, at which commit, beside which probes.

The file is append-only, and the README's numbers are rendered from it. Machines are told by their
hardware, never by a name.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna import hardware, schema

HISTORY = Path(__file__).parent / "history.jsonl"


def append(bench: str, row: dict[str, Any]) -> dict[str, Any]:
    """Append `row` under the bench's name, with commit, command, machine and versions."""
    record = {
        **schema.stamp("puna.bench"),
        "bench": bench,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "command": shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *_words()]),
        "machine": {
            "cpu": hardware.cpu_name(),
            "cores": hardware.usable_cores(),
            "memory_bytes": hardware.memory_total_bytes(),
        },
        "versions": hardware.versions(),
        **row,
    }
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return record


def _words() -> list[str]:
    """The script's arguments; of a place on this machine only the last name."""
    return [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of repeated measurements, with their number."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "count": len(values),
    }


def _commit() -> str:
    """The commit measured, with + when the working tree differs from it."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../puna", ".")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
