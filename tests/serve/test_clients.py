"""Every example of the clients' page, as it stands, against `puna serve` with SmolLM2."""

import ast
import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve.puna_serve import ROOT, puna_serve
from small_vocabulary import smollm2_gguf

from puna.infer.engine import load_engine
from puna.infer.sampling_params import SamplingParams

PAGE = ROOT / "docs" / "how-to" / "use-a-client.md"
EXAMPLE = re.compile(r"^## (.+?)\n.*?^```(\w+)\n(.*?)^```$", re.M | re.S)
EXAMPLES = {name: (language, body) for name, language, body in EXAMPLE.findall(PAGE.read_text())}
PACKAGES = {
    "openai-python": "openai",
    "LangChain": "langchain_openai",
    "ollama-python": "ollama",
    "llm": "llm",
    "lm-eval": "lm_eval",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where SmolLM2 is served."""
    with puna_serve(smollm2_gguf(), "--name", "smollm2") as url:
        yield url


def said(name: str, address: str, folder: Path) -> str:
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
    environment = {**os.environ, "PATH": path, "LLM_USER_PATH": str(folder)}
    done = subprocess.run(
        [*program, body], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "lm-eval"])
def test_an_example_of_the_page_is_answered(name: str, address: str, tmp_path: Path):
    assert said(name, address, tmp_path)


def test_lm_eval_finds_the_log_likelihood_of_offline(address: str, tmp_path: Path):
    found = ast.literal_eval(said("lm-eval", address, tmp_path).splitlines()[-1])
    engine = load_engine(smollm2_gguf())
    ids = engine.tokenizer.encode("The capital of France is Paris")
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1)
    (expected,) = engine.generate([ids], params)
    assert expected.prompt_logprobs is not None
    last = expected.prompt_logprobs[-1]
    assert last is not None
    assert engine.tokenizer.decode(ids[-1:]) == " Paris"
    assert math.isclose(found[0][0], last.logprob, rel_tol=1e-3)
