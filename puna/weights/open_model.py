"""A name, a folder or a file -> the model in it, its format found out by what the bytes say."""

from __future__ import annotations

import functools
import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from puna.errors import CheckpointError, TokenizerError, UsageError
from puna.tokens.tokenizer import Tokenizer
from puna.weights.cache import Cache
from puna.weights.checkpoint import Which, open_checkpoint
from puna.weights.gguf import open_gguf
from puna.weights.huggingface import open_huggingface
from puna.weights.llama2c import open_llama2c
from puna.weights.meta import open_meta
from puna.weights.registry import ALIASES_ON_DISK, is_name
from puna.weights.source import ModelSource
from puna.weights.untrusted import JSON_LIMIT_BYTES, opened, unreadable

Kind = Literal[
    "gguf", "torch", "safetensors", "hf config", "meta params", "llama2c", "puna manifest"
]
_LLAMA2C = struct.Struct("<7i")
_NEWER_LLAMA2C = b"24ka"  # versions 1 and 2 begin so; their reader says what to do
_SPLIT = re.compile(r"(.*)-(\d{5})-of-\d{5}\.gguf")


@dataclass(frozen=True)
class Found:
    """One model that a folder holds: what it is called in messages, and how to open it."""

    label: str
    open: Callable[[], ModelSource]


def open_model(
    path_or_name: Path | str, *, which: Which = "latest", cache: Cache | None = None
) -> ModelSource:
    """The model in a file or folder, or the pulled one of that name; headers are read, no tensor.

    What lies on the disk goes before a name. `which` chooses a run folder's checkpoint. Raises
    CheckpointError when there is no model or a broken one, UsageError when there are several.
    """
    path = Path(path_or_name)
    if not os.path.exists(path):  # Path.exists raises for a name too long, as addresses are
        path = _named(str(path_or_name), cache)
    if not path.is_dir() and not path.is_file():  # reading a pipe might never end
        raise CheckpointError(f"{path} should be a folder or a file, found neither")
    source = _in_folder(path, which) if path.is_dir() else _in_file(path)
    if which != "latest" and source.format != "puna":
        raise UsageError(f"{path} has no {which} checkpoint: only runs of Puna's have several")
    return source


def find_tokenizer(source: ModelSource, given: Path | None = None) -> Tokenizer | None:
    """The `given` tokenizer, else the one that lies with a model; None where there is none.

    Raises TokenizerError when it is broken.
    """
    if given is not None:
        return Tokenizer.load(given)
    files = source.tokenizer_files
    if files.gguf is not None:
        return Tokenizer.from_gguf(files.gguf, source.path)
    if not files.files:
        return None
    paths = list(files.files.values())
    is_one_folder = len(paths) > 1 and len({path.parent for path in paths}) == 1
    return Tokenizer.load(paths[0].parent if is_one_folder else paths[0])


def load_tokenizer(source: ModelSource, given: Path | None = None) -> Tokenizer:
    """The same where one is needed. Raises TokenizerError when there is none."""
    tokenizer = find_tokenizer(source, given)
    if tokenizer is None:
        raise TokenizerError(
            f"{source.path} holds a model but no tokenizer",
            hint="give one: --tokenizer-path tokenizer.model",
        )
    return tokenizer


def _named(text: str, cache: Cache | None) -> Path:
    """Where the pulled model of this name lies."""
    if is_name(text):
        return (cache or Cache()).locate(text).path
    path = Path(text)
    other = ALIASES_ON_DISK.get(path.name.upper())
    if other is not None and path.with_name(other).exists():
        return path.with_name(other)
    raise CheckpointError(
        f"{text} should be a model's folder, file or name, found nothing there",
        hint="puna pull --list shows the names, puna cache list the models that are here",
    )


def _in_folder(folder: Path, which: Which) -> ModelSource:
    found = models_in(folder, which)
    if not found:
        names = [path.name for path in _listed(folder)]
        what = f"only {', '.join(names[:8])}" if names else "an empty folder"
        raise CheckpointError(
            f"{folder} should hold a model, found {what}",
            hint="a model is a run of ours, config.json with weights, params.json with weights, "
            "or one .gguf or llama2.c file",
        )
    if len(found) > 1:
        raise UsageError(
            f"{folder} holds {len(found)} models: " + "; ".join(one.label for one in found),
            hint="name the file of the one you mean",
        )
    return found[0].open()


def models_in(folder: Path, which: Which = "latest") -> list[Found]:
    """Every model directly in a folder, each format by the content of its files.

    Raises CheckpointError when the folder or a file in it cannot be read.
    """
    kinds: dict[Kind, list[Path]] = {}
    for path in _listed(folder):
        kind = kind_of(path) if path.is_file() else None
        if kind is not None:
            kinds.setdefault(kind, []).append(path)
    found = []
    if "puna manifest" in kinds or (folder / "checkpoints").is_dir():
        return [Found("a checkpoint of Puna's", lambda: open_checkpoint(folder, which))]
    has_torch = "torch" in kinds
    if "hf config" in kinds and ("safetensors" in kinds or has_torch or "meta params" not in kinds):
        found.append(Found("Hugging Face's (config.json)", lambda: open_huggingface(folder)))
    if "meta params" in kinds and (has_torch or not found):
        found.append(Found("Meta's (params.json)", lambda: open_meta(folder)))
    files = _first_parts(kinds.get("gguf", [])) + kinds.get("llama2c", [])
    return found + [Found(path.name, functools.partial(_in_file, path)) for path in files]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from None


def _first_parts(paths: list[Path]) -> list[Path]:
    """GGUF files without those that go on where another began."""
    first: dict[str, Path] = {}
    for path in paths:
        match = _SPLIT.fullmatch(path.name)
        first.setdefault(match[1] if match else path.name, path)
    return list(first.values())


def _in_file(path: Path) -> ModelSource:
    kind = kind_of(path)
    if kind == "gguf":
        return open_gguf(path)
    if kind == "llama2c":
        return open_llama2c(path)
    if kind == "puna manifest":
        return open_checkpoint(path.parent)
    if kind is not None:
        return _with_its_config(path, kind)
    raise CheckpointError(
        f"{path} should be a model, found {_beginning(path)}",
        hint="Puna reads GGUF, llama2.c, and folders of Hugging Face's and Meta's form",
    )


def _with_its_config(path: Path, kind: Kind) -> ModelSource:
    """The model of which `path` is a part: the weights, or the description beside them."""
    beside = {kind_of(one) for one in _listed(path.parent) if one.is_file()}
    if kind == "meta params" or (kind == "torch" and "meta params" in beside):
        return open_meta(path)
    if kind == "hf config" or "hf config" in beside:
        return open_huggingface(path)
    if kind == "safetensors" and (path.parent / "recipe.toml").is_file():
        return open_checkpoint(path.parent)
    wanted = "params.json or config.json" if kind == "torch" else "config.json"
    raise CheckpointError(
        f"{path} holds weights ({kind}), but no {wanted} lies beside it to tell their shape",
        hint="bring it from where the weights came",
    )


def kind_of(path: Path) -> Kind | None:
    """What a file is by its first bytes, and JSON by its keys; None for what is no part of a model.

    Raises CheckpointError when it cannot be read.
    """
    with opened(path, "be a part of a model") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(64)
        if start[:1] in b"{ \t\r\n" and start and size <= JSON_LIMIT_BYTES:
            return _kind_of_json(start + file.read())
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(b"PK\x03\x04") or start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return "torch"  # a zip, or a bare pickle as torch wrote before 2020
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    return "llama2c" if is_llama2c(start) or start.startswith(_NEWER_LLAMA2C) else None


def _kind_of_json(content: bytes) -> Kind | None:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    if str(record.get("schema", "")).startswith("puna.checkpoint") and "files" in record:
        return "puna manifest"
    if "dim" in record and "n_layers" in record:
        return "meta params"
    return "hf config" if "model_type" in record or "architectures" in record else None


def is_llama2c(start: bytes) -> bool:
    """Whether a file that starts so can be a llama2.c model: seven numbers of a LLaMA's shape."""
    if len(start) < _LLAMA2C.size:
        return False
    dim, hidden, layers, heads, kv_heads, vocabulary, context = _LLAMA2C.unpack_from(start)
    vocabulary = abs(vocabulary)  # negative where the output has a table of its own
    values = (dim, hidden, layers, heads, kv_heads, vocabulary, context)
    if min(values) < 1 or max(values) > 1 << 24 or layers > 1 << 10:
        return False
    return bool(dim % heads == 0 and heads % kv_heads == 0)


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    return f"a file that begins with {start!r}" if start else "an empty file"
