"""One format to another: streamed, proved, and there whole or not at all.

The writers stream tensor by tensor into a place beside the destination; the proof reads source and
result side by side; only then does the result get its name.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from puna.console import Console
from puna.errors import CheckpointError, UsageError
from puna.tokens.tokenizer import Tokenizer
from puna.weights.first_checkpoint import write_first_checkpoint
from puna.weights.gguf import write_gguf
from puna.weights.huggingface import SHARD_BYTES, write_huggingface
from puna.weights.meta import write_meta
from puna.weights.open_model import models_in, open_model
from puna.weights.prove import Proof, prove
from puna.weights.source import ModelSource
from puna.whole_folder import is_free, whole_folder

Target = Literal["hf", "meta", "gguf", "puna"]
TARGETS: tuple[Target, ...] = ("hf", "meta", "gguf", "puna")
WIDE_DTYPES = ("f32", "f16", "bf16")
QUANTISED_DTYPES = ("q8_0", "q4_0", "q4_1", "q4_k", "q6_k")


@dataclass(frozen=True)
class Conversion:
    """What to make: `dtype` None keeps what the source has, as far as the format can.

    `shards` is Meta's number of model-parallel files, `file_bytes` how large one file of the
    result may be; `is_proved` runs the proof, `overwrites` replaces a model that is there.
    """

    target: Target
    dtype: str | None = None
    shards: int = 1
    file_bytes: int | None = None
    is_proved: bool = True
    overwrites: bool = False

    def __post_init__(self) -> None:
        known = {"gguf": (*WIDE_DTYPES, *QUANTISED_DTYPES), "puna": ("f32",)}
        dtypes = known.get(self.target, WIDE_DTYPES)
        if self.dtype is not None and self.dtype not in dtypes:
            is_quantised = self.dtype in QUANTISED_DTYPES
            raise UsageError(
                f"{self.target} is written as {', '.join(dtypes)}, got {self.dtype!r}",
                hint="blocks of few bits are GGUF's: --to gguf"
                if is_quantised
                else "take one of these",
            )
        if self.shards != 1 and self.target != "meta":
            raise UsageError("only Meta's format has model-parallel files", hint="--to meta --mp N")
        if self.file_bytes is not None and self.target == "meta":
            raise UsageError("Meta's files are divided by --mp, not by their size", hint="--mp N")
        if self.file_bytes is not None and self.target == "puna":
            raise UsageError("a checkpoint's weights are one file: --split is for hf and gguf")
        if self.shards < 1 or (self.file_bytes is not None and self.file_bytes < 1):
            raise UsageError("--mp and --split are at least 1")


def convert(
    source: ModelSource,
    destination: Path,
    wish: Conversion,
    console: Console,
    tokenizer: Tokenizer | None = None,
) -> Proof | None:
    """Write `source` to `destination`, with `tokenizer` beside or inside; returns the proof.

    Raises UsageError or CheckpointError when the destination is taken, the disk too full, the
    format unable to hold the model, or the proof fails; then nothing lies at the destination.
    """
    require_free(destination, wish)
    if wish.target == "gguf":
        with _files_beside(destination) as partial:
            return _write_gguf(source, partial / destination.name, wish, console, tokenizer)
    with whole_folder(destination) as partial:
        if wish.target == "puna":
            write_first_checkpoint(source, partial, tokenizer=tokenizer, console=console)
        elif wish.target == "hf":
            write_huggingface(
                source,
                partial,
                dtype=wish.dtype,
                console=console,
                max_shard_bytes=wish.file_bytes or SHARD_BYTES,
                vocabulary=tokenizer.vocabulary if tokenizer else None,
                extra_files=tokenizer_files(source, tokenizer, "hf"),
            )
        else:
            write_meta(source, partial, dtype=wish.dtype, shards=wish.shards, console=console)
            for name, content in tokenizer_files(source, tokenizer, "meta").items():
                (partial / name).write_bytes(content)
        return _proved(source, partial, wish, console, tokenizer)


def require_free(destination: Path, wish: Conversion) -> None:
    """Refuse a destination that is taken, unless it is a model and may be replaced."""
    if wish.target == "gguf":
        if destination.is_dir():
            raise UsageError(
                f"a GGUF is a file, {destination} is a folder",
                hint=f"name the file: {destination / 'model.gguf'}",
            )
        taken = _files_of(destination)
    else:
        taken = [] if is_free(destination) else [destination]
    if taken and not wish.overwrites:
        raise CheckpointError(
            f"{taken[0]} is there already", hint="give another name, or --overwrite"
        )
    if taken and destination.is_dir() and not models_in(destination):
        raise CheckpointError(
            f"{destination} holds other things than a model, which --overwrite does not remove",
            hint="give another name",
        )


def tokenizer_files(
    source: ModelSource, tokenizer: Tokenizer | None, target: Literal["hf", "meta"]
) -> dict[str, bytes]:
    """What lies beside the weights, by name: made of the tokenizer, but the source's own files as
    they are where they are of this tokenizer.
    """
    if tokenizer is None:
        return {}
    files = tokenizer.files() if target == "hf" else tokenizer.meta_files()
    own = source.tokenizer_files.files
    if tokenizer.path not in own.values():
        return files
    kept = own if target == "hf" else own.keys() & files.keys()
    return files | {name: own[name].read_bytes() for name in kept}


def _write_gguf(
    source: ModelSource, file: Path, wish: Conversion, console: Console, tokenizer: Tokenizer | None
) -> Proof | None:
    if tokenizer is None:
        raise UsageError(
            "a GGUF holds its tokenizer, and none lies with the source",
            hint="give one: --tokenizer-path tokenizer.model",
        )
    write_gguf(
        source,
        file,
        dtype=wish.dtype,
        vocabulary=tokenizer.vocabulary,
        console=console,
        split_bytes=wish.file_bytes,
    )
    return _proved(source, file.parent, wish, console, tokenizer)


def _proved(
    source: ModelSource,
    result: Path,
    wish: Conversion,
    console: Console,
    tokenizer: Tokenizer | None,
) -> Proof | None:
    """Open the result as anybody would, and compare it with the source unless told not to."""
    opened = open_model(result)
    return prove(source, opened, tokenizer, console) if wish.is_proved else None


@contextmanager
def _files_beside(destination: Path) -> Iterator[Path]:
    """A folder beside `destination`; its files take their places there when the block ends well."""
    parent = Path(os.path.abspath(destination)).parent
    prefix = f".{destination.name}.partial-"
    partial = parent / f"{prefix}{os.getpid()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.iterdir():
            if leftover.name.startswith(prefix):
                shutil.rmtree(leftover)
        partial.mkdir()
        yield partial
        for old in _files_of(destination):
            old.unlink()
        for file in sorted(
            partial.iterdir(), reverse=True
        ):  # the first part, which is opened, last
            file.replace(parent / file.name)
    except OSError as error:
        raise CheckpointError(
            f"{destination} cannot be written: {error.strerror or error}",
            hint="is there room, and may you write there?",
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files_of(destination: Path) -> list[Path]:
    """What lies at a GGUF's name: the file, or its parts."""
    part = re.compile(re.escape(destination.stem) + r"-\d{5}-of-\d{5}\.gguf")
    if not destination.parent.is_dir():
        return []
    return sorted(
        path
        for path in destination.parent.iterdir()
        if path.name == destination.name or part.fullmatch(path.name)
    )
