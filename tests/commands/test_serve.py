"""`puna serve`: what its options mean, what it prints, and how it ends."""

import argparse
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from serve.puna_serve import ROOT, puna_serve
from shared_weights import SHARED, needs_shared

from puna import cli
from puna.commands import serve
from puna.console import Console
from puna.errors import ConfigError, UsageError
from puna.serve import server
from puna.serve.settings import RequestLimits, ServeSettings

STORIES = SHARED / "stories260K" / "stories260K.gguf"


def arguments(*words: str) -> argparse.Namespace:
    return cli.build_parser("serve").parse_args(list(words))


def test_a_model_is_called_after_its_file_or_folder_or_as_asked(tmp_path: Path, monkeypatch):
    (tmp_path / "demo" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "demo" / "run")
    named = serve.named_models(
        ["smollm2", "some/llama-8B.Q4_K.gguf", "hf:owner/model-1.5", ".", "x.bin"], ["small"]
    )
    assert list(named) == ["small", "llama-8B.Q4_K", "model-1.5", "run", "x"]
    assert named["small"] == "smollm2"


@pytest.mark.parametrize(
    ("models", "names"), [(["a", "b/a"], []), (["a"], ["x", "y"]), (["a", "b"], ["x", "x"])]
)
def test_models_without_names_of_their_own_are_refused(models: list[str], names: list[str]):
    with pytest.raises(UsageError, match="name"):
        serve.named_models(models, names)


def test_keys_are_read_a_line_each(tmp_path: Path):
    keys = tmp_path / "keys.txt"
    keys.write_text("# who\nalpha\n\n  beta \n")
    settings = serve.settings_of(arguments("m", "--api-key-file", str(keys), "--api-key", "c"))
    assert settings.api_keys == ("c", "alpha", "beta")
    keys.write_text("# nobody\n")
    for path in (keys, tmp_path / "absent"):
        with pytest.raises(UsageError, match="key"):
            serve.read_keys(path)


def test_options_become_settings():
    settings = serve.settings_of(
        arguments(
            "a", "b", "--host", "::1", "--port", "0", "--memory-budget", "2G", "--max-body", "64K",
            "--cors-origin", "https://x.org", "--allowed-host", "x.org", "--running", "3",
            "--queue", "4", "--drain-seconds", "1.5", "--accept-unknown-fields", "--kv", "int8",
            "--which", "best", "--load-seconds", "9",
        )
    )  # fmt: skip
    assert settings.models == {"a": "a", "b": "b"}
    assert (settings.host, settings.port, settings.memory_budget_bytes) == ("::1", 0, 2 * 10**9)
    assert (settings.running, settings.queue_limit, settings.drain_seconds) == (3, 4, 1.5)
    assert settings.cors_origins == ("https://x.org",)
    assert settings.allowed_hosts == ("x.org",)
    assert settings.limits.body_bytes == 64_000
    assert settings.accept_unknown_fields
    assert (settings.kv, settings.which, settings.load_seconds) == ("int8", "best", 9)
    expected = ServeSettings(models={"a": "a"}, limits=RequestLimits(body_bytes=8 * 10**6))
    assert serve.settings_of(arguments("a")) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--port", "70000"],
        ["--tls-cert", "a.pem"],
        ["--api-key", "\u00e9"],
        ["--running", "0"],
        ["--drain-seconds", "-1"],
    ],
)
def test_settings_that_do_not_fit_are_refused(words: list[str]):
    with pytest.raises(ConfigError):
        serve.settings_of(arguments("m", *words))


def test_one_tokenizer_is_not_for_several_models():
    words = ["--tokenizer-path", "tokenizer.json"]
    assert serve.settings_of(arguments("m", *words)).tokenizer_path == Path("tokenizer.json")
    with pytest.raises(ConfigError, match="one tokenizer is for one model, found 2"):
        serve.settings_of(arguments("m", "n", *words))


def test_it_says_how_to_try_it_and_warns_where_anyone_may_come(
    monkeypatch, capsys: pytest.CaptureFixture[str]
):
    listening = {"event": "listening", "url": "http://box:1", "models": ["m"]}
    monkeypatch.setattr(server, "serve", lambda _settings, announce: announce(listening) or True)
    assert serve.run(arguments("m", "--host", "0.0.0.0"), Console()) == 0
    printed = capsys.readouterr()
    assert "warning: anyone who reaches 0.0.0.0 may use the models" in printed.err
    assert "base_url http://box:1/v1, model m" in printed.err
    assert "curl http://box:1/v1/completions -H 'Content-Type" in printed.err
    assert printed.out == ""
    assert serve.run(arguments("m", "--api-key", "k"), Console(json_output=True)) == 0
    assert json.loads(capsys.readouterr().out) == listening


def test_a_base_model_is_said_to_be_one():
    about = {"backend": "C++", "context_tokens": 2048, "load_seconds": 0.25}
    event = {"event": "ready", "model": "m", "has_chat_template": False, **about}
    settings = ServeSettings(models={"m": "m"})
    assert serve.told(event, settings) == (
        "m: C++; 2,048 tokens of context; a base model, for /v1/completions; loaded in 0.2 s"
    )


def failed(*words: str) -> str:
    """What a server that cannot be prints; it exits 1."""
    done = subprocess.run(
        [sys.executable, "-m", "puna", "serve", *words, "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_a_model_that_is_not_there_is_said_once():
    printed = failed("no-such-model", "--port", "0")
    assert printed.count("no-such-model should be a model's folder, file or name") == 1


def test_an_address_or_certificate_that_cannot_be_used_is_one_error(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        printed = failed("m", "--port", str(taken.getsockname()[1]))
    assert "Address already in use" in printed
    (tmp_path / "bad.pem").write_text("nothing")
    pem = str(tmp_path / "bad.pem")
    for file in (pem, pem + ".absent"):
        printed = failed("m", "--port", "0", "--tls-cert", file, "--tls-key", file)
        assert "the files of TLS cannot be used" in printed


@needs_shared
def test_a_signal_lets_an_answer_end_and_takes_no_more():
    """A stream of 300 tokens under way at SIGTERM comes whole, and the exit code is 0."""
    body = {"prompt": "Once", "max_tokens": 300, "ignore_eos": True, "stream": True}
    with puna_serve(STORIES, "--backend", "numpy") as url:
        content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/completions", content, headers)
        response = urllib.request.urlopen(request, timeout=30)
        assert response.readline().startswith(b"data: ")
    with response:  # the server has ended; what it sent is on its way
        rest = response.read().decode()
    assert rest.count('"finish_reason":"length"') == 1
    assert rest.endswith("data: [DONE]\n\n")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)
