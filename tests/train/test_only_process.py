"""Two processes never train in one folder, and a dead one does not keep it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from puna.errors import TrainingError
from puna.train.only_process import only_process


def hold(out: Path) -> None:
    with only_process(out):
        pass


HOLD = """
import sys, time
from pathlib import Path
from puna.train.only_process import only_process
with only_process(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_by_the_firsts_id_until_that_is_killed(tmp_path):
    out = tmp_path / "new" / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(TrainingError, match=rf"another process \(id {first.pid}\)") as caught:
            hold(out)
        assert "another --out" in str(caught.value.hint)
        os.kill(first.pid, signal.SIGKILL)
    with only_process(out), pytest.raises(TrainingError, match=rf"\(id {os.getpid()}\)"):
        hold(out)
    hold(out)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TrainingError, match=r"file/run cannot be written to: Not a directory"):
        hold(tmp_path / "file" / "run")
