"""Chats with a model that has a template: messages in turns, as other programs spell them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from puna import cli
from puna.commands.chat import Chat
from puna.commands.chat_history import Messages
from puna.console import Console, silent
from puna.errors import UsageError
from puna.infer.engine import Engine, load_engine
from puna.infer.sampling_params import SamplingParams
from puna.weights.convert import Conversion, convert
from puna.weights.open_model import load_tokenizer, open_model

GREEDY = SamplingParams(temperature=0, max_tokens=5)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "[{{ message['role'][0] }}]{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory) -> Path:
    """The tiny model as a Hugging Face folder with a chat template."""
    place = tmp_path_factory.mktemp("chat") / "hf"
    source = open_model(tiny_run)
    wish = Conversion("hf", is_proved=False)
    convert(source, place, wish, silent(), load_tokenizer(source))
    (place / "chat_template.jinja").write_text(TEMPLATE)
    return place


@pytest.fixture(scope="module")
def engine(folder) -> Engine:
    return load_engine(folder, "numpy")


def spelled(engine: Engine, *turns: str) -> list[int]:
    """The ids of these turns: control tokens, and the text between them."""
    tokenizer = engine.tokenizer
    text = "".join(f"{turn}</s>" for turn in turns[:-1]) + turns[-1]
    return [tokenizer.bos_id, *tokenizer.encode(f"<s>{text}", special=True)[1:]]


def talk(engine, *lines: str, system: str | None = None, params=GREEDY, **options):
    console = Console(stdout=io.StringIO(), stderr=io.StringIO(), **options)
    chat = Chat(engine, params, console, system)
    waiting = iter(lines)
    chat.talk(lambda: next(waiting, None))
    return chat, console.stdout.getvalue(), console.stderr.getvalue()


def asked_of(engine, monkeypatch) -> list[list[int]]:
    """What the engine is asked to continue, turn by turn."""
    seen: list[list[int]] = []
    real = Engine.stream

    def stream(self, prompt, params=None):
        seen.append(list(prompt))
        return real(self, prompt, params)

    monkeypatch.setattr(Engine, "stream", stream)
    return seen


def test_a_turn_is_spelled_by_the_template_with_one_bos(engine, monkeypatch):
    seen = asked_of(engine, monkeypatch)
    _, printed, _ = talk(engine, "The", system="Be brief")
    assert seen == [spelled(engine, "[s]Be brief", "[u]The", "[a]")]
    assert seen[0].count(engine.tokenizer.bos_id) == 1
    wanted = "".join(engine.stream(seen[0], GREEDY))
    assert printed == wanted + "\n"


def test_a_later_turn_sees_the_earlier_ones(engine, monkeypatch):
    seen = asked_of(engine, monkeypatch)
    talk(engine, "a", "b")
    reply = "".join(engine.stream(spelled(engine, "[u]a", "[a]"), GREEDY))
    assert seen[1] == spelled(engine, "[u]a", f"[a]{reply}", "[u]b", "[a]")


def test_an_empty_line_asks_for_nothing(engine, monkeypatch):
    seen = asked_of(engine, monkeypatch)
    talk(engine, "", "  ")
    assert seen == []


def test_the_oldest_turns_are_left_out_when_the_context_is_full_and_that_is_said(engine):
    said: list[str] = []
    history = Messages(engine, said.append, "S")
    for number in range(12):
        history.answered(f"q{number}", f"r{number}")
    ids = history.ask("last", 8)
    assert len(ids) <= engine.config.context_length - 8
    text = engine.tokenizer.decode(ids)
    assert "[s]S" in text
    assert "[u]last" in text
    assert "q0" not in text
    assert "does not see the first" in said[0]
    assert "of 12 turns any more" in said[0]
    history.clear()
    assert history.ask("x", 8) == spelled(engine, "[s]S", "[u]x", "[a]")


def test_a_reply_ends_at_the_end_of_the_turn(engine, monkeypatch):
    eos = engine.tokenizer.eos_id
    real = type(engine.backend).choose
    steps = iter(range(100))

    def choose(self, chunks):
        rows = real(self, chunks)
        return rows if next(steps) != 2 else [eos] * len(rows)

    monkeypatch.setattr(type(engine.backend), "choose", choose)
    _, printed, said = talk(engine, "The", params=SamplingParams(temperature=0, max_tokens=30))
    assert "3 tokens in" in said
    assert "the model ended the text" in said
    assert "</s>" not in printed


def test_the_command_knows_what_the_model_is(folder, tiny_run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("The\n"))
    words = ["chat", str(folder), "--backend", "numpy", "--max-tokens", "4", "--json"]
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    assert "This model answers" in printed.err
    assert json.loads(printed.out)["prompt"] == "The"
    words = ["chat", str(tiny_run), "--system", "Be brief", "--backend", "numpy"]
    assert cli.main(words) == 2
    assert "this one has no chat template" in capsys.readouterr().err


def test_a_base_model_takes_no_system_message(tiny_run):
    with pytest.raises(UsageError, match="no chat template"):
        Chat(load_engine(tiny_run, "numpy"), GREEDY, silent(), "Be brief")
