"""Every example of the clients' page, as it stands, against `puna serve` with SmolLM2."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serve.offline import Offline, asked
from serve.puna_serve import ROOT

PAGE = (ROOT / "docs" / "how-to" / "use-a-client.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^## (.+?)\n.*?^```(bash|python)\n(.*?)^```$", re.M | re.S)
EXAMPLES = {name: (language, body) for name, language, body in EXAMPLE.findall(PAGE)}
PACKAGES = {
    "openai-python": "openai",
    "LangChain": "langchain_openai",
    "ollama-python": "ollama",
    "llm": "llm",
    "lm-eval": "lm_eval",
}

pytestmark = pytest.mark.slow


def printed(name: str, address: str, folder: Path) -> str:
    """What the page's example prints, with the address put in."""
    package = PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{name} is not installed: pip install 'puna[clients]'")
    if name == "curl" and shutil.which("curl") is None:
        pytest.skip("this machine has no curl")
    language, body = EXAMPLES[name]
    body = body.replace("http://127.0.0.1:8000", address)
    program = ["bash", "-euc"] if language == "bash" else [sys.executable, "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "LLM_USER_PATH": str(folder),
        "HF_HOME": str(folder / "hub"),
        "HF_DATASETS_OFFLINE": "1",
    }
    done = subprocess.run(
        [*program, body], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "lm-eval"])
def test_an_example_of_the_page_prints_what_it_says(name: str, smollm2: Offline, tmp_path: Path):
    (promised,) = re.findall(r"^```text\n(.*?)\n```$", PAGE, re.M | re.S)
    assert smollm2.text(asked("Hello"), max_tokens=16) == promised
    found = printed(name, smollm2.url, tmp_path)
    if name == "curl":
        found = json.loads(found)["choices"][0]["message"]["content"]
    first, *others = found.splitlines()
    assert first.rstrip() == promised
    if name == "openai-python":
        assert re.fullmatch(r" city='.+'", others[0])


def test_the_page_s_task_is_evaluated(smollm2: Offline, tmp_path: Path):
    table = printed("lm-eval", smollm2.url, tmp_path)
    (accuracy,) = re.findall(r"\|capitals\|.*\|acc *\|.*?\| *([0-9.]+)\|", table)
    assert float(accuracy) == 1
