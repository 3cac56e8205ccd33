"""The command `puna`: one table of verbs, each module imported when its verb is called."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import puna
from puna.errors import PunaError, UsageError

VERBS = {
    "data": ("puna.commands.data", "add, fetch, clean and split text; build token shards"),
    "tokenizer": ("puna.commands.tokenizer", "train a tokenizer on a corpus, or look at one"),
    "train": ("puna.commands.train", "pretrain a model from a recipe, or resume a run"),
    "evaluate": ("puna.commands.evaluate", "measure a model on text it has not seen"),
    "perplexity": ("puna.commands.perplexity", "as llama-perplexity measures it; KL divergence"),
    "generate": ("puna.commands.generate", "continue a prompt"),
    "chat": ("puna.commands.chat", "talk to a model in the terminal"),
    "serve": ("puna.commands.serve", "models behind HTTP for OpenAI's clients, and a page"),
    "pull": ("puna.commands.pull", "bring a model to this machine by its name"),
    "cache": ("puna.commands.cache", "list or remove the models that were pulled"),
    "inspect": ("puna.commands.inspect", "what a model is, and what it takes to run it"),
    "convert": ("puna.commands.convert", "a model in another format, with proof"),
    "quantize": ("puna.commands.quantize", "a model as a GGUF of few bits a weight"),
    "bench": ("puna.commands.bench", "how fast a model runs here, beside memory's limit"),
    "report": ("puna.commands.report", "one self-contained page about a training run"),
    "plan": ("puna.commands.plan", "which model to train, and what it will cost"),
    "sizes": ("puna.commands.sizes", "the family's sizes: parameters, memory, compute"),
    "doctor": ("puna.commands.doctor", "what this machine has and what it lacks"),
    "demo": ("puna.commands.demo", "text to a trained model to a report, in minutes"),
}
GROUPS = {
    "text and tokens": ("data", "tokenizer"),
    "train": ("train", "evaluate", "perplexity", "report"),
    "use": ("generate", "chat", "serve", "bench"),
    "weights": ("pull", "cache", "inspect", "convert", "quantize"),
    "machine": ("plan", "sizes", "doctor", "demo"),
}
EXAMPLES = """examples:
  puna demo                                         the whole way on public text
  puna train recipes/demo.toml --data my_folder/    train on your own text
  puna generate demo/run --prompt "The state of"    continue a prompt
"""
INTERRUPTED = 130  # 128 + SIGINT, as shells count
PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 ok, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    _make_output_encodable()
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except PunaError as error:
        print_error(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        print_error("stopped by Ctrl-C")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left (`| head`); keep Python's last flush from failing on the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        if os.environ.get("PUNA_DEBUG"):
            raise
        print_error(
            f"error: a bug in Puna: {type(error).__name__}: {error}\n\n"
            "hint: run it again with PUNA_DEBUG=1 and report what it prints"
        )
        return 1


def overview() -> str:
    """What `puna --help` says: every verb with its summary, in groups."""
    lines = ["usage: puna VERB [...]    (puna VERB --help explains one verb)", ""]
    for group, verbs in GROUPS.items():
        lines.append(f"{group}:")
        lines += [f"  {verb:<10} {VERBS[verb][1]}" for verb in verbs]
        lines.append("")
    lines.append(EXAMPLES)
    return "\n".join([*lines, "`puna --version` prints the version and which kernels run here."])


def version() -> str:
    """What `puna --version` says: `puna 0.1.0 (native: amx)`, or why there are no kernels."""
    from puna.native import kernels

    try:
        native = kernels.inference_isa()
    except PunaError as error:
        native = f"none, {error.message}"
    return f"puna {puna.__version__} (native: {native})"


def build_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb, with everything its module adds. Imports that module."""
    module = importlib.import_module(VERBS[verb][0])
    parser = Parser(prog=f"puna {verb}", description=VERBS[verb][1])
    module.configure(parser)
    return parser


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Examples keep their lines; defaults are shown where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool | list | tuple):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Adds `--json` and `--quiet` to every verb and sub-verb, and raises our UsageError."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", HelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)
        output = self.add_argument_group("output")
        # SUPPRESS: a sub-verb's default must not undo the flag given before it.
        output.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON on stdout"
        )
        output.add_argument(
            "--quiet",
            action="store_true",
            default=argparse.SUPPRESS,
            help="no talk and no progress bars on stderr",
        )

    def error(self, message: str) -> NoReturn:
        """Raise UsageError; a wrong choice names the nearest right one."""
        hint = f"{self.prog} --help"
        choice = re.search(r"invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message)
        if choice:
            from puna.config import nearest

            known = [word.strip("' ") for word in choice[2].split(",")]
            message = message.split(" (choose from")[0]
            hint = f"{nearest(choice[1], known)} ({hint})"
        raise UsageError(f"{self.prog}: {message}", hint=hint)


def print_error(text: str) -> None:
    """An error for the person at the terminal (stderr), whatever state the console is in."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _dispatch(words: list[str]) -> int:
    """Find the verb, parse its arguments, run it."""
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview() + "\n")
        return 0
    if words[0] == "--version":
        sys.stdout.write(version() + "\n")
        return 0
    verb = words[0]
    if verb.startswith("-"):
        raise UsageError(
            f"puna: options come after the verb, found {verb}", hint="puna --help lists the verbs"
        )
    if verb not in VERBS:
        from puna.config import nearest

        raise UsageError(f"puna has no verb {verb!r}", hint=nearest(verb, list(VERBS)))
    parser = build_parser(verb)
    try:
        arguments = parser.parse_args(words[1:])
    except SystemExit as done:  # --help prints and exits
        return int(done.code or 0)
    from puna.console import Console

    console = Console(
        json_output=getattr(arguments, "json", False),
        quiet=getattr(arguments, "quiet", False),
        color=_wants_color(),
    )
    return int(sys.modules[VERBS[verb][0]].run(arguments, console))


def _wants_color() -> bool:
    """Colours only on a terminal that shows them and whose owner has not set NO_COLOR."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stderr.isatty()


def _make_output_encodable() -> None:
    """A model may say anything: on a terminal without UTF-8, escape what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure and (stream.encoding or "").lower().replace("-", "") != "utf8":
            reconfigure(errors="backslashreplace")
