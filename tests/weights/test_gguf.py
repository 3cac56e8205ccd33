"""LLaMAs in GGUF: opened, written, split, against files and code that nobody here wrote."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from memory_source import MemorySource
from shared_weights import SHARED, needs_shared
from small_vocabulary import spm_vocabulary
from tiny_model import random_arrays, tiny_config

from puna.console import Console, silent
from puna.errors import CheckpointError, TokenizerError, UsageError
from puna.model.sizes import ModelConfig, RopeScaling
from puna.tokens.formats.gguf_vocabulary import read_gguf_vocabulary
from puna.weights.gguf import GgufSource, open_gguf, write_gguf
from puna.weights.gguf_blocks import WRITES, dequantize, quantize
from puna.weights.gguf_file import read_gguf
from puna.weights.gguf_llama import rope_factors
from puna.weights.gguf_writer import PlannedTensor, write_files
from puna.weights.names import to_gguf
from puna.weights.source import StoredTensor

LLAMA31 = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
LLAMA32 = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)


def model(**changes) -> MemorySource:
    config = tiny_config(**changes)
    return MemorySource(config, random_arrays(config))


def written(source, folder: Path, dtype: str | None = "f32", **wishes) -> GgufSource:
    vocabulary = spm_vocabulary(source.config.vocabulary_size)
    wishes = {"vocabulary": vocabulary, "console": silent(), **wishes}
    paths = write_gguf(source, folder / f"{dtype}.gguf", dtype=dtype, **wishes)
    return open_gguf(paths[0])


def with_metadata(source: GgufSource, path: Path, **changes) -> Path:
    """The same file with keys changed; `__` in a name stands for a dot, None removes a key."""
    (part,) = source.parts
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    metadata = {
        key: value for key, value in {**part.metadata, **changed}.items() if value is not None
    }
    planned = [
        PlannedTensor(name, one.shape, one.dtype, lambda name=name: [part.raw(name)])
        for name, one in part.tensors.items()
    ]
    return write_files(path, metadata, planned)[0]


def same_values(one, other) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        np.array_equal(one.read(name), other.read(name)) for name in one.tensors
    )


@needs_shared
def test_stories260k_is_what_llama2_c_holds():
    from puna.weights.llama2c import open_llama2c

    source = open_gguf(SHARED / "stories260K" / "stories260K.gguf")
    peer = open_llama2c(SHARED / "stories260K" / "stories260K.bin")
    assert source.config == ModelConfig(
        dim=64,
        layers=5,
        heads=8,
        kv_heads=4,
        vocabulary_size=512,
        context_length=2048,
        hidden_dim=172,
        norm_epsilon=1e-5,
    )
    assert {one.dtype for one in source.tensors.values()} == {"F32"}
    for name in peer.tensors:
        assert np.array_equal(source.read(name), peer.read(name)), name
    assert np.array_equal(source.read("output.weight"), peer.read("tok_embeddings.weight"))
    assert source.notes == ()


@needs_shared
def test_a_file_written_again_as_it_is_has_the_same_bytes_in_every_tensor(tmp_path: Path):
    source = open_gguf(SHARED / "stories260K" / "stories260K.gguf")
    vocabulary = read_gguf_vocabulary(source.tokenizer_files.gguf, source.path)
    again = written(source, tmp_path, None, vocabulary=vocabulary)
    assert again.config == source.config
    for name in source.tensors:
        assert again.raw(name).tobytes() == source.raw(name).tobytes()
    assert again.parts[0].metadata["general.name"] == "llama"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied_embeddings": True, "kv_heads": None, "rope_theta": 500000.0},
        {"hidden_dim": 40, "norm_epsilon": 1e-6},
        {"rope_scaling": RopeScaling("linear", 4.0, original_context_length=2048)},
        {"dim": 256, "rope_scaling": LLAMA31, "rope_theta": 500000.0},
    ],
)
def test_a_model_comes_back_as_it_was(tmp_path: Path, changes: dict):
    source = model(**changes)
    found = written(source, tmp_path)
    config = source.config
    wanted = replace(config, hidden_dim=config.ffn_dim, kv_heads=config.kv_head_count)
    assert replace(found.config, multiple_of=config.multiple_of) == wanted
    assert same_values(found, source)
    assert found.notes == ()


def test_transformers_reads_what_we_write(tmp_path: Path):
    pytest.importorskip("accelerate")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from puna.model.twin import numpy_shape
    from puna.native.numpy_llama import KvCache, NumpyLlama

    source = written(model(rope_scaling=RopeScaling("linear", 2.0), rope_theta=5e5), tmp_path)
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=source.path.name, dtype=torch.float32
    )
    assert peer.config.rms_norm_eps == pytest.approx(source.config.norm_epsilon)
    ids = np.array([1, 7, 300, 9])
    with torch.no_grad():
        wanted = peer(torch.tensor(ids[None])).logits[0].numpy()
    shape = numpy_shape(replace(source.config, rope_scaling=None))  # transformers reads no scaling
    twin = NumpyLlama(shape, {name: source.read(name) for name in source.tensors})
    found = twin.logits(twin.hidden([(KvCache(shape, 4), ids)]))
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("scaling", [LLAMA31, LLAMA32, RopeScaling("llama3", 4.0, 1.0, 2.5, 3000)])
def test_factors_of_llama_3_become_the_numbers_they_were_made_from(tmp_path: Path, scaling):
    torch = pytest.importorskip("torch")
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    source = model(dim=256, rope_scaling=scaling, rope_theta=500000.0)
    found = written(source, tmp_path)
    assert found.config.rope_scaling == scaling
    peer = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        },
    )
    stretched, _ = rope.ROPE_INIT_FUNCTIONS["llama3"](peer, torch.device("cpu"))
    plain = 500000.0 ** -(np.arange(0, 64, 2) / 64)
    assert np.allclose(rope_factors(found.config), plain / stretched.numpy(), rtol=1e-5)


def test_dynamic_scaling_is_cut_to_the_length_where_it_does_nothing(tmp_path: Path):
    source = model(rope_scaling=RopeScaling("dynamic", 2.0, original_context_length=32))
    console = Console(stderr=io.StringIO())
    found = written(source, tmp_path, console=console)
    assert found.config.context_length == 32
    assert found.config.rope_scaling is None
    assert "the context is 32 tokens instead of 64" in console.stderr.getvalue()


@pytest.mark.parametrize("dtype", [name.lower() for name in WRITES])
def test_every_type_written_is_near_what_was_given(tmp_path: Path, dtype: str):
    source = model(dim=256, hidden_dim=512, layers=1)
    found = written(source, tmp_path, dtype)
    limit = {"f32": 0, "f16": 1e-3, "bf16": 4e-3, "q8_0": 0.01, "q6_k": 0.03, "q5_0": 0.07}
    for name, stored in found.tensors.items():
        wanted, values = source.read(name), found.read(name)
        error = np.sqrt(np.mean((values - wanted) ** 2) / np.mean(wanted**2))
        assert error <= limit.get(dtype, 0.12), name
        if len(stored.shape) == 1:
            assert stored.dtype == "F32"
    types = {one.dtype for one in found.tensors.values() if len(one.shape) == 2}
    mixed = dtype not in ("f32", "f16", "bf16", "q8_0", "q6_k")
    assert types == ({dtype.upper(), "Q6_K"} if mixed else {dtype.upper()})


def test_rows_that_are_no_whole_superblocks_get_the_next_larger_type_and_a_note(tmp_path: Path):
    console = Console(stderr=io.StringIO())
    source = model(dim=64, hidden_dim=36, layers=1)
    found = written(source, tmp_path, "q4_k", console=console)
    types = {name: one.dtype for name, one in found.tensors.items()}
    assert types["layers.0.attention.wq.weight"] == "Q5_0"
    assert types["output.weight"] == "Q8_0"
    assert types["layers.0.feed_forward.w2.weight"] == "F16"
    told = console.stderr.getvalue()
    rows = "rows of 64 values are no whole blocks of 256"
    assert f"Q5_0 instead of Q4_K for 6 tensors: {rows}" in told
    assert "F16 instead of Q6_K for 1 tensor: rows of 36 values" in told


def test_blocks_made_of_blocks_are_told(tmp_path: Path):
    console = Console(stderr=io.StringIO())
    first = written(model(dim=64, layers=1), tmp_path, "q4_0")
    written(first, tmp_path, "q8_0", console=console)
    assert "Q8_0 made of Q4_0 for 8 tensors: what Q4_0 lost stays lost" in console.stderr.getvalue()


def test_blocks_of_the_type_asked_for_pass_through_as_they_are(tmp_path: Path):
    first = written(model(dim=64, hidden_dim=64, layers=1), tmp_path, "q4_0")
    (tmp_path / "again").mkdir()
    second = written(first, tmp_path / "again", "q4_0")
    assert {one.dtype for one in first.tensors.values()} == {"F32", "Q4_0", "Q8_0"}
    for name in first.tensors:
        assert second.raw(name).tobytes() == first.raw(name).tobytes()


def test_types_that_only_the_gguf_package_reads_pass_through(tmp_path: Path):
    class Stored(MemorySource):
        @property
        def tensors(self):
            return {
                name: replace(one, dtype="IQ4_NL") if len(one.shape) == 2 else one
                for name, one in super().tensors.items()
            }

        def raw(self, name):
            values = self.read(name)
            if values.ndim == 1:
                return values.view(np.uint8)
            return quantize(values, "Q4_0")  # as many bytes, and scales at the same places

    config = tiny_config(hidden_dim=64)
    found = written(Stored(config, random_arrays(config)), tmp_path, None)
    stored = found.tensors["output.weight"]
    assert stored == StoredTensor("output.weight", (320, 32), "IQ4_NL", 320 * 18)
    pytest.importorskip("gguf")
    assert found.read("output.weight").shape == (320, 32)


def test_infinite_weights_are_refused_in_every_way_of_writing(tmp_path: Path):
    first = written(model(layers=1), tmp_path)
    data = bytearray(first.path.read_bytes())
    offset = first.parts[0].tensors["blk.0.attn_q.weight"].offset
    data[offset : offset + 4] = np.float32(np.inf).tobytes()
    first.path.write_bytes(data)
    for dtype in ("f32", "f16", "q8_0"):
        (tmp_path / dtype).mkdir()
        with pytest.raises(CheckpointError, match="1 of 1024 are NaN or infinite"):
            written(open_gguf(first.path), tmp_path / dtype, dtype)


def test_numbers_too_big_for_a_type_name_the_tensor(tmp_path: Path):
    source = model(layers=1)
    source.arrays["layers.0.attention.wv.weight"][0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"layers.0.attention.wv.weight as F16: .*too big"):
        written(source, tmp_path, "f16")


def test_an_unknown_type_names_the_nearest(tmp_path: Path):
    with pytest.raises(UsageError, match="no type 'q4_m' that Puna writes") as caught:
        written(model(), tmp_path, "q4_m")
    assert "q4_k" in str(caught.value.hint)


def test_rows_without_pieces_are_filled_up_and_pieces_without_rows_refused(tmp_path: Path):
    source = model()
    console = Console(stderr=io.StringIO())
    found = written(source, tmp_path, vocabulary=spm_vocabulary(310), console=console)
    assert found.parts[0].metadata["tokenizer.ggml.tokens"][309:312] == (
        "▁w50",
        "[PAD310]",
        "[PAD311]",
    )
    assert found.parts[0].metadata["tokenizer.ggml.token_type"][310] == 5
    assert "10 more rows than the tokenizer has pieces" in console.stderr.getvalue()
    with pytest.raises(CheckpointError, match="at most 320 pieces"):
        written(source, tmp_path, "f16", vocabulary=spm_vocabulary(330))


def test_a_tokenizer_that_gguf_cannot_say_is_refused(tmp_path: Path):
    with pytest.raises(TokenizerError, match="GGUF"):
        written(model(), tmp_path, vocabulary=spm_vocabulary(320, normalizes=True))


def test_the_chat_template_and_the_marks_go_along(tmp_path: Path):
    vocabulary = spm_vocabulary(320, chat_template="{{ messages }}", adds_bos=False, padding_id=2)
    found = written(model(), tmp_path, vocabulary=vocabulary)
    assert read_gguf_vocabulary(found.tokenizer_files.gguf, found.path) == vocabulary


def test_a_sliding_window_cuts_the_context(tmp_path: Path):
    source = written(model(), tmp_path)
    path = with_metadata(source, tmp_path / "m.gguf", llama__attention__sliding_window=16)
    found = open_gguf(path)
    assert found.config.context_length == 16
    assert found.notes == ("the context is cut to the sliding window of 16 tokens",)


def test_one_number_for_each_layer_will_do_where_all_are_the_same(tmp_path: Path):
    source = written(model(), tmp_path)
    path = with_metadata(source, tmp_path / "m.gguf", llama__attention__head_count=[4, 4])
    assert open_gguf(path).config == source.config


def test_the_old_key_of_linear_scaling_is_understood(tmp_path: Path):
    source = written(model(), tmp_path)
    path = with_metadata(source, tmp_path / "m.gguf", llama__rope__scale_linear=4.0)
    assert open_gguf(path).config.rope_scaling == RopeScaling("linear", 4.0)


def test_a_file_without_a_tokenizer_is_told(tmp_path: Path):
    source = written(model(), tmp_path)
    path = with_metadata(source, tmp_path / "m.gguf", tokenizer__ggml__tokens=None)
    found = open_gguf(path)
    assert found.tokenizer_files.gguf is None
    assert found.notes == ("the file holds no tokenizer",)


def test_split_files_open_from_any_part(tmp_path: Path):
    source = model()
    whole = written(source, tmp_path)
    parts = write_gguf(
        source,
        tmp_path / "m.gguf",
        dtype="f32",
        vocabulary=spm_vocabulary(),
        console=silent(),
        split_bytes=60_000,
    )
    assert len(parts) > 2
    for part in parts:
        found = open_gguf(part)
        assert found.config == whole.config
        assert same_values(found, whole)
        assert found.tokenizer_files.gguf["tokenizer.ggml.model"] == "llama"


def test_split_files_that_do_not_belong_together_are_refused(tmp_path: Path):
    wishes = {"dtype": "f32", "vocabulary": spm_vocabulary(), "console": silent()}
    parts = write_gguf(model(), tmp_path / "m.gguf", split_bytes=60_000, **wishes)
    second = parts[1].read_bytes()
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=r"m-00002-of-.* be a GGUF file, found nothing"):
        open_gguf(parts[0])
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(CheckpointError, match=r"should be part 2 of .*, found part 3 of"):
        open_gguf(parts[0])
    parts[1].write_bytes(second)
    renamed = parts[0].rename(tmp_path / "first.gguf")
    with pytest.raises(CheckpointError, match="should be called NAME-00001-of-"):
        open_gguf(renamed)


def test_split_files_must_hold_each_tensor_once(tmp_path: Path):
    source = written(model(), tmp_path).parts[0]
    keys = {"split.count": np.uint16(2), "split.tensors.count": np.int32(99)}
    for number, names in enumerate([list(source.tensors), list(source.tensors)[:1]]):
        planned = [
            PlannedTensor(
                name, source.tensors[name].shape, "F32", lambda name=name: [source.raw(name)]
            )
            for name in names
        ]
        path = tmp_path / f"m-{number + 1:05d}-of-00002.gguf"
        write_files(path, {**source.metadata, **keys, "split.no": np.uint16(number)}, planned)
    with pytest.raises(CheckpointError, match="its 2 parts should hold 99 tensors, not 22"):
        open_gguf(path)
    keys["split.tensors.count"] = np.int32(22)
    write_files(
        tmp_path / "m-00001-of-00002.gguf",
        {**source.metadata, **keys, "split.no": np.uint16(0)},
        [
            PlannedTensor(n, t.shape, "F32", lambda n=n: [source.raw(n)])
            for n, t in source.tensors.items()
        ],
    )
    with pytest.raises(
        CheckpointError, match=r"'token_embd.weight' is in m-00001-of-00002.gguf too"
    ):
        open_gguf(path)


def test_writing_needs_memory_for_one_tensor_not_for_the_model(tmp_path: Path):
    class Large(MemorySource):
        def read(self, name):
            return np.full(self.tensors[name].shape, 0.25, dtype=np.float32)

    config = tiny_config(4096, dim=512, layers=8, hidden_dim=2048)
    source = Large(config, {})
    largest = 4 * 4096 * 512
    vocabulary = spm_vocabulary(4096)
    write_gguf(
        source, tmp_path / "warm.gguf", dtype="q8_0", vocabulary=vocabulary, console=silent()
    )
    tracemalloc.start()
    write_gguf(source, tmp_path / "m.gguf", dtype="q8_0", vocabulary=vocabulary, console=silent())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(one.nbytes for one in source.tensors.values()) > 15 * largest
    assert peak < 3 * largest


def test_dequantised_values_are_those_of_the_raw_bytes(tmp_path: Path):
    found = written(model(dim=64), tmp_path, "q8_0")
    for name, stored in found.tensors.items():
        raw = found.raw(name)
        assert raw.nbytes == stored.nbytes
        assert np.array_equal(dequantize(raw, stored.dtype), found.read(name).reshape(-1))
    assert read_gguf(found.path).tensors.keys() == {to_gguf(name) for name in found.tensors}
