"""The terminal's clients, curl and llm, on a real chat model: every content is the engine's own."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from serve.offline import TOKENS, Offline, asked

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"
JSON = ("-H", "Content-Type: application/json")


def run(*words: str, **environment: str) -> str:
    """What the command prints."""
    given = {**os.environ, **environment}
    done = subprocess.run(words, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def curl(url: str, body: dict[str, Any]) -> str:
    """What curl prints of the answer, which comes as it is made."""
    if shutil.which("curl") is None:
        pytest.skip("this machine has no curl")
    return run("curl", "-sSN", "--fail-with-body", url, *JSON, "-d", json.dumps(body))


def test_curl_gets_a_chat_and_its_stream(smollm2: Offline):
    url, expected = f"{smollm2.url}/v1/chat/completions", smollm2.text(asked(QUESTION))
    body = {"messages": asked(QUESTION), "max_tokens": TOKENS, "temperature": 0}
    assert json.loads(curl(url, body))["choices"][0]["message"]["content"] == expected
    *events, done, end = curl(url, {**body, "stream": True}).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    deltas = [json.loads(one.removeprefix("data: "))["choices"][0]["delta"] for one in events]
    assert "".join(one.get("content") or "" for one in deltas) == expected


def test_curl_gets_a_continuation_and_ollama_s_lines(smollm2: Offline):
    body = {"prompt": "Once upon", "max_tokens": TOKENS, "temperature": 0}
    answer = json.loads(curl(f"{smollm2.url}/v1/completions", body))
    expected = smollm2.text("Once upon")
    assert answer["choices"][0]["text"] == expected
    options = {"temperature": 0, "num_predict": TOKENS}
    body = {"model": "smollm2", "prompt": "Once upon", "raw": True, "options": options}
    lines = curl(f"{smollm2.url}/api/generate", body).splitlines()
    assert "".join(json.loads(line)["response"] for line in lines) == expected


class Llm:
    """The command `llm`, which keeps its configuration and logs in a folder."""

    options = ("--key", "any", "-o", "temperature", "0", "-o", "max_tokens")

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        model = {"api_base": f"{url}/v1", "model_name": "smollm2"}
        chat = {**model, "model_id": "puna", "supports_schema": True, "supports_tools": True}
        models = [chat, {**model, "model_id": "puna-base", "completion": True}]
        (folder / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML

    def __call__(self, *words: str) -> str:
        """What it prints."""
        program = Path(sys.executable).parent / "llm"
        return run(str(program), *words, LLM_USER_PATH=str(self.folder))

    def ask(self, *words: str, model: str = "puna", tokens: int = TOKENS) -> str:
        """The answer, without the end of the line."""
        return self("-m", model, *self.options, str(tokens), *words).removesuffix("\n")


@pytest.fixture
def llm(smollm2: Offline, tmp_path: Path) -> Llm:
    if importlib.util.find_spec("llm") is None:
        pytest.skip("the extra puna[clients] is not installed")
    return Llm(tmp_path, smollm2.url)


def test_llm_talks_on(llm: Llm, smollm2: Offline):
    system = {"role": "system", "content": "You are brief."}
    talk = [system, *asked(QUESTION)]
    first = smollm2.text(talk)
    assert llm.ask("-s", system["content"], QUESTION) == first
    talk = [*talk, {"role": "assistant", "content": first}, *asked("And of Italy?")]
    assert llm.ask("-c", "And of Italy?") == smollm2.text(talk)
    (_, logged) = json.loads(llm("logs", "--json"))
    assert logged["response"] == smollm2.text(talk)
    assert logged["output_tokens"] == smollm2.result(talk).generated_tokens


def test_llm_without_a_stream_and_with_a_base_model(llm: Llm, smollm2: Offline):
    assert llm.ask("--no-stream", QUESTION) == smollm2.text(asked(QUESTION))
    assert llm.ask("Once upon", model="puna-base") == smollm2.text("Once upon")


def test_llm_gets_a_form_and_offers_tools(llm: Llm, smollm2: Offline):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["name", "people"],
        "additionalProperties": False,
    }
    text = llm.ask("--schema", json.dumps(schema), QUESTION, tokens=80)
    jsonschema.validate(json.loads(text), schema)
    assert json.loads(text) == json.loads(smollm2.form(asked(QUESTION), schema, max_tokens=80))
    tool = 'def clock(place: str) -> str:\n    "Its time."\n    return "noon"'
    assert llm.ask("--functions", tool, QUESTION)
