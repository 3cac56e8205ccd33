"""The real command `puna serve` in a process of its own, for clients from outside."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
END_SECONDS = 20


@contextmanager
def puna_serve(*words: object) -> Iterator[str]:
    """The base URL once the only model is loaded, or the port is open for several."""
    command = [sys.executable, "-m", "puna", "serve", *map(str, words), "--port", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            listening = json.loads(process.stdout.readline())
            assert listening["event"] == "listening"
            if len(listening["models"]) == 1:
                assert json.loads(process.stdout.readline())["event"] == "ready"
            yield listening["url"]
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(END_SECONDS)
        assert code == 0
