"""`puna generate` as a user runs it, on a tiny model."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from puna import cli
from puna.commands import generate as command
from puna.console import Console
from puna.infer.backends.numpy_backend import NumpyBackend

OPTIONS = ("--backend", "numpy", "--max-tokens", "12")


def generate(*words) -> int:
    return cli.main(["generate", *map(str, words), *OPTIONS])


def stdin_of(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")


def test_text_goes_to_stdout_and_talk_to_stderr(tiny_run, capsys):
    assert generate(tiny_run, "--prompt", "The llama", "--seed", 4) == 0
    first = capsys.readouterr()
    assert first.out.endswith("\n")
    assert "engine: NumPy twin (asked for)" in first.err
    assert "12 tokens in" in first.err
    assert "tokens/s" in first.err
    assert "--max-tokens was reached; seed 4" in first.err
    assert generate(tiny_run, "--prompt", "The llama", "--seed", 4, "--quiet") == 0
    assert capsys.readouterr() == (first.out, "")


def test_json_holds_the_text_and_how_it_ended(tiny_run, capsys):
    assert generate(tiny_run, "--prompt", "The", "--json", "--temperature", 0) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["prompt"] == "The"
    assert (record["finish_reason"], record["ended_by"]) == ("length", "max tokens")
    assert record["generated_tokens"] == 12
    assert record["text"]
    assert generate(tiny_run, "--prompt", "The", "--temperature", 0) == 0
    assert capsys.readouterr().out == record["text"] + "\n"


@pytest.mark.parametrize("content", [b"The llama", b"The llama\n", b"The llama\r\n"])
def test_the_prompt_may_come_from_stdin_less_its_last_line_end(
    tiny_run, capsys, monkeypatch, content
):
    monkeypatch.setattr(sys, "stdin", stdin_of(content))
    assert generate(tiny_run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "The llama"


def test_the_text_keeps_to_a_schema_or_a_grammar(tiny_run, tmp_path, capsys):
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text('{"type": "array", "items": {"type": "boolean"}, "maxItems": 1}')
    grammar.write_text('start: "yes" | "no"')
    assert generate(tiny_run, "--prompt", "The", "--json-schema", schema) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) in ([], [True], [False])
    assert "; nothing may follow; seed" in said.err
    assert generate(tiny_run, "--prompt", "The", "--grammar", grammar) == 0
    assert capsys.readouterr().out in ("yes\n", "no\n")
    assert generate(tiny_run, "--prompt", "The", "--grammar", tmp_path) == 2
    assert f"{tmp_path} should hold a grammar" in capsys.readouterr().err
    grammar.write_text("start: nothing")
    assert generate(tiny_run, "--prompt", "The", "--grammar", grammar) == 1
    assert 'grammar cannot be kept to: at 1(8): unknown name: "nothing"' in capsys.readouterr().err


def test_a_stop_token_ends_the_output(tiny_run, capsys):
    assert generate(tiny_run, "--prompt", "The", "--stop-id", 9, "--logit-bias", "9=100") == 0
    assert "a stop token was reached" in capsys.readouterr().err


def test_a_stop_text_ends_the_output(tiny_run, capsys):
    generate(tiny_run, "--prompt", "The", "--temperature", 0)
    text = capsys.readouterr().out.rstrip("\n")
    generate(tiny_run, "--prompt", "The", "--temperature", 0, "--stop", text[4])
    printed = capsys.readouterr()
    assert printed.out.rstrip("\n") == text[: text.index(text[4])]
    assert "a stop text was reached" in printed.err


def test_the_end_of_the_context_is_said(tiny_run, capsys):
    words = ["generate", str(tiny_run), "--prompt", "The", "--max-tokens", "500"]
    assert cli.main([*words, "--temperature", "0"]) == 0
    assert "the model's context of 64 tokens is full" in capsys.readouterr().err


def test_mistakes_get_one_clear_error_before_the_model_is_loaded(
    tiny_run, tmp_path, capsys, monkeypatch
):
    assert generate(tmp_path, "--prompt", "x", "--top-p", 2) == 1
    assert "top_p should be above 0 and at most 1 (off), got 2.0" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", stdin_of(b"\xff\xfe"))
    assert generate(tmp_path) == 2
    assert "stdin should be UTF-8" in capsys.readouterr().err
    terminal = stdin_of(b"")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert generate(tmp_path) == 2
    assert "wants a prompt, found none" in capsys.readouterr().err
    assert generate(tiny_run, "--prompt", "llama " * 100) == 2
    assert "leaves none to generate in the model's context of 64" in capsys.readouterr().err
    assert generate(tmp_path, "--prompt", "x") == 1
    assert "should hold a model, found an empty folder" in capsys.readouterr().err


def test_ctrl_c_ends_the_line_and_the_program(tiny_run, capsys, monkeypatch):
    steps = iter(range(100))
    real = NumpyBackend.step

    def step(self, chunks):
        if next(steps) == 5:
            raise KeyboardInterrupt
        return real(self, chunks)

    monkeypatch.setattr(NumpyBackend, "step", step)
    assert generate(tiny_run, "--prompt", "The", "--seed", 1) == cli.INTERRUPTED
    printed = capsys.readouterr()
    assert printed.out.endswith("\n")
    assert len(printed.out) > 1
    assert "stopped by Ctrl-C" in printed.err


def test_a_terminal_gets_no_control_characters_and_a_pipe_gets_all(tiny_run):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, wanted in ((Terminal(), "\\x1b[2J\tok\n"), (io.StringIO(), "\x1b[2J\tok\n")):
        Console(stdout=stream).write_piece("\x1b[2J\tok\n")
        assert stream.getvalue() == wanted


def test_help_imports_neither_numpy_nor_torch():
    code = (
        "import sys; from puna.cli import main; main(['generate', '--help']);"
        "main(['chat', '--help']); print({'numpy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_the_summary_leaves_out_a_rate_that_there_is_none_of(tiny_run):
    from puna.infer.engine import load_engine
    from puna.infer.sampling_params import SamplingParams

    engine = load_engine(tiny_run, "numpy")
    run = engine.stream("The", SamplingParams(max_tokens=1, seed=0))
    list(run)
    assert "tokens/s" not in command.summary(run.result, engine)


@pytest.fixture
def meta_folder(tiny_run, tmp_path):
    """The tiny model as Meta's release lies: a folder for the size, the tokenizer above it."""
    words = ["convert", tiny_run, tmp_path / "LLaMA" / "30B", "--to", "meta", "--mp", "2"]
    assert cli.main([str(word) for word in words]) == 0
    (tmp_path / "LLaMA" / "30B" / "tokenizer.model").rename(tmp_path / "LLaMA" / "spm.model")
    return tmp_path / "LLaMA" / "30B"


def test_meta_s_own_flags_are_understood(tiny_run, meta_folder, capsys):
    capsys.readouterr()
    words = ["--prompt", "The", "--temperature", 0, "--quiet"]
    assert generate(tiny_run, *words) == 0
    wanted = capsys.readouterr().out
    tokenizer = meta_folder.parent / "spm.model"
    assert generate("--ckpt_dir", meta_folder, "--tokenizer_path", tokenizer, *words) == 0
    assert capsys.readouterr().out == wanted
    other_name = meta_folder.with_name("33B")  # the paper's name for the release's 30B
    assert generate("--ckpt_dir", other_name, "--tokenizer_path", tokenizer, *words) == 0
    assert capsys.readouterr().out == wanted


def test_a_model_without_a_tokenizer_says_how_to_give_one(meta_folder, capsys):
    assert generate(meta_folder, "--prompt", "The") == 1
    printed = capsys.readouterr().err
    assert "holds a model but no tokenizer" in printed
    assert "--tokenizer-path tokenizer.model" in printed


def test_one_model_is_wanted(tiny_run, capsys):
    assert generate("--prompt", "x") == 2
    assert "one model is wanted, MODEL or --ckpt_dir, found none" in capsys.readouterr().err
    assert generate(tiny_run, "--ckpt_dir", tiny_run, "--prompt", "x") == 2
    assert "one model is wanted" in capsys.readouterr().err


def test_too_little_memory_is_said_before_a_weight_is_read(tiny_run, capsys, monkeypatch):
    monkeypatch.setattr("puna.hardware.memory_available_bytes", lambda: 50_000)
    assert generate(tiny_run, "--prompt", "x") == 1
    printed = capsys.readouterr().err
    assert "its weights in float32, needs" in printed
    assert "48.8 KiB are free" in printed
