"""Meta's own format: params.json and consolidated.NN.pth, one shard for each GPU it was made for.

A shard holds a slice of each matrix under the same name: of wq wk wv w1 w3 and output a run of rows
(dimension 0), of wo and w2 a run of columns (dimension 1), of the embedding columns in LLaMA 1 and
2 and rows in LLaMA 3; the norms are whole in each. Any number of shards is joined, and written.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from puna.console import Console
from puna.errors import CheckpointError
from puna.model.sizes import ModelConfig
from puna.weights.meta_params import (
    LLAMA3_VOCABULARY,
    PARAMS,
    Evidence,
    params_of,
    read_config,
    write_config,
)
from puna.weights.pickle_file import PickledTensor, open_pickle
from puna.weights.pickle_writer import PickleWriter, PlannedTensor
from puna.weights.source import (
    EMBEDDING,
    OUTPUT,
    Bytes,
    FloatArray,
    Format,
    ModelSource,
    StoredTensor,
    TokenizerFiles,
    checked_tensors,
    narrowed,
    planned_tensor,
    require_room_for_weights,
    tensor_names,
    written_type,
)
from puna.weights.untrusted import listed, shown, unreadable

TOKENIZER = "tokenizer.model"
SHARD_LIMIT = 64
_ROWS, _COLUMNS = 0, 1
_AXES = {
    "attention.wq.weight": _ROWS,
    "attention.wk.weight": _ROWS,
    "attention.wv.weight": _ROWS,
    "attention.wo.weight": _COLUMNS,
    "feed_forward.w1.weight": _ROWS,
    "feed_forward.w2.weight": _COLUMNS,
    "feed_forward.w3.weight": _ROWS,
}
_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_COMPUTED = re.compile(
    r"rope\.freqs|freqs_cis"
    r"|layers\.\d+\.attention\.(inner_attention\.rope\.freqs|mask|cache_k|cache_v)"
)
_MASK = re.compile(r"layers\.\d+\.attention\.mask")

Shards = Sequence[Mapping[str, PickledTensor]]


class MetaModel:
    """An opened folder of Meta's; see ModelSource. Made by `open_meta`."""

    format: Format = "meta"

    def __init__(self, path: Path, shards: Shards, embedding_axis: int) -> None:
        evidence = _evidence(shards, embedding_axis)
        self.path = path
        self._shards = shards
        self._is_seen_tied = evidence.tied
        self._embedding_axis = embedding_axis
        self.config, notes = read_config(path / PARAMS, evidence)
        names = {name for shard in shards for name in shard}
        computed = sorted(name for name in names if _COMPUTED.fullmatch(name))
        names.difference_update(computed, {OUTPUT} if self.config.tied_embeddings else ())
        found = {name: self._joined(name) for name in names}
        self.tensors = checked_tensors(self.config, found, path)
        self.tokenizer_files = TokenizerFiles(path, _tokenizer(path))
        told = f"ignored, being computed and not learned: {listed(computed)}"
        self.notes = (*notes, *([told] if computed else []))

    def read(self, name: str) -> FloatArray:
        """The tensor in float32, its slices joined; norms must be the same in every shard."""
        stored, axis = self.tensors[name], self._axis(name)
        pieces = [shard[name] for shard in self._shards]
        if axis is None or len(pieces) == 1:
            self._require_equal(name, pieces)
            joined = pieces[0].read()
        else:
            joined = np.empty(stored.shape, dtype=np.float32)
            for piece, part in zip(pieces, _slices(stored.shape, axis, len(pieces)), strict=True):
                joined[part] = piece.read()
        if name == EMBEDDING and self.config.tied_embeddings and not self._is_seen_tied:
            self._require_tied(joined)
        return joined

    def raw(self, name: str) -> Bytes | None:
        """Its bytes in the stored type, flat, its slices joined."""
        pieces, axis = [shard[name] for shard in self._shards], self._axis(name)
        if axis is None:
            self._require_equal(name, pieces)
            pieces = pieces[:1]
        arrays = [piece.array() for piece in pieces]
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)
        return joined.reshape(-1).view(np.uint8)

    def _axis(self, name: str) -> int | None:
        return _axis(name, self._embedding_axis)

    def _joined(self, name: str) -> StoredTensor:
        """What the slices of a weight are together; every shard must hold one like the others'."""
        slices = [shard.get(name) for shard in self._shards]
        first, axis, count = slices[0], self._axis(name), len(slices)
        for index, piece in enumerate(slices):
            if first is None or piece is None:
                raise CheckpointError(
                    f"{self.path}: every shard should hold {shown(name)}, number {index} does not"
                )
            if (piece.dtype, piece.shape) != (first.dtype, first.shape):
                raise CheckpointError(
                    f"{self.path}: {shown(name)} should be {first.dtype} of shape "
                    f"{list(first.shape)} in each shard, number {index} has {piece.dtype} of shape "
                    f"{list(piece.shape)}"
                )
        assert first is not None
        if axis is None or axis >= len(first.shape):
            return StoredTensor(name, first.shape, first.dtype, first.nbytes)
        shape = (*first.shape[:axis], first.shape[axis] * count, *first.shape[axis + 1 :])
        return StoredTensor(name, shape, first.dtype, first.nbytes * count)

    def _require_equal(self, name: str, pieces: Sequence[PickledTensor]) -> None:
        for index, piece in enumerate(pieces[1:], start=1):
            if not np.array_equal(pieces[0].array(), piece.array()):
                raise CheckpointError(
                    f"{self.path}: {name} should be the same in each shard, number {index} differs",
                    hint="the shards belong to different models, or one is damaged",
                )

    def _require_tied(self, embedding: FloatArray) -> None:
        """puna.json says that the output is the embedding: where bytes are there, they must be."""
        slices = [shard[OUTPUT] for shard in self._shards if OUTPUT in shard]
        for piece, part in zip(slices, np.split(embedding, len(self._shards)), strict=False):
            if not np.array_equal(piece.read(), part):
                raise CheckpointError(
                    f"{self.path}: {OUTPUT} should be the embedding, as puna.json says; it is not",
                    hint="remove puna.json to read both",
                )


def open_meta(path: Path) -> MetaModel:
    """The model in a folder of Meta's, or of which `path` is a file; headers are read, no tensor.

    Any number of shards is joined. Raises CheckpointError when params.json or a shard is missing,
    broken, or of another shape than the others say.
    """
    folder = path if path.is_dir() else path.parent
    paths = _shard_paths(folder, path)
    shards = [open_pickle(one) for one in paths]
    return MetaModel(folder, shards, _embedding_axis(folder, shards))


def write_meta(
    source: ModelSource, folder: Path, *, dtype: str | None, shards: int, console: Console
) -> None:
    """Write params.json and `shards` files of Meta's, and the tokenizer.model where there is one.

    `dtype` is f32, f16 or bf16; None keeps each tensor's own, and makes quantised ones bf16. Memory
    is bound by the largest tensor. Raises CheckpointError when the heads or sizes do not divide by
    `shards`, or Meta's format cannot say what the model is, MachineError when the disk is too full.
    """
    config = source.config
    params_of(config)
    _require_divisible(config, shards)
    axis = _ROWS if config.vocabulary_size >= LLAMA3_VOCABULARY else _COLUMNS
    plan = [
        planned_tensor(
            name, shape, written_type(source.tensors[_origin(name, config)].dtype, dtype)
        )
        for name, shape in _written_names(config).items()
    ]
    folder.mkdir(exist_ok=True)
    require_room_for_weights(folder, sum(one.nbytes for one in plan))
    evidence = Evidence(config.vocabulary_size, config.tied_embeddings and _twins(axis, shards))
    write_config(config, folder, evidence)
    tokenizer = source.tokenizer_files.files.get(TOKENIZER)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / TOKENIZER)
    slices = [
        PlannedTensor(one.name, _slice_shape(one.shape, _axis(one.name, axis), shards), one.dtype)
        for one in plan
    ]
    with ExitStack() as stack:
        files = [folder / f"consolidated.{index:02d}.pth" for index in range(shards)]
        writers = [stack.enter_context(PickleWriter(file, slices)) for file in files]
        _write_tensors(source, plan, axis, writers, console)


def _write_tensors(
    source: ModelSource,
    plan: Sequence[StoredTensor],
    embedding_axis: int,
    writers: Sequence[PickleWriter],
    console: Console,
) -> None:
    total = sum(one.nbytes for one in plan)
    with console.progress(total, "writing Meta's shards", "B") as bar:
        for planned in plan:
            origin = _origin(planned.name, source.config)
            values = narrowed(source.read(origin), planned.dtype, f"{source.path}: {origin}")
            axis = _axis(planned.name, embedding_axis)
            for writer, part in zip(
                writers, _slices(planned.shape, axis, len(writers)), strict=True
            ):
                writer.add(values[part])
            bar.update(planned.nbytes)


def _shard_paths(folder: Path, given: Path) -> list[Path]:
    """consolidated.00.pth and those that follow, or the one other .pth file that is there."""
    try:
        found = sorted(one for one in folder.iterdir() if one.suffix == ".pth")
    except OSError as error:
        raise unreadable(folder, error) from None
    numbered = [one for one in found if _SHARD.fullmatch(one.name)]
    if given != folder and given.suffix == ".pth" and given not in numbered:
        return [given]
    if not numbered:
        if len(found) != 1:
            raise CheckpointError(
                f"{folder} should hold consolidated.00.pth and those that follow, found "
                f"{listed([one.name for one in found]) or 'no .pth file'}",
                hint="name the file of the one you mean" if found else None,
            )
        return found
    for index, one in enumerate(numbered):
        wanted = f"consolidated.{index:02d}.pth"
        if one.name != wanted:
            raise CheckpointError(
                f"{folder} should hold {wanted}, found {one.name} in its place",
                hint=f"a shard is missing: bring {wanted} from where the others came",
            )
    if len(numbered) > SHARD_LIMIT:
        raise CheckpointError(
            f"{folder} holds {len(numbered)} shards, at most {SHARD_LIMIT} are read"
        )
    return numbered


def _embedding_axis(folder: Path, shards: Shards) -> int:
    """The dimension along which shards share the embedding; the norm tells how wide a row is."""
    found = [shards[0].get(name) for name in (EMBEDDING, "norm.weight")]
    shapes = [one.shape for one in found if one is not None]
    if len(shapes) != 2 or len(shapes[0]) != 2 or len(shapes[1]) != 1:
        raise CheckpointError(
            f"{folder} should hold the weights {EMBEDDING} and norm.weight, found "
            f"{listed(sorted(shards[0]))}",
            hint="these are no weights under Meta's names; with a config.json they may be "
            "Hugging Face's",
        )
    query, dim = shards[0].get("layers.0.attention.wq.weight"), shapes[1][0]
    rows = query.shape[0] if query is not None and query.shape else 0
    if rows and dim % rows == 0 and dim // rows != len(shards):
        raise CheckpointError(
            f"{folder} holds {len(shards)} of {dim // rows} shards: each has {rows} of the {dim} "
            "rows of wq",
            hint=f"bring all {dim // rows} files, consolidated.00.pth to "
            f"consolidated.{dim // rows - 1:02d}.pth",
        )
    return _ROWS if shapes[0][1] == dim else _COLUMNS


def _evidence(shards: Shards, embedding_axis: int) -> Evidence:
    first = shards[0]
    rows = first[EMBEDDING].shape[0] * (len(shards) if embedding_axis == _ROWS else 1)
    tied = all(OUTPUT not in shard for shard in shards) or all(
        EMBEDDING in shard and OUTPUT in shard and shard[EMBEDDING].is_twin_of(shard[OUTPUT])
        for shard in shards
    )
    masks = [one.shape for name, one in first.items() if _MASK.fullmatch(name)]
    length = masks[0][-1] if masks and masks[0] and masks[0][-1] else None
    return Evidence(vocabulary_size=rows, tied=tied, mask_length=length)


def _tokenizer(folder: Path) -> dict[str, Path]:
    """Meta's tokenizer.model lies beside the shards, or above the folders of several sizes."""
    for place in (folder, folder.parent):
        if (place / TOKENIZER).is_file():
            return {TOKENIZER: place / TOKENIZER}
    return {}


def _axis(name: str, embedding_axis: int) -> int | None:
    """The dimension along which shards share a weight; None for norms, which each has whole."""
    if name == EMBEDDING:
        return embedding_axis
    if name == OUTPUT:
        return _ROWS
    return _AXES.get(name.split(".", 2)[-1])


def _slice_shape(shape: tuple[int, ...], axis: int | None, count: int) -> tuple[int, ...]:
    if axis is None:
        return shape
    return (*shape[:axis], shape[axis] // count, *shape[axis + 1 :])


def _slices(shape: tuple[int, ...], axis: int | None, count: int) -> Iterator[tuple[slice, ...]]:
    """What of a tensor each of `count` shards holds, in order."""
    for index in range(count):
        if axis is None:
            yield ()
        else:
            size = shape[axis] // count
            yield (*[slice(None)] * axis, slice(index * size, (index + 1) * size))


def _written_names(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Meta's files hold the output even where it is the embedding."""
    names = tensor_names(config)
    return {**names, OUTPUT: (config.vocabulary_size, config.dim)}


def _origin(name: str, config: ModelConfig) -> str:
    return EMBEDDING if name == OUTPUT and config.tied_embeddings else name


def _twins(embedding_axis: int, shards: int) -> bool:
    """Whether a reader sees by each shard's bytes that embedding and output are one."""
    return shards == 1 or embedding_axis == _ROWS


def _require_divisible(config: ModelConfig, shards: int) -> None:
    sizes = {
        "heads": config.heads,
        "key and value heads": config.kv_head_count,
        "hidden size": config.ffn_dim,
        "vocabulary": config.vocabulary_size,
        "dim": config.dim,
    }
    if not 1 <= shards <= SHARD_LIMIT:
        raise CheckpointError(f"the shards should be 1 to {SHARD_LIMIT}, found {shards}")
    wrong = [f"{name} {size}" for name, size in sizes.items() if size % shards]
    if wrong:
        fitting = [
            n for n in range(1, SHARD_LIMIT + 1) if not any(size % n for size in sizes.values())
        ]
        raise CheckpointError(
            f"{shards} shards cannot share {', '.join(wrong)}: they do not divide by {shards}",
            hint=f"this model can have {', '.join(map(str, fitting))} shards",
        )
