"""`puna chat`: a text that a person and the model write in turns."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING

from puna import config as recipes
from puna.commands.generate import result_record, summary
from puna.commands.model_arguments import add_model, add_sampling, sampling_params
from puna.config import nearest
from puna.console import Console
from puna.errors import PunaError, UsageError
from puna.infer.sampling_params import SamplingParams

if TYPE_CHECKING:
    from puna.infer.engine import Engine

REPLY_TOKENS = 128
WELCOME = (
    "This is a base model: it continues text and is no assistant. Write the beginning of\n"
    "something; an empty line goes on. /help lists the commands, Ctrl-D leaves."
)
HELP = """/help            this
/reset           forget the text so far
/set             the settings; /set temperature 0.7 changes one
/quit, Ctrl-D    leave
Ctrl-C           stop the reply, keeping what is there
an empty line    let the model go on"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna chat`."""
    parser.description = (
        "Write a text in turns with a model. It is a base model: it continues the text and is no\n"
        "assistant. What was written stays its context until /reset."
    )
    parser.epilog = """examples:
  puna chat demo/run
  puna chat demo/run --temperature 0.5 --max-tokens 60
  printf 'The state of\\n\\n' | puna chat demo/run    two turns from a pipe"""
    add_model(parser)
    add_sampling(parser, REPLY_TOKENS)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Talk until /quit or the end of the input."""
    params = sampling_params(arguments)
    from puna.infer.engine import load_engine

    engine = load_engine(arguments.model, arguments.backend, which=arguments.which)
    console.say(engine.choice)
    console.say(WELCOME)
    Chat(engine, params, console).talk(line_reader(console))
    return 0


def line_reader(console: Console) -> Callable[[], str | None]:
    """A function that gives the next line without its end, None when there is no more."""
    if not sys.stdin.isatty():
        return piped_line
    with contextlib.suppress(ImportError):  # not on Windows
        import readline  # noqa: F401  (its import gives input() a history and cursor keys)
    return functools.partial(typed_line, console)


def typed_line(console: Console) -> str | None:
    """A line edited at the terminal; Ctrl-C drops it and asks again."""
    while True:
        try:
            return input("> ")
        except KeyboardInterrupt:
            console.say("\n(Ctrl-D or /quit leaves)")
        except EOFError:
            console.say()
            return None


def piped_line() -> str | None:
    """A line of stdin. Raises UsageError where it is not UTF-8."""
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin should be UTF-8 text: {error}") from None
    return line.rstrip("\r\n") if line else None


class Chat:
    """The text so far and the settings; one turn appends a line and the model's continuation."""

    def __init__(self, engine: Engine, params: SamplingParams, console: Console) -> None:
        self.engine = engine
        self.params = params
        self.console = console
        self.text = ""

    def talk(self, next_line: Callable[[], str | None]) -> None:
        """Take lines until there are none, or one says /quit."""
        while (line := next_line()) is not None and line.strip() != "/quit":
            try:
                if line.startswith("/"):
                    self.obey(line)
                else:
                    self.reply(line)
            except PunaError as error:  # a wrong setting or character ends a turn, not the talk
                self.console.warn(str(error))

    def obey(self, line: str) -> None:
        """Do a /command other than /quit. Raises UsageError for an unknown one."""
        name, *words = line.split()
        if name == "/help":
            self.console.say(HELP)
        elif name == "/reset":
            self.text = ""
            self.console.say("the text so far is forgotten")
        elif name == "/set":
            self.set(words)
        else:
            commands = ["/help", "/reset", "/set", "/quit"]
            raise UsageError(f"there is no command {name}", hint=nearest(name, commands))

    def set(self, words: list[str]) -> None:
        """Change a setting, or show them all. Raises ConfigError for a wrong name or value."""
        values = recipes.to_table(self.params)
        if words:
            text = " ".join(words[1:]).removeprefix("=").strip()
            try:
                value = tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                value = text
            self.params = recipes.from_table(SamplingParams, {**values, words[0]: value}, "/set")
            values = recipes.to_table(self.params)
        shown = [f"{name} {value}" for name, value in values.items() if not words or name in words]
        self.console.say(", ".join(shown))

    def reply(self, line: str) -> None:
        """Append `line` to the text, then what the model makes of it; Ctrl-C ends that early."""
        is_new_line = self.text and line and not self.text.endswith("\n")
        text = f"{self.text}\n{line}" if is_new_line else self.text + line
        generation = self.engine.generate(self.visible_ids(text), self.params)
        try:
            for piece in generation:
                if not self.console.json_output:
                    self.console.write_piece(piece)
        except KeyboardInterrupt:
            generation.cancel()
        result = generation.result
        self.text = text + result.text
        self.console.result(result_record(line, result), "")
        self.console.say(self.console.paint(f"[{summary(result, self.engine)}]", "2"))

    def visible_ids(self, text: str) -> list[int]:
        """The ids of the text; where it leaves too little room for a reply, of its end, said."""
        ids = self.engine.tokenizer.encode(text, bos=True)
        context = self.engine.config.context_length
        room = context - min(self.params.max_tokens, context // 2)
        if len(ids) <= room:
            return ids
        self.console.say(
            f"[the model's context is {context} tokens: of the text so far it sees the last "
            f"{room - 1} of {len(ids) - 1}; /reset starts anew]"
        )
        return [ids[0], *ids[len(ids) - (room - 1) :]]
