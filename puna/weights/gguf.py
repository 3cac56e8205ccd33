"""LLaMAs in GGUF files: opened as a ModelSource, whole or split, and written.

GGUF of the architecture "llama" keeps Meta's interleaved rows of wq and wk, so tensors pass
through as they lie. `write_gguf` gives every matrix a type as llama.cpp's quantiser would:
norms stay F32, the output (or the embedding that serves as one) gets Q6_K under any smaller type,
and `q4_k` is llama.cpp's Q4_K_M: Q6_K also for wv and w2 of about half the layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from puna.console import Console
from puna.errors import CheckpointError
from puna.model.sizes import ModelConfig
from puna.tokens.formats.gguf_vocabulary import gguf_metadata
from puna.tokens.vocabulary import Vocabulary, padded
from puna.weights import gguf_llama as llama
from puna.weights.gguf_blocks import READS, dequantize, quantize
from puna.weights.gguf_file import GgufFile, read_gguf
from puna.weights.gguf_mixture import mixture
from puna.weights.gguf_types import TYPES
from puna.weights.gguf_writer import PlannedTensor, split_path, write_files
from puna.weights.names import from_gguf, to_gguf
from puna.weights.source import (
    Bytes,
    FloatArray,
    Format,
    ModelSource,
    StoredTensor,
    TokenizerFiles,
    checked_tensors,
    require_finite,
)
from puna.weights.untrusted import shown

_SPLIT_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_TOLD_ON = {
    f"general.{key}"
    for key in ("name", "author", "organization", "basename", "finetune", "version", "size_label")
} | {f"general.{key}" for key in ("license", "license.name", "license.link", "languages", "tags")}
_WEIGHT_TYPES = [name for name in TYPES if not re.fullmatch(r"I\d+", name)]
_PART_BYTES = 16 << 20  # read or quantised at once


class GgufSource:
    """A GGUF model as a ModelSource; `parts` are its files, one unless it is split."""

    format: Format = "gguf"

    def __init__(self, path: Path, parts: list[GgufFile]) -> None:
        """Check the headers against one another. Raises CheckpointError where they disagree."""
        self.path = path
        self.parts = parts
        self._part_of = _all_tensors(parts)
        metadata = parts[0].metadata
        shapes = {name: part.tensors[name].shape for name, part in self._part_of.items()}
        told = llama.described(path, metadata, shapes, self._rope_factors())
        self.config = told.config
        self.tensors = checked_tensors(
            self.config, self._stored(), path, dtypes=_WEIGHT_TYPES, theirs=to_gguf
        )
        has_tokenizer = llama.TOKENS_KEY in metadata
        if has_tokenizer:
            llama.check_pieces(path, metadata, self.config.vocabulary_size)
        self.tokenizer_files = TokenizerFiles(path, gguf=metadata if has_tokenizer else None)
        self.notes = told.notes
        if not has_tokenizer:
            self.notes += ("the file holds no tokenizer",)
        self.notes += tuple(
            f"{part.bytes_after} bytes after the last tensor of {part.path.name} were ignored"
            for part in parts
            if part.bytes_after
        )

    def read(self, name: str) -> FloatArray:
        """The tensor in float32, dequantised.

        Raises CheckpointError when a value is not finite, MachineError when its type needs the
        gguf package and that is not installed.
        """
        part = self._part_of[to_gguf(name)]
        tensor = part.tensors[to_gguf(name)]
        where = f"{part.path}: {tensor.name}"
        values = dequantize(part.raw(tensor.name), tensor.dtype, where)
        return require_finite(values, where).reshape(tensor.shape)

    def raw(self, name: str) -> Bytes | None:
        """Its bytes as they lie: GGUF keeps Meta's order of rows."""
        return self._part_of[to_gguf(name)].raw(to_gguf(name))

    def _rope_factors(self) -> FloatArray:
        part = self._part_of.get(llama.ROPE_TENSOR)
        if part is None:
            return np.empty(0, dtype=np.float32)
        tensor = part.tensors[llama.ROPE_TENSOR]
        if tensor.dtype != "F32" or len(tensor.shape) != 1:
            raise CheckpointError(
                f"{part.path}: {tensor.name} should be a list of F32, found {tensor.dtype} of "
                f"shape {list(tensor.shape)}"
            )
        return dequantize(part.raw(tensor.name), "F32")

    def _stored(self) -> dict[str, StoredTensor]:
        """The tensors by Meta's names; another model's keep their own and are refused by them."""
        stored = {}
        for theirs, part in self._part_of.items():
            name, one = from_gguf(theirs), part.tensors[theirs]
            if name is not None:
                stored[name] = StoredTensor(name, one.shape, one.dtype, one.nbytes)
            elif theirs != llama.ROPE_TENSOR:
                raise CheckpointError(
                    f"{part.path} holds {shown(theirs)}, which a LLaMA of Puna's lacks",
                    hint="Puna's LLaMA has no biases, no experts and no adapters",
                )
        return stored


def open_gguf(path: Path) -> GgufSource:
    """The LLaMA in a GGUF file, or in the split files of which `path` is any one.

    Raises CheckpointError, with file and offset, when a file is missing, broken, or another
    model than a LLaMA.
    """
    return GgufSource(path, _opened_parts(path))


def _opened_parts(path: Path) -> list[GgufFile]:
    opened = read_gguf(path)
    count = _split_number(opened, "split.count", 1)
    if count == 1:
        return [opened]
    match = _SPLIT_NAME.fullmatch(path.name)
    number = _split_number(opened, "split.no", 0)
    if match is None or (int(match[2]), int(match[3])) != (number + 1, count):
        wanted = split_path(Path("NAME.gguf"), number, count)
        raise CheckpointError(
            f"{path} is part {number + 1} of {count} and should be called {wanted}",
            hint="the other parts are found by their names; rename the files back",
        )
    whole = path.with_name(f"{match[1]}.gguf")
    parts = []
    for index in range(count):
        file = split_path(whole, index, count)
        part = opened if index == number else read_gguf(file)
        found = _split_number(part, "split.no", 0), _split_number(part, "split.count", 1)
        if found != (index, count):
            raise CheckpointError(
                f"{file} should be part {index + 1} of {count}, found part {found[0] + 1} "
                f"of {found[1]}"
            )
        parts.append(part)
    tensors = sum(len(part.tensors) for part in parts)
    if _split_number(parts[0], "split.tensors.count", tensors) != tensors:
        told = _split_number(parts[0], "split.tensors.count", tensors)
        raise CheckpointError(
            f"{path}: its {count} parts should hold {told} tensors, not {tensors}"
        )
    return parts


def _split_number(part: GgufFile, key: str, default: int) -> int:
    value = part.metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < (key != "split.no"):
        raise CheckpointError(f"{part.path}: {key} should be a whole number, found {value!r:.80}")
    return value


def _all_tensors(parts: list[GgufFile]) -> dict[str, GgufFile]:
    """The file that each tensor lies in."""
    part_of: dict[str, GgufFile] = {}
    for part in parts:
        for name in part.tensors:
            if name in part_of:
                raise CheckpointError(f"{part.path}: {name!r} is in {part_of[name].path.name} too")
            part_of[name] = part
    return part_of


def write_gguf(
    source: ModelSource,
    file: Path,
    *,
    dtype: str | None,
    vocabulary: Vocabulary,
    console: Console,
    split_bytes: int | None = None,
) -> list[Path]:
    """Write `source` as GGUF, tensor by tensor; returns the paths: one, or those of split files.

    dtype None keeps every type as stored; else it is one of WRITES in any case. A tensor that
    has its type already passes through byte by byte. Raises UsageError for an unknown dtype,
    CheckpointError when the tokenizer has more pieces than the model, or a value is not finite or
    does not fit its type, TokenizerError when GGUF cannot say what the tokenizer does,
    MachineError when the disk is too full.
    """
    mixed = mixture(source.config, source.tensors, dtype)
    pieces, added = _padded_vocabulary(vocabulary, source.config.vocabulary_size)
    metadata = {
        **_general_keys(source, mixed.file_type),
        **llama.metadata_of(source.config),
        **gguf_metadata(pieces),
    }
    for note in (*mixed.notes, *added, *_shortened(source.config)):
        console.warn(note)
    planned = [
        PlannedTensor(to_gguf(name), stored.shape, kind, _parts_of(source, name, kind))
        for name, stored in source.tensors.items()
        for kind in [mixed.types[name]]
    ]
    scaling = source.config.rope_scaling
    if scaling is not None and scaling.kind == "llama3":
        factors = llama.rope_factors(source.config)
        planned.append(
            PlannedTensor(
                llama.ROPE_TENSOR, factors.shape, "F32", lambda: [quantize(factors, "F32")]
            )
        )
    total = sum(tensor.nbytes for tensor in planned)
    with console.progress(total, f"writing {file.name}", "B") as bar:
        return write_files(file, metadata, planned, split_bytes=split_bytes, advance=bar.update)


def _parts_of(source: ModelSource, name: str, dtype: str) -> Callable[[], Iterator[Bytes]]:
    """The bytes of a tensor in type `dtype`, some megabytes at a time."""

    def parts() -> Iterator[Bytes]:
        raw = source.raw(name) if source.tensors[name].dtype == dtype else None
        if raw is not None:
            yield from _checked_parts(raw, dtype, f"{source.path}: {name}")
            return
        values = source.read(name)
        rows = values.reshape(-1, values.shape[-1])
        step = max(1, _PART_BYTES // (4 * rows.shape[1]))
        for start in range(0, len(rows), step):
            try:
                yield quantize(rows[start : start + step], dtype)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{source.path}: {name} as {dtype}: {error.message}", hint=error.hint
                ) from None

    return parts


def _checked_parts(raw: Bytes, dtype: str, where: str) -> Iterator[Bytes]:
    """`raw` in parts of whole blocks, unchanged, once their values are known to be finite."""
    block_bytes = TYPES[dtype].block_bytes
    step = _PART_BYTES // block_bytes * block_bytes
    for start in range(0, raw.size, step):
        part = raw[start : start + step]
        if dtype in READS:  # other types need the gguf package; they pass unread
            require_finite(dequantize(part, dtype), where)
        yield part


def _general_keys(source: ModelSource, file_type: int | None) -> dict[str, Any]:
    """`general.*`: what the source says of itself, and what the file is."""
    told = source.tokenizer_files.gguf or {}
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": source.path.stem if source.path.is_file() else source.path.name,
    }
    keys |= {key: value for key, value in told.items() if key in _TOLD_ON}
    if file_type is not None:
        keys["general.file_type"] = file_type
    return {**keys, "general.quantization_version": 2}


def _padded_vocabulary(vocabulary: Vocabulary, size: int) -> tuple[Vocabulary, list[str]]:
    """As many pieces as the embedding has rows, and a note where some had to be made up."""
    missing = size - len(vocabulary)
    if missing < 0:
        raise CheckpointError(
            f"the tokenizer should have at most {size:,} pieces, one for each row of the "
            f"embedding, found {len(vocabulary):,}",
            hint="give the tokenizer that the model was trained with",
        )
    if missing == 0:
        return vocabulary, []
    note = f"the embedding has {missing} more rows than the tokenizer has pieces: unused"
    return padded(vocabulary, size), [note]


def _shortened(config: ModelConfig) -> list[str]:
    if config.unstretched_length == config.context_length:
        return []
    return [
        f"GGUF has no dynamic scaling of positions: the context is {config.unstretched_length} "
        f"tokens instead of {config.context_length}"
    ]
