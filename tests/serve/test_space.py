"""The Space of examples/space: Gradio's own client is told there what the engine says."""

import importlib.metadata
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve.engine_runs import BACKEND
from serve.offline import TOKENS, Offline, asked
from serve.puna_serve import ROOT
from small_vocabulary import smollm2_gguf

from puna.infer.engine import load_engine

SPACE = ROOT / "examples" / "space"
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs gradio: pip install gradio"
)


def test_the_space_says_what_it_runs_with():
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = dict(line.split(": ", 1) for line in front.splitlines())
    assert (SPACE / card["app_file"]).is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = project["project"]["requires-python"].removeprefix(">=").split(".")
    found = re.fullmatch(r'"(\d+)\.(\d+)"', card["python_version"])  # a bare 3.10 would be 3.1
    assert found
    assert [int(one) for one in found.groups()] >= [int(one) for one in oldest]
    if importlib.util.find_spec("gradio") is not None:
        assert card["sdk_version"] == importlib.metadata.version("gradio")


@pytest.fixture(scope="module")
def space() -> Iterator[tuple[Any, Offline]]:
    """Gradio's client of the running Space, and the engine offline."""
    import gradio_client

    model = smollm2_gguf()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PUNA_SPACE_MODEL": str(model),
        "PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, str(SPACE / "app.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert any(f":{port}" in line for line in process.stdout)
            client = gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False)
            yield client, Offline("", load_engine(model, BACKEND))
        finally:
            process.terminate()
            process.wait(20)


@needs_gradio
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_both_tabs_say_what_the_engine_says(space: tuple[Any, Offline], tmp_path: Path):
    client, offline = space
    answer = client.predict("Hello", 0, TOKENS, api_name="/chat")
    assert answer == offline.text(asked("Hello"))
    text = client.predict("Once upon", 0, TOKENS, api_name="/complete")
    assert text == "Once upon" + offline.text("Once upon")
