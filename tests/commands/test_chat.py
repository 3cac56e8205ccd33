"""`puna chat` as a user runs it: from a pipe, and at a terminal of its own."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from puna import cli
from puna.commands.chat import Chat
from puna.console import Console
from puna.infer.backends.numpy_backend import NumpyBackend
from puna.infer.engine import load_engine
from puna.infer.sampling_params import SamplingParams

ROOT = Path(__file__).resolve().parents[2]
GREEDY = SamplingParams(temperature=0, max_tokens=6)
TERMINAL_SECONDS = 60
PATIENCE_SECONDS = 2


@pytest.fixture(scope="module")
def engine(tiny_run):
    return load_engine(tiny_run, "numpy")


def talk(engine, *lines: str, params: SamplingParams = GREEDY, **options):
    """A chat over these lines: the chat, what it printed, and what it said."""
    console = Console(stdout=io.StringIO(), stderr=io.StringIO(), **options)
    chat = Chat(engine, params, console)
    waiting = iter(lines)
    chat.talk(lambda: next(waiting, None))
    return chat, console.stdout.getvalue(), console.stderr.getvalue()


def continuation(engine, text: str) -> str:
    return "".join(engine.stream(text, GREEDY))


def test_a_turn_continues_all_of_the_text_so_far(engine):
    first = "The" + continuation(engine, "The")
    second = f"{first}\nAnd" + continuation(engine, f"{first}\nAnd")
    third = second + continuation(engine, second)
    chat, printed, _ = talk(engine, "The", "And", "")
    assert chat.history.text == third
    assert printed == f"{first[3:]}\n{second[len(first) + 4 :]}\n{third[len(second) :]}\n"


def test_reset_forgets_the_text(engine):
    chat, _, said = talk(engine, "The", "/reset", "An")
    assert chat.history.text == "An" + continuation(engine, "An")
    assert "forgotten" in said


def test_quit_leaves_before_the_next_line(engine):
    chat, printed, _ = talk(engine, "/quit", "The")
    assert (chat.history.text, printed) == ("", "")


def test_set_changes_and_shows_settings(engine):
    chat, _, said = talk(engine, "/set temperature 0.7", "/set top_k = 5", "/set")
    assert (chat.params.temperature, chat.params.top_k) == (0.7, 5)
    assert said.splitlines()[:2] == ["temperature 0.7", "top_k 5"]
    assert "max_tokens 6, temperature 0.7, top_k 5" in said


def test_a_wrong_line_is_explained_and_the_talk_goes_on(engine):
    lines = ["/set temprature 1", "/set temperature hot", "/set top_p 7", "/rest", "\ud800", "The"]
    chat, _, said = talk(engine, *lines)
    assert "did you mean temperature?" in said
    assert "temperature should be float, got 'hot'" in said
    assert "top_p should be above 0" in said
    assert "there is no command /rest\n\nhint: did you mean /reset" in said
    assert "lone surrogate" in said
    assert chat.history.text == "The" + continuation(engine, "The")
    assert chat.params == GREEDY


def test_help_names_every_command(engine):
    _, printed, said = talk(engine, "/help")
    assert printed == ""
    assert all(word in said for word in ("/reset", "/set temperature 0.7", "/quit", "Ctrl-C"))


def test_a_text_longer_than_the_context_keeps_its_end_and_says_so(engine):
    line = "llama " * 30
    chat, _, said = talk(engine, line)
    count = len(engine.tokenizer.encode(line))
    assert (
        f"the model's context is 64 tokens: of the text so far it sees the last 57 of {count}"
        in (said)
    )
    ids = engine.tokenizer.encode(line, bos=True)
    wanted = engine.stream([ids[0], *ids[-57:]], GREEDY)
    assert chat.history.text == line + "".join(wanted)


def test_room_is_kept_for_a_reply_even_where_much_is_asked_for(engine):
    params = SamplingParams(temperature=0, max_tokens=1000)
    _, printed, said = talk(engine, "llama " * 30, params=params)
    assert "it sees the last 31 of" in said
    assert "context of 64 tokens is full" in said
    assert printed.strip()


def test_ctrl_c_stops_the_reply_and_not_the_talk(engine, monkeypatch):
    steps = iter(range(1000))
    real = NumpyBackend.choose

    def choose(self, chunks):
        if next(steps) == 3:
            raise KeyboardInterrupt
        return real(self, chunks)

    monkeypatch.setattr(NumpyBackend, "choose", choose)
    chat, printed, said = talk(engine, "The", "")
    assert "3 tokens in" in said
    assert "stopped" in said
    assert "6 tokens in" in said
    assert chat.history.text == "The" + "".join(printed.splitlines(keepends=True)).replace("\n", "")


def test_json_gives_a_line_for_each_turn(engine):
    _, printed, _ = talk(engine, "The", "And", json_output=True)
    records = [json.loads(line) for line in printed.splitlines()]
    assert [record["prompt"] for record in records] == ["The", "And"]
    assert all(record["finish_reason"] == "length" for record in records)


def test_lines_may_come_from_a_pipe(tiny_run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The\r\n/set max_tokens 3\nAnd"))
    assert cli.main(["chat", str(tiny_run), "--backend", "numpy", "--max-tokens", "5"]) == 0
    printed = capsys.readouterr()
    assert "continues text and is no assistant" in printed.err
    assert printed.err.index("5 tokens in") < printed.err.index("3 tokens in")


class Terminal:
    """`puna chat` on a pseudo-terminal."""

    def __init__(self, tiny_run: Path) -> None:
        self.master, slave = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "puna", "chat", str(tiny_run), "--backend", "numpy"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
            start_new_session=True,
            # A shell's background jobs, and what they start, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(slave)
        self.shown = ""

    def wait_for(
        self, text: str, count: int = 1, *, otherwise: Callable[[], None] = lambda: None
    ) -> None:
        """Read until `text` has been shown `count` times since the start.

        `otherwise` is done whenever nothing has been shown for PATIENCE_SECONDS.
        """
        until = time.monotonic() + TERMINAL_SECONDS
        while self.shown.count(text) < count:
            assert time.monotonic() < until, f"{text!r} never came: {self.shown!r}"
            if not select.select([self.master], [], [], PATIENCE_SECONDS)[0]:
                otherwise()
                continue
            try:
                self.shown += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:  # Linux's word for a terminal that nobody has open any more
                pytest.fail(f"it ended before {text!r} came: {self.shown!r}")

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def type(self, text: bytes) -> None:
        os.write(self.master, text)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_at_a_terminal_ctrl_c_drops_the_line_and_ctrl_d_leaves(tiny_run):
    terminal = Terminal(tiny_run)
    try:
        terminal.wait_for("> ")
        terminal.press_ctrl_c()
        # CPython's input() does not hear a signal that comes after it has shown its prompt and
        # before it waits for a key: a person presses again, and so does this test.
        terminal.wait_for("(Ctrl-D or /quit leaves)", otherwise=terminal.press_ctrl_c)
        terminal.wait_for("> ", 2)
        terminal.type(b"The\n")
        terminal.wait_for("tokens in")
        terminal.wait_for("> ", 3)
        terminal.type(b"\x04")
        assert terminal.process.wait(TERMINAL_SECONDS) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
