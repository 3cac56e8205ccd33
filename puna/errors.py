"""Every error a user can cause, as one tree.

PunaError                      anything Puna refuses; the command prints it and exits 1
├── UsageError                 the command line is wrong (exit 2)
├── ConfigError                a recipe, a `--set` or a combination of values is wrong
├── DataError                  a document, a corpus or a shard is missing, broken or changed
├── TokenizerError             a tokenizer file or a text it cannot encode
├── CheckpointError            weights or a checkpoint are missing, broken or of another shape
├── SchemaError                a file was written by a newer Puna, or is not one of ours
├── TrainingError              the run itself went wrong (NaN, out of memory, disk full)
├── BusyError                  an engine has as many texts waiting as it may; try again later
└── MachineError               something this machine lacks (a package, an instruction set, room)

Each message has three parts: what was wanted, what was found, and a hint that says what to do.
"""

from __future__ import annotations


class PunaError(Exception):
    """One mistake, said once: `message` tells what was wanted and found, `hint` what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class UsageError(PunaError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(PunaError):
    """A recipe, a `--set` or a combination of values is wrong."""


class DataError(PunaError):
    """A document, a corpus or a shard is missing, broken or changed."""


class TokenizerError(PunaError):
    """A tokenizer file, or a text that cannot be encoded."""


class CheckpointError(PunaError):
    """Weights or a training checkpoint are missing, broken or of another shape."""


class SchemaError(PunaError):
    """A file was written by a newer Puna, or is not one of ours."""


class TrainingError(PunaError):
    """The run itself went wrong: NaN loss, out of memory, disk full."""


class BusyError(PunaError):
    """An engine has as many texts waiting as it may: try again later."""


class MachineError(PunaError):
    """Something this machine lacks: a package, an instruction set, room in memory or on a disk."""


def missing_package(package: str, extra: str, wanted_for: str) -> MachineError:
    """The error for an import that needs an extra: what it is for and the line that installs it."""
    return MachineError(
        f"{wanted_for} needs the package {package}, which is not installed",
        hint=f"pip install 'puna[{extra}]'",
    )
