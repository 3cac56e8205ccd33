"""The command: finds verbs, names the nearest, keeps stdout for data, and says errors once."""

import argparse
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import puna
from puna import cli, hardware
from puna.console import Console
from puna.errors import ConfigError, DataError
from puna.native import kernels

ROOT = Path(__file__).resolve().parent.parent


def run_puna(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command in a fresh process, outside the clone's folder."""
    return subprocess.run(
        [sys.executable, "-m", "puna", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


class FakeVerb:
    """A verb whose work is a function given by the test."""

    def __init__(self, work):
        self.work = work

    def configure(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action")
        actions.add_parser("fetch").add_argument("--count", type=int, default=3, help="how many")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        return self.work(arguments, console) or 0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    """`fake(work)` installs a verb `fake` that does `work(arguments, console)`."""

    def install(work):
        monkeypatch.setitem(cli.VERBS, "fake", ("puna.commands.fake", "a verb of the tests"))
        monkeypatch.setitem(sys.modules, "puna.commands.fake", FakeVerb(work))

    return install


def test_help_lists_every_verb_with_its_summary(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for verb, (_module, summary) in cli.VERBS.items():
        assert f"  {verb:<10} {summary}" in printed


def test_the_bare_command_says_the_same_as_help(capsys: pytest.CaptureFixture[str]):
    cli.main([])
    bare = capsys.readouterr().out
    cli.main(["--help"])
    assert capsys.readouterr().out == bare


def test_every_verb_is_in_exactly_one_group():
    grouped = [verb for verbs in cli.GROUPS.values() for verb in verbs]
    assert sorted(grouped) == sorted(cli.VERBS)


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_explains_itself_with_examples(verb: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: puna {verb}")
    assert "example" in printed
    assert f"puna {verb}" in printed.split("example")[-1]


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_argument_says_what_it_is(verb: str):
    silent = []
    waiting = [cli.build_parser(verb)]
    while waiting:
        parser = waiting.pop()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
            elif not action.help:
                silent.append(f"{parser.prog} {action.dest}")
    assert silent == []


@pytest.mark.parametrize(
    ("wish", "native"),
    [(None, "[a-z0-9_]+"), ("none", "none, .*PUNA_ISA.*"), ("vax", "none, .*'vax'.*")],
)
def test_the_version_tells_the_kernels(monkeypatch, wish, native):
    if wish is None and not kernels.inference_isas():
        native = "none, .+"
    elif not kernels.inference_isas():
        native = "none, .*missing.*"
    kernels.inference_isa.cache_clear()
    monkeypatch.setattr(hardware, "isa_wish", lambda: wish)
    try:
        said = cli.version()
    finally:
        kernels.inference_isa.cache_clear()
    assert re.fullmatch(re.escape(f"puna {puna.__version__} (native: ") + native + r"\)", said)


@pytest.mark.parametrize(
    ("words", "nearest"),
    [(["trian"], "train"), (["tokeniser"], "tokenizer"), (["fake", "fech"], "fetch")],
)
def test_a_mistyped_verb_names_the_nearest(words, nearest, fake, capsys):
    fake(lambda arguments, console: None)
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"hint: did you mean {nearest}" in printed.err


def test_an_unknown_option_is_a_usage_error_that_points_to_help(fake, capsys):
    fake(lambda arguments, console: None)
    assert cli.main(["fake", "fetch", "--cuont", "3"]) == 2
    assert "error: puna fake: unrecognized arguments: --cuont 3" in capsys.readouterr().err


def test_an_option_before_the_verb_is_explained(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--json", "sizes"]) == 2
    assert "options come after the verb" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["fake", "--json", "fetch"], ["fake", "fetch", "--json"], ["fake", "--json"]]
)
def test_json_counts_before_and_after_a_sub_verb(words, fake, capsys):
    fake(lambda arguments, console: console.result({"count": 3}, "three"))
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"count": 3}


def test_quiet_keeps_talk_back_but_not_warnings_or_results(fake, capsys):
    def work(arguments: argparse.Namespace, console: Console) -> None:
        console.say("talk")
        console.warn("slower path")
        console.result({}, "result")

    fake(work)
    cli.main(["fake", "--quiet"])
    printed = capsys.readouterr()
    assert printed.out == "result\n"
    assert "talk" not in printed.err
    assert "slower path" in printed.err


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_our_errors_are_said_once_with_their_hint(kind, fake, capsys):
    def work(arguments: argparse.Namespace, console: Console) -> None:
        raise kind("wanted a folder, found none", hint="make one")

    fake(work)
    assert cli.main(["fake"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "error: wanted a folder, found none\n\nhint: make one\n"
    assert printed.out == ""


def test_a_bug_asks_for_a_report_and_keeps_its_traceback_back(fake, capsys, monkeypatch):
    def work(arguments: argparse.Namespace, console: Console) -> None:
        raise ZeroDivisionError("division by zero")

    fake(work)
    monkeypatch.delenv("PUNA_DEBUG", raising=False)
    assert cli.main(["fake"]) == 1
    printed = capsys.readouterr().err
    assert "a bug in Puna: ZeroDivisionError: division by zero" in printed
    assert "PUNA_DEBUG=1" in printed
    assert "Traceback" not in printed
    monkeypatch.setenv("PUNA_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


def test_ctrl_c_ends_with_one_line_and_130(fake, capsys):
    def work(arguments: argparse.Namespace, console: Console) -> None:
        raise KeyboardInterrupt

    fake(work)
    assert cli.main(["fake"]) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_a_reader_that_leaves_is_no_error():
    script = "import puna.cli, sys\nsys.exit(puna.cli.main(['--help']))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == cli.PIPE_CLOSED


def test_no_color_and_dumb_terminals_get_no_colours(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert cli._wants_color()
    monkeypatch.setenv("TERM", "dumb")
    assert not cli._wants_color()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not cli._wants_color()


def test_output_that_the_terminal_cannot_encode_is_escaped():
    code = "import puna.cli as c; c._make_output_encodable(); print('\\N{LLAMA}')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout == b"\\U0001f999\n"


def test_defaults_are_shown_in_help(fake, capsys):
    fake(lambda arguments, console: None)
    cli.main(["fake", "fetch", "--help"])
    assert "how many (default: 3)" in capsys.readouterr().out


def test_the_real_command_runs_from_anywhere(tmp_path: Path):
    done = run_puna("--version")
    assert done.returncode == 0
    assert done.stdout == f"{cli.version()}\n"
    assert run_puna("no-such-verb").returncode == 2
