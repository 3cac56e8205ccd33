"""`puna chat`: a talk with a chat model, or a text written in turns with a base model."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING

from puna import config as recipes
from puna import hardware
from puna.commands.chat_history import History, Messages, WrittenText
from puna.commands.generate import result_record, summary
from puna.commands.load import load
from puna.commands.model_arguments import add_model, add_sampling, sampling_params
from puna.config import nearest
from puna.console import Console
from puna.errors import PunaError, UsageError
from puna.infer.sampling_params import SamplingParams

if TYPE_CHECKING:
    from puna.infer.engine import Engine

DEFAULT_MODEL = "smollm2"
REPLY_TOKENS = 256
CHAT_WELCOME = "This model answers. /help lists the commands, Ctrl-D leaves."
WELCOME = (
    "This is a base model: it continues text and is no assistant. Write the beginning of\n"
    "something; an empty line goes on. /help lists the commands, Ctrl-D leaves."
)
HELP = """/help            this
/reset           forget the text so far
/set             the settings; /set temperature 0.7 changes one
/quit, Ctrl-D    leave
Ctrl-C           stop the reply, keeping what is there
an empty line    let a base model go on"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna chat`."""
    parser.description = (
        "Talk to a model. One with a chat template answers in turns; a base model is no assistant\n"
        "and continues the text. What was written stays its context until /reset."
    )
    parser.epilog = """examples:
  puna chat                   with smollm2, which is pulled the first time
  puna chat smollm2 --system "Answer in one sentence."
  puna chat demo/run
  puna chat demo/run --temperature 0.5 --max-tokens 60
  printf 'The state of\\n\\n' | puna chat demo/run    two turns from a pipe"""
    add_model(parser, default=DEFAULT_MODEL)
    parser.add_argument(
        "--system", metavar="TEXT", help="what a chat model is told before the talk begins"
    )
    add_sampling(parser, REPLY_TOKENS)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Talk until /quit or the end of the input."""
    params = sampling_params(arguments)
    if arguments.model == DEFAULT_MODEL:
        pull_once(DEFAULT_MODEL, console)
    from puna.infer.engine import EngineSettings

    engine = load(arguments.model, arguments, console, settings=EngineSettings(running=1))
    console.say(engine.kept_context)
    chat = Chat(engine, params, console, arguments.system)
    console.say(CHAT_WELCOME if chat.answers else WELCOME)
    chat.talk(line_reader(console))
    return 0


def pull_once(name: str, console: Console) -> None:
    """Pull the model of that name unless it is here. Raises as weights.pull does."""
    from puna.weights.cache import Cache
    from puna.weights.pull import pull

    cache = Cache()
    if name not in {model.name for model in cache.models()}:
        pull(name, cache, console, offline=hardware.is_offline())


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
    """The talk so far and the settings; a turn adds a line and what the model makes of it.

    Raises UsageError for a `system` message to a base model.
    """

    def __init__(
        self, engine: Engine, params: SamplingParams, console: Console, system: str | None = None
    ) -> None:
        self.engine = engine
        self.params = params
        self.console = console
        self.answers = engine.tokenizer.chat_template is not None
        if system is not None and not self.answers:
            raise UsageError(
                "--system is for chat models, this one has no chat template",
                hint="begin the text with what it should know",
            )
        self.history: History = (
            Messages(engine, console.say, system)
            if self.answers
            else WrittenText(engine, console.say)
        )

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
            self.history.clear()
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
        """The model's continuation or answer, kept with `line`; Ctrl-C ends it early."""
        if self.answers and not line.strip():
            return
        ids = self.history.ask(line, self.params.max_tokens)
        generation = self.engine.stream(ids, self.params)
        try:
            for piece in generation:
                if not self.console.json_output:
                    self.console.write_piece(piece)
        except KeyboardInterrupt:
            generation.cancel()
        result = generation.result
        self.history.answered(line, result.text)
        self.console.result(result_record(line, result), "")
        self.console.say(self.console.paint(f"[{summary(result, self.engine)}]", "2"))
