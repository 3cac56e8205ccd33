"""Hugging Face folders: config.json, weights in one file or in shards with an index, tokenizer.

The names are LlamaForCausalLM's, rows of q and k in its half-split order. Weights are safetensors,
or torch's .bin read by `pickle_file`; which of the two a file is, its first bytes say.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.console import Console, ProgressBar
from puna.errors import CheckpointError
from puna.model.sizes import ModelConfig
from puna.tokens.vocabulary import Vocabulary
from puna.weights.huggingface_config import config_json, read_config, special_ids
from puna.weights.names import (
    from_hugging_face,
    to_half_split,
    to_hugging_face,
    to_interleaved,
    turned_heads,
)
from puna.weights.pickle_file import PickledTensor, open_pickle
from puna.weights.safetensors_file import (
    NUMPY_TYPES,
    SafeTensor,
    SafetensorsWriter,
    open_safetensors,
)
from puna.weights.source import (
    EMBEDDING,
    FLOATS,
    OUTPUT,
    Bytes,
    FloatArray,
    Format,
    ModelSource,
    StoredTensor,
    TokenizerFiles,
    bf16_to_float32,
    checked_tensors,
    narrowed,
    planned_tensor,
    require_finite,
    require_room_for_weights,
    tensor_names,
    written_type,
)
from puna.weights.untrusted import listed, opened, read_json_object, shown

CONFIG, GENERATION = "config.json", "generation_config.json"
SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
BLOCK_VALUES = 1 << 22
SHARD_BYTES = 5_000_000_000  # where transformers 4 began a new file

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_BESIDE_TOKENIZERS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    GENERATION,
)
_COMPUTED = re.compile(
    r"model\.(layers\.[0-9]+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)"
)

Tensor = SafeTensor | PickledTensor


class HuggingFaceModel:
    """An opened folder of Hugging Face's; see ModelSource. Made by `open_huggingface`."""

    format: Format = "hf"

    def __init__(
        self, path: Path, config: ModelConfig, stored: Mapping[str, Tensor], notes: Sequence[str]
    ) -> None:
        self.path = path
        self.config = config
        self._stored, computed = _by_our_names(path, stored)
        # A second copy of tied weights, which must be the same as the first.
        self._twin = self._stored.pop(OUTPUT, None) if config.tied_embeddings else None
        found = {
            name: StoredTensor(name, one.shape, one.dtype, one.nbytes)
            for name, one in self._stored.items()
        }
        self.tensors = checked_tensors(config, found, path, theirs=to_hugging_face)
        self.tokenizer_files = TokenizerFiles(path, _tokenizer(path))
        told = f"ignored, being computed and not learned: {listed(computed)}"
        self.notes = (*notes, *([told] if computed else []))

    def read(self, name: str) -> FloatArray:
        """The tensor in float32, rows of q and k in Meta's order."""
        return self._in_our_order(name, self._tensor(name).read())

    def read_as_stored(self, name: str) -> FloatArray:
        """The tensor in float32, rows of q and k in the file's own order."""
        return self._tensor(name).read()

    def raw(self, name: str) -> Bytes | None:
        """Its bytes in the stored type, flat, rows of q and k in Meta's order."""
        values = self._in_our_order(name, self._tensor(name).array())
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def _tensor(self, name: str) -> Tensor:
        stored = self._stored[name]
        if name == EMBEDDING and self._twin is not None:
            self._require_tied(stored, self._twin)
            self._twin = None
        return stored

    def _in_our_order(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        heads = turned_heads(name, self.config)
        return values if heads is None else to_interleaved(values, heads)

    def _require_tied(self, embedding: Tensor, output: Tensor) -> None:
        same = (embedding.dtype, embedding.shape) == (output.dtype, output.shape)
        if not same or not np.array_equal(embedding.array(), output.array()):
            raise CheckpointError(
                f"{self.path}: {embedding.name} and {output.name} should be the same, as "
                f"tie_word_embeddings in {CONFIG} says; they differ",
                hint="set tie_word_embeddings to false if the output was trained by itself",
            )


def open_huggingface(path: Path) -> HuggingFaceModel:
    """The model in a folder of Hugging Face's, or of which `path` is a file; no tensor is read.

    Raises CheckpointError when config.json or weights are missing, broken, of another shape than
    the config says, or those of a model that is no LLaMA.
    """
    folder = path if path.is_dir() else path.parent
    config, concluded = read_config(folder / CONFIG)
    weights, notes = _find_weights(folder, path)
    if weights.suffix == ".json":
        stored, more = _open_shards(weights)
        return HuggingFaceModel(folder, config, stored, (*concluded, *notes, *more))
    return HuggingFaceModel(folder, config, _open_tensors(weights), (*concluded, *notes))


def _find_weights(folder: Path, given: Path) -> tuple[Path, tuple[str, ...]]:
    """The file or index to read: the one given, or the first that transformers would take."""
    known = [folder / name for name in (SAFE, SAFE_INDEX, PICKLED, PICKLED_INDEX)]
    found = [one for one in known if one.is_file()]
    if given in known:
        return given, ()
    if found:
        others = ", ".join(one.name for one in found[1:])
        return found[0], (f"{found[0].name} is read, and not {others}",) if others else ()
    if given != folder and given.name != CONFIG:
        return given, ()
    names = sorted(one.name for one in folder.iterdir() if one.suffix in (".safetensors", ".bin"))
    raise CheckpointError(
        f"{folder} should hold {SAFE} or {SAFE_INDEX}, found {listed(names) or 'no weights'}",
        hint=f"bring {SAFE_INDEX} too, which tells what lies in which of them" if names else None,
    )


def _open_tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of one file, be it a zip file of torch's or safetensors."""
    with opened(path, "hold weights") as file:
        is_zip = file.read(4) == b"PK\3\4"
    is_pickle = is_zip or path.suffix in (".bin", ".pt", ".pth")
    return open_pickle(path) if is_pickle else open_safetensors(path)


def _open_shards(index: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """All tensors of the files that an index names, each in the file that it names for it."""
    table = read_json_object(index, wanted="tell which weights lie in which file")
    places = table.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: weight_map should be an object of names and files")
    wanted: dict[str, set[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or not _is_file_name(file):
            raise CheckpointError(
                f"{index}: a shard should be a file in the same folder, found {ascii(file)[:80]}",
                hint="an index that leads elsewhere is broken, or made to do harm",
            )
        wanted.setdefault(file, set()).add(name)
    stored: dict[str, Tensor] = {}
    for file, names in sorted(wanted.items()):
        shard = _open_tensors(index.with_name(file))
        _require_names(index, file, names, set(shard))
        stored.update(shard)
    total, found = table.get("metadata"), sum(one.nbytes for one in stored.values())
    told = total.get("total_size", found) if isinstance(total, dict) else found
    if told != found:
        return stored, (f"{index.name} tells of {ascii(told)[:40]} bytes, the shards have {found}",)
    return stored, ()


def _is_file_name(text: str) -> bool:
    """Whether it names a file in a folder itself, on every system."""
    is_plain = text.isprintable() and not set(text) & set('/\\:*?"<>|')
    return is_plain and 0 < len(text) <= 255 and not text.startswith(".")


def _require_names(index: Path, file: str, wanted: set[str], found: set[str]) -> None:
    for names, fault in (
        (wanted - found, f"should be in {file}, they are not"),
        (found - wanted, f"are in {file}, of which the index does not tell"),
    ):
        if names:
            raise CheckpointError(
                f"{index}: {listed(sorted(names))} {fault}",
                hint="index and shards must come from the same download",
            )


def _by_our_names(path: Path, stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights by Meta's names, and the names of buffers that old versions stored."""
    found: dict[str, Tensor] = {}
    computed, unknown = [], []
    for name, tensor in stored.items():
        ours = from_hugging_face(name)
        if ours is not None:
            found[ours] = tensor
        elif _COMPUTED.fullmatch(name):
            computed.append(name)
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"{path} holds weights that a LLaMA lacks: {listed(unknown)}",
            hint="biases, adapters and models without an output cannot be read",
        )
    return found, computed


def _tokenizer(folder: Path) -> dict[str, Path]:
    """The tokenizer's files, and those that say more about it; none where there is no tokenizer."""
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return {}
    names = (*_TOKENIZERS, *_BESIDE_TOKENIZERS)
    return {name: folder / name for name in names if (folder / name).is_file()}


def write_huggingface(
    source: ModelSource,
    folder: Path,
    *,
    dtype: str | None,
    console: Console,
    max_shard_bytes: int = SHARD_BYTES,
    vocabulary: Vocabulary | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> None:
    """Fill a folder that transformers loads as LlamaForCausalLM, `extra_files` among it.

    `dtype` is f32, f16 or bf16; None keeps each tensor's own, and makes quantised ones bf16 and
    doubles f32. More than `max_shard_bytes` of weights become shards with an index. `vocabulary`
    tells which tokens begin and end a text. Memory is bound by the largest tensor. Raises
    CheckpointError when a value is too big for `dtype`, MachineError when the disk is too full.
    """
    plan = [
        planned_tensor(
            to_hugging_face(name), shape, written_type(source.tensors[name].dtype, dtype)
        )
        for name, shape in tensor_names(source.config).items()
    ]
    if dtype is None and any(one.dtype not in FLOATS for one in source.tensors.values()):
        console.say("quantised weights are written as bf16")
    kinds = Counter[str]()
    for one in plan:
        kinds[one.dtype] += one.nbytes
    total = kinds.total()
    beside = _files_beside(source, kinds.most_common(1)[0][0], vocabulary, extra_files or {})
    shards = _shards(plan, max_shard_bytes)
    if len(shards) > 1:
        beside[SAFE_INDEX] = _json_bytes(_index(shards, total))
    folder.mkdir(exist_ok=True)
    require_room_for_weights(folder, total + sum(map(len, beside.values())))
    for name, content in beside.items():
        (folder / name).write_bytes(content)
    with console.progress(total, "writing safetensors", "B") as bar:
        for file, planned in shards.items():
            _write_shard(source, folder / file, planned, bar)


def _write_shard(
    source: ModelSource, path: Path, planned: Sequence[StoredTensor], bar: ProgressBar
) -> None:
    # transformers takes no file that does not say which library's shapes it holds.
    with SafetensorsWriter(path, planned, {"format": "pt"}) as writer:
        for one in writer.plan:
            name = from_hugging_face(one.name)
            assert name is not None, one.name
            values = _values(source, name, one.dtype)
            heads = turned_heads(name, source.config)
            writer.add(values if heads is None else to_half_split(values, heads))
            bar.update(one.nbytes)


def _values(source: ModelSource, name: str, dtype: str) -> npt.NDArray[Any]:
    """A tensor as it is to be written, all finite; its own bytes where the type stays the same."""
    where, stored = f"{source.path}: {name}", source.tensors[name]
    raw = source.raw(name) if stored.dtype == dtype else None
    if raw is None:
        return narrowed(source.read(name), dtype, where)
    values = raw.reshape(-1).view(NUMPY_TYPES[dtype]).reshape(stored.shape)
    rows = max(1, BLOCK_VALUES // math.prod(stored.shape[1:]))
    for start in range(0, len(values), rows):  # by blocks: no second copy of a large tensor
        block = values[start : start + rows]
        require_finite(bf16_to_float32(block) if dtype == "BF16" else block, where)
    return values


def _shards(plan: Sequence[StoredTensor], max_bytes: int) -> dict[str, list[StoredTensor]]:
    """File name -> its tensors, in order; a file has one tensor, or at most `max_bytes`."""
    groups: list[list[StoredTensor]] = [[]]
    size = 0
    for one in plan:
        if groups[-1] and size + one.nbytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += one.nbytes
    if len(groups) == 1:
        return {SAFE: groups[0]}
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": group
        for number, group in enumerate(groups, start=1)
    }


def _index(shards: Mapping[str, Sequence[StoredTensor]], total: int) -> dict[str, Any]:
    places = {one.name: file for file, planned in shards.items() for one in planned}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}


def _files_beside(
    source: ModelSource,
    dtype: str,
    vocabulary: Vocabulary | None,
    extra_files: Mapping[str, bytes],
) -> dict[str, bytes]:
    """What lies beside the weights by name: config.json, generation_config.json, the extra ones."""
    files = dict(extra_files)
    for name in files:
        if not _is_file_name(name) or name in (CONFIG, SAFE, SAFE_INDEX):
            raise CheckpointError(f"{shown(name)} cannot lie beside the weights")
    files[CONFIG] = _json_bytes(config_json(source.config, dtype, vocabulary))
    if GENERATION not in files:
        theirs = source.tokenizer_files.files.get(GENERATION)
        if theirs is not None:
            files[GENERATION] = theirs.read_bytes()
        elif vocabulary is not None:
            files[GENERATION] = _json_bytes(special_ids(vocabulary))
    return files


def _json_bytes(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()
