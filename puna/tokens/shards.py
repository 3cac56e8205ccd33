"""Token shards: a corpus as memory-mapped files of token ids, written once and read at random.

A folder of shards holds
  tokens-00000.bin ...  ids one after another, little-endian uint16 (uint32 for a vocabulary above
                        65,536); every file but the last has the same number of tokens
  documents.bin         where each document begins, and the end: little-endian uint64
  manifest.json         counts, config, tokenizer, and size and SHA-256 of each file; written last
Each document is begin token, its tokens, end token. The folder is built under another name and
renamed, so that it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from puna import schema
from puna.config import to_table
from puna.console import Console, human_bytes, human_count, human_duration
from puna.errors import ConfigError, DataError
from puna.tokens.fingerprint import TextFingerprint, differences
from puna.tokens.tokenizer import FILE_NAME, Tokenizer
from puna.whole_folder import whole_folder

KIND = "puna.shards"
MANIFEST_NAME = "manifest.json"
DOCUMENTS_NAME = "documents.bin"
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
OFFSET = np.dtype("<u8")
_BATCH_CHARACTERS = 4 << 20  # of documents tokenised at once
_REBUILD = "build the shards again: puna data build"

Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class ShardsConfig:
    """How tokens are laid out on disk."""

    shard_bytes: int = 1 << 29  # limit of one file: 512 MiB

    def __post_init__(self) -> None:
        if self.shard_bytes < DTYPES["uint32"].itemsize:
            raise ConfigError(
                f"shards.shard_bytes must be at least 4, got {self.shard_bytes}",
                hint="536870912 (512 MiB) is usual",
            )


def write_shards(
    documents: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    out: Path,
    config: ShardsConfig,
    console: Console,
) -> ShardSet:
    """Tokenise documents, given as (id, text), into the folder `out`; all of it or nothing.

    Where `out` holds shards already, they are returned if they were made from the same documents,
    tokenizer and config. Raises DataError when they were not, when there are no documents, or when
    `out` cannot be written; TokenizerError for a lone surrogate, naming the document.
    """
    if (out / MANIFEST_NAME).is_file():
        return _reuse(documents, tokenizer, out, config, console)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DataError(
            f"{out} should be a new or empty folder for token shards, found other files",
            hint="choose another --out",
        )
    began = time.monotonic()
    with whole_folder(out) as partial:
        record = _write_files(documents, tokenizer, partial, config, console)
        record["seconds"] = round(time.monotonic() - began, 2)
        schema.write_json(partial / MANIFEST_NAME, KIND, record)
    console.say(
        f"shards: {record['documents']:,} documents, {human_count(record['tokens'])} tokens from "
        f"{human_bytes(record['text_bytes'])} in {human_duration(record['seconds'])}"
    )
    return ShardSet.open(out)


def keep_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Put the tokenizer beside the shards of a corpus's splits that were made with it."""
    kept = folder / FILE_NAME
    if not kept.is_file() or schema.sha256_file(kept) != tokenizer.sha256:
        schema.write_atomic(kept, tokenizer.path.read_bytes())


class ShardSet:
    """Token shards on disk as one long circle of tokens; nothing is held in memory."""

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        """Map the files that the manifest `record` names; `open` is the checked way in."""
        self.folder = folder
        self.tokens: int = record["tokens"]
        self.documents: int = record["documents"]
        self.text_bytes: int = record["text_bytes"]
        self.vocabulary_size: int = record["vocabulary_size"]
        self.tokenizer_sha256: str = record["tokenizer_sha256"]
        self.files: dict[str, dict[str, Any]] = record["files"]
        self._dtype = DTYPES[record["dtype"]]
        self._shard_tokens: int = record["shard_tokens"]
        self._shards = [
            _map(folder / name, self._dtype) for name in self.files if name != DOCUMENTS_NAME
        ]
        self._begins = _map(folder / DOCUMENTS_NAME, OFFSET)

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = False) -> ShardSet:
        """The shards in `folder`, sizes checked; with `verify` every byte, by SHA-256.

        Raises DataError when there are none or a file is missing, cut off or changed; SchemaError
        when the manifest is not ours or of a newer Puna.
        """
        folder = Path(folder)
        if not (folder / MANIFEST_NAME).is_file():
            raise DataError(f"there are no token shards in {folder}", hint=_REBUILD)
        record = schema.read_json(folder / MANIFEST_NAME, KIND)
        try:
            if not _counts_agree(record):
                raise ValueError("its counts and file sizes disagree")
            _check_files(folder, record["files"], verify)
            return cls(folder, record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{folder / MANIFEST_NAME} is damaged: {type(error).__name__}: {error}",
                hint=_REBUILD,
            ) from None

    @property
    def fingerprint(self) -> str:
        """One SHA-256 over what training reads: tokenizer, tokens, documents. 64 hex digits."""
        return fingerprint_of(self.tokenizer_sha256, self._dtype, self.files)

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text for each token, begin and end tokens counted."""
        return self.text_bytes / self.tokens

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise DataError unless the shards were made with this tokenizer file."""
        if tokenizer.sha256 != self.tokenizer_sha256:
            raise DataError(
                f"the shards in {self.folder} were made with another tokenizer than "
                f"{tokenizer.path}: SHA-256 {self.tokenizer_sha256[:12]}..., "
                f"not {tokenizer.sha256[:12]}...",
                hint=f"use the tokenizer they were made with, or {_REBUILD}",
            )

    def read(self, start: int, count: int) -> Ids:
        """`count` ids from position `start` on; the end of the corpus leads to its beginning."""
        result = np.empty(count, self._dtype)
        filled = 0
        while filled < count:
            shard, at = divmod((start + filled) % self.tokens, self._shard_tokens)
            part = self._shards[shard][at : at + count - filled]
            result[filled : filled + len(part)] = part
            filled += len(part)
        return result

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Ids [len(starts), length]: the row `read(start, length)` for each start."""
        result = np.empty((len(starts), length), np.int64)
        shards, places = np.divmod(starts % self.tokens, self._shard_tokens)
        for shard in np.unique(shards):
            tokens = self._shards[shard]
            rows = np.flatnonzero(shards == shard)
            inside = rows[places[rows] + length <= len(tokens)]
            if len(inside):
                result[inside] = sliding_window_view(tokens, length)[places[inside]]
            for row in np.setdiff1d(rows, inside):
                result[row] = self.read(int(starts[row]), length)
        return result

    def document(self, index: int) -> Ids:
        """The ids of one document, begin and end tokens included.

        Raises DataError when there is no document of this index.
        """
        if not 0 <= index < self.documents:
            raise DataError(
                f"{self.folder} has documents 0 to {self.documents - 1}, {index} was asked for"
            )
        begin, end = (int(place) for place in self._begins[index : index + 2])
        return self.read(begin, end - begin)


def fingerprint_of(
    tokenizer_sha256: str, dtype: np.dtype[Any], files: dict[str, dict[str, Any]]
) -> str:
    """The fingerprint of shards, from what their manifest says."""
    digests = {name: facts["sha256"] for name, facts in files.items()}
    content = json.dumps([tokenizer_sha256, str(dtype), digests], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def dtype_of(tokenizer: Tokenizer) -> np.dtype[Any]:
    """The smallest type that holds every id of a tokenizer."""
    return DTYPES["uint16" if tokenizer.vocabulary_size <= 1 << 16 else "uint32"]


def _map(path: Path, dtype: np.dtype[Any]) -> Ids:
    """A file as an array without reading it; a plain view, since slicing np.memmap is slow."""
    return np.asarray(np.memmap(path, dtype, mode="r"))


def _write_files(
    documents: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    folder: Path,
    config: ShardsConfig,
    console: Console,
) -> dict[str, Any]:
    """Write shards and document offsets; returns the manifest's record."""
    dtype = dtype_of(tokenizer)
    texts = TextFingerprint()
    with (
        _ShardWriter(folder, config.shard_bytes // dtype.itemsize, dtype) as writer,
        _HashedFile(folder / DOCUMENTS_NAME) as begins,
        console.progress(None, "tokenise", "B") as bar,
    ):
        begins.write(np.zeros(1, OFFSET))
        for batch in _batches(documents):
            before = texts.bytes
            for name, text in batch:
                texts.add(text, name)
            encoded = tokenizer.encode_many([text for _, text in batch], bos=True, eos=True)
            ends = writer.tokens + np.cumsum([len(ids) for ids in encoded])
            begins.write(ends.astype(OFFSET))
            writer.write(np.concatenate(encoded))
            bar.update(texts.bytes - before)
        files = {**writer.finish(), DOCUMENTS_NAME: begins.finish()}
    if not texts.documents:
        raise DataError("there are no documents to make token shards from")
    return {
        "documents": texts.documents,
        "tokens": writer.tokens,
        "text_bytes": texts.bytes,
        "text_sha256": texts.sha256,
        "vocabulary_size": tokenizer.vocabulary_size,
        "tokenizer_sha256": tokenizer.sha256,
        "dtype": dtype.name,
        "shard_tokens": writer.shard_tokens,
        "config": to_table(config),
        "files": files,
    }


def _batches(documents: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    characters = 0
    for name, text in documents:
        batch.append((name, text))
        characters += len(text) + 1  # empty documents must not pile up without end
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _HashedFile:
    """A file that knows its size and SHA-256 when it is finished."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, values: NDArray[Any]) -> None:
        content = values.tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)

    def finish(self) -> dict[str, Any]:
        """Flush to the disk; returns the file's line of the manifest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _ShardWriter:
    """Cuts a stream of ids into files of `shard_tokens` tokens each."""

    def __init__(self, folder: Path, shard_tokens: int, dtype: np.dtype[Any]) -> None:
        self.shard_tokens = shard_tokens
        self.tokens = 0
        self._folder = folder
        self._dtype = dtype
        self._file: _HashedFile | None = None
        self._files: dict[str, dict[str, Any]] = {}

    def write(self, ids: NDArray[Any]) -> None:
        while len(ids):
            room = self.shard_tokens - self.tokens % self.shard_tokens
            if room == self.shard_tokens:
                self._begin_file()
            part, ids = ids[:room], ids[room:]
            assert self._file is not None
            self._file.write(part.astype(self._dtype))
            self.tokens += len(part)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Finish the last file; returns every file's line of the manifest."""
        if self._file is not None:
            self._files[f"tokens-{len(self._files):05d}.bin"] = self._file.finish()
            self._file = None
        return self._files

    def _begin_file(self) -> None:
        self.finish()
        self._file = _HashedFile(self._folder / f"tokens-{len(self._files):05d}.bin")

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.__exit__()


def _counts_agree(record: dict[str, Any]) -> bool:
    """Whether the counts of a manifest agree with its file sizes."""
    itemsize = DTYPES[record["dtype"]].itemsize
    sizes = {name: facts["bytes"] for name, facts in record["files"].items()}
    offsets = sizes.pop(DOCUMENTS_NAME)
    has_tokens: bool = sum(sizes.values()) == record["tokens"] * itemsize > 0
    has_offsets: bool = offsets == (record["documents"] + 1) * OFFSET.itemsize
    return has_tokens and has_offsets


def _check_files(folder: Path, files: dict[str, dict[str, Any]], verify: bool) -> None:
    """Refuse a missing file, one of another size and, with `verify`, one of another content."""
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing", hint=_REBUILD)
        size = path.stat().st_size
        if size != facts["bytes"]:
            raise DataError(
                f"{path} should have {facts['bytes']:,} bytes, found {size:,}: "
                "it was cut off or changed",
                hint=_REBUILD,
            )
        if verify and (found := schema.sha256_file(path)) != facts["sha256"]:
            raise DataError(
                f"{path} was changed: SHA-256 should be {facts['sha256'][:12]}..., "
                f"found {found[:12]}...",
                hint=_REBUILD,
            )


def _reuse(
    documents: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    out: Path,
    config: ShardsConfig,
    console: Console,
) -> ShardSet:
    """The shards in `out`, if they are what writing them again would give."""
    record = schema.read_json(out / MANIFEST_NAME, KIND)
    shards = ShardSet.open(out)
    texts = TextFingerprint()
    for name, text in documents:
        texts.add(text, name)
    there = {key: record.get(key) for key in ("config", "tokenizer_sha256", "text_sha256")}
    here = {
        "config": to_table(config),
        "tokenizer_sha256": tokenizer.sha256,
        "text_sha256": texts.sha256,
    }
    if differing := differences(there, here):
        raise DataError(
            f"{out} holds token shards made from other inputs: {'; '.join(differing)}",
            hint=f"choose another --out, or delete {out}",
        )
    console.say(f"shards: {out} was made from the same documents and tokenizer; using it")
    return shards
