"""Builds on the cluster of tests/two_nodes.py: without its token, left alone, with deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from build_runs import command, environment

SECONDS = 90


def main(plan: dict[str, Any]) -> None:
    """Build to `cluster` and, killed in the middle and begun again, to `killed`."""
    folder, words = Path(plan["folder"]), plan["words"]
    head, client = os.environ["HEAD"], os.environ["CLIENT"]
    for address in (head, client):
        assert_refused([*words, "--on", address, "--out", folder / "refused"], folder)
    assert start([*words, "--on", head, "--out", folder / "cluster"]).wait(SECONDS) == 0
    seen, out = folder / "seen", folder / "killed"
    for path in seen.iterdir():
        path.unlink()
    first = start([*words, "--on", client, "--out", out])
    wait_for(lambda: any(path.read_text() for path in seen.iterdir()))
    os.kill(int(next(seen.iterdir()).name), signal.SIGKILL)
    wait_for(lambda: len(list(out.glob("work/*/01-slow*/*.zst"))) >= 2)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in out.glob("work/*/01-slow*/*.zst")}
    assert len(done) < 13
    assert start([*words, "--on", head, "--out", out]).wait(SECONDS) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done


def assert_refused(words: list[object], folder: Path) -> None:
    """A driver with another token than the cluster's comes to nothing."""
    other = folder / "other-token"
    other.write_text("0" * 64)
    changed = {**environment(), "RAY_AUTH_TOKEN_PATH": str(other)}
    done = subprocess.run(
        command(words), env=changed, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "no Ray cluster answers at" in done.stderr, done.stderr
    assert not list((folder / "refused").rglob("*.zst"))


def start(words: list[object]) -> subprocess.Popen[bytes]:
    """A driver of its own."""
    return subprocess.Popen(command(words), env=environment())


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it is so."""
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.05)
