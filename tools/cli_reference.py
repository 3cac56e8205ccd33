"""Write docs/reference/cli.md from the verbs' own arguments (`make docs`); a test compares them.

Rendered from the parsers, not from their help text, which each Python version lays out differently.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "cli.md"
INTRODUCTION = """# The command

Written by `make docs` from the verbs themselves; do not edit.

`puna VERB --help` prints the same in the terminal. Talk and progress go to stderr, data to stdout.
Every verb takes `--json` (print JSON on stdout) and `--quiet` (no talk and no progress bars).
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""
EVERYWHERE = {"help", "json", "quiet"}


def main() -> int:
    """Write the page."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def page() -> str:
    """The whole page: groups, verbs, sub-verbs, in the order of `puna --help`."""
    from puna.cli import GROUPS, build_parser

    parts = [INTRODUCTION]
    for group, verbs in GROUPS.items():
        parts.append(f"## {group}\n")
        for verb in verbs:
            parts += [section(parser, summary) for parser, summary in parsers(build_parser(verb))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def parsers(
    parser: argparse.ArgumentParser, summary: str = ""
) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """The verb's parser and those of its sub-verbs, each with its line in the list of verbs."""
    yield parser, summary
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, inner in action.choices.items():
                yield from parsers(inner, summaries.get(name, ""))


def section(parser: argparse.ArgumentParser, summary: str) -> str:
    """One verb: what it does, its arguments as a list, its examples."""
    lines = [f"### {parser.prog}\n", (parser.description or summary).strip() + "\n"]
    lines += [argument(action) for action in parser._actions if shown(action)]
    if parser.epilog:
        lines += ["", *epilog(parser.epilog)]
    return "\n".join(lines) + "\n"


def epilog(text: str) -> Iterator[str]:
    """Indented lines become code, the others stay prose."""
    is_code = False
    for line in text.strip().splitlines():
        if line.startswith("  ") != is_code:
            yield "```" if is_code else "\n```"
            is_code = not is_code
        yield line.removeprefix("  ")
    if is_code:
        yield "```"


def shown(action: argparse.Action) -> bool:
    """Is this an argument of this verb alone? Sub-verbs have sections of their own."""
    is_sub_verb = isinstance(action, argparse._SubParsersAction)
    return action.dest not in EVERYWHERE and not is_sub_verb and action.help != argparse.SUPPRESS


def argument(action: argparse.Action) -> str:
    """One argument as a list item: names, value, meaning, default."""
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices:
        value = " | ".join(map(str, action.choices))
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    head = f"`{names} {value}`" if action.option_strings and value else f"`{names}`"
    default = action.default
    has_default = default is not None and not isinstance(default, bool | list | tuple)
    shown_default = has_default and default is not argparse.SUPPRESS
    text = (action.help or "").replace("%(default)s", str(default)).replace("%%", "%")
    if shown_default and "%(default)" not in (action.help or ""):
        text += f" (default: {default})"
    return f"- {head}: {text}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
