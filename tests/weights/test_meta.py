"""Meta's shards: every number of them is one model, which answers as Meta's own code does."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from memory_source import MemorySource
from shared_weights import SHARED, needs_shared
from source_twin import greedy_ids, logits_of
from tiny_model import random_arrays, tiny_config

from puna.console import silent
from puna.errors import CheckpointError
from puna.tokens.tokenizer import Tokenizer
from puna.weights.meta import open_meta, write_meta
from puna.weights.pickle_writer import PickleWriter, PlannedTensor
from puna.weights.source import ModelSource, bf16_to_float32, float32_to_bf16

DERIVED = SHARED / "derived"
LOGIT_TOLERANCE = 1e-4  # float32 sums in another order
MODEL = tiny_config(vocabulary_size=48, dim=32, heads=4, kv_heads=4, hidden_dim=88)


def write(folder: Path, config=MODEL, *, shards=1, dtype=None, stored="F32") -> MemorySource:
    source = MemorySource(config, random_arrays(config), dtype=stored)
    write_meta(source, folder, dtype=dtype, shards=shards, console=silent())
    return source


def assert_same(found: ModelSource, wanted: ModelSource) -> None:
    assert list(found.tensors) == list(wanted.tensors)
    for name, stored in wanted.tensors.items():
        assert found.tensors[name].shape == stored.shape
        np.testing.assert_array_equal(found.read(name), wanted.read(name))


@needs_shared
@pytest.mark.parametrize("shards", ["mp1", "mp2"])
def test_logits_equal_those_of_meta_s_code_on_the_same_shards(shards: str):
    from safetensors.numpy import load_file

    folder = DERIVED / f"executorch-demo-meta-{shards}"
    wanted = load_file(folder / "expected_logits_meta_v1.safetensors")
    logits = logits_of(open_meta(folder), wanted["input_ids"])
    np.testing.assert_allclose(logits, wanted["logits"], atol=LOGIT_TOLERANCE, rtol=0)


@needs_shared
@pytest.mark.parametrize("shards", ["mp1", "mp2"])
def test_greedy_text_equals_that_of_meta_s_code(shards: str):
    folder = DERIVED / f"executorch-demo-meta-{shards}"
    expected = json.loads((folder / "expected_greedy_meta_v1.json").read_text())
    source = open_meta(folder)
    tokenizer = Tokenizer.load(source.tokenizer_files.files["tokenizer.model"])
    for prompt, output in zip(expected["prompts"], expected["outputs"], strict=True):
        ids = tokenizer.encode(prompt, bos=True, eos=False)
        assert tokenizer.decode(greedy_ids(source, ids, expected["max_gen_len"])) == output


@needs_shared
def test_one_and_two_shards_and_a_single_file_are_the_same_model():
    single = open_meta(SHARED / "executorch-demo" / "demo_rand_params.pth")
    for other in ("mp1", "mp2"):
        assert_same(open_meta(DERIVED / f"executorch-demo-meta-{other}"), single)
    assert single.config.context_length == 128  # as long as the masks it carries
    assert any("layers.0.attention.mask" in note for note in single.notes)


@needs_shared
def test_shards_cut_by_others_are_cut_again_to_the_same_bytes(tmp_path: Path):
    real = {count: DERIVED / f"executorch-demo-meta-mp{count}" for count in (1, 2)}
    source: ModelSource = open_meta(real[1])
    for step, count in enumerate((2, 4, 1)):
        folder = tmp_path / f"{step}"
        write_meta(source, folder, dtype=None, shards=count, console=silent())
        source = open_meta(folder)
        assert_same(source, open_meta(real[1]))
        if count in real:
            for name in ("params.json", "tokenizer.model"):
                wanted = (real[count] / name).read_bytes()
                assert (folder / name).read_bytes() in (wanted, wanted + b"\n")
    torch = pytest.importorskip("torch")
    for index in range(2):
        name = f"consolidated.{index:02d}.pth"
        ours = torch.load(tmp_path / "0" / name, weights_only=True)
        theirs = torch.load(real[2] / name, weights_only=True)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_any_number_of_shards_reads_back(shards: int, tied: bool, tmp_path: Path):
    config = tiny_config(vocabulary_size=48, hidden_dim=88, kv_heads=4, tied_embeddings=tied)
    source = write(tmp_path / "meta", config, shards=shards)
    found = open_meta(tmp_path / "meta")
    assert len(list((tmp_path / "meta").glob("consolidated.*.pth"))) == shards
    assert_same(found, source)
    assert found.config.tied_embeddings == tied
    assert found.config.context_length == config.context_length
    assert found.config.ffn_dim == config.ffn_dim
    for name in found.tensors:
        assert found.raw(name).tobytes() == source.read(name).tobytes()


def test_writing_again_makes_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        write(tmp_path / name, shards=2)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("shards", [1, 2])
def test_llama_3_cuts_its_embedding_by_rows(shards: int, tmp_path: Path):
    config = tiny_config(vocabulary_size=128_256, dim=8, heads=2, kv_heads=2, hidden_dim=16)
    source = write(tmp_path / "meta", config, shards=shards, dtype="bf16")
    found = open_meta(tmp_path / "meta")
    assert found._shards[0]["tok_embeddings.weight"].shape == (128_256 // shards, 8)
    wanted = bf16_to_float32(float32_to_bf16(source.read("tok_embeddings.weight")))
    np.testing.assert_array_equal(found.read("tok_embeddings.weight"), wanted)


@pytest.mark.parametrize(("dtype", "stored"), [("f16", "F16"), ("bf16", "BF16"), ("f32", "F32")])
def test_weights_are_rounded_to_the_nearest_as_torch_rounds(dtype, stored, tmp_path: Path):
    torch = pytest.importorskip("torch")
    source = write(tmp_path / "meta", dtype=dtype, shards=2)
    found = open_meta(tmp_path / "meta")
    kind = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[dtype]
    for name, one in found.tensors.items():
        wanted = torch.from_numpy(source.read(name)).to(kind).float().numpy()
        np.testing.assert_array_equal(found.read(name), wanted)
        assert one.dtype == stored


def test_without_a_dtype_each_tensor_keeps_its_own_and_quantised_ones_become_bf16(tmp_path: Path):
    for stored, wanted in (("F16", "F16"), ("F32", "F32"), ("F64", "F32"), ("Q4_0", "BF16")):
        write(tmp_path / stored, stored=stored)
        dtypes = {one.dtype for one in open_meta(tmp_path / stored).tensors.values()}
        assert dtypes == {wanted}


@pytest.mark.parametrize(
    ("shards", "told"),
    [
        (3, "3 shards cannot share heads 4, key and value heads 4, hidden size 88, dim 32"),
        (8, "8 shards cannot share heads 4, key and value heads 4: they"),
        (0, "the shards should be 1 to 64"),
    ],
)
def test_shards_that_cannot_share_are_refused_by_name(shards: int, told: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=told) as error:
        write(tmp_path / "meta", shards=shards)
    assert not (tmp_path / "meta").exists()
    assert shards == 0 or error.value.hint == "this model can have 1, 2, 4 shards"


def test_what_meta_s_format_cannot_say_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="hold f32, f16 or bf16, not q8_0"):
        write(tmp_path / "meta", dtype="q8_0")


def test_memory_is_bound_by_the_largest_tensor(tmp_path: Path):
    config = tiny_config(vocabulary_size=1024, dim=128, layers=24, hidden_dim=384)
    source = write(tmp_path / "f16", config, shards=2, dtype="f16")
    total = sum(one.nbytes for one in source.tensors.values())
    largest = max(one.nbytes for one in source.tensors.values())
    del source
    tracemalloc.start()
    opened = open_meta(tmp_path / "f16")
    write_meta(opened, tmp_path / "bf16", dtype="bf16", shards=1, console=silent())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * largest + 4_000_000 < total / 2


def shards_of(folder: Path, count: int) -> None:
    write(folder, shards=count)


def test_a_missing_shard_is_named(tmp_path: Path):
    shards_of(tmp_path / "meta", 4)
    (tmp_path / "meta" / "consolidated.02.pth").unlink()
    with pytest.raises(CheckpointError, match=r"should hold consolidated\.02\.pth, found"):
        open_meta(tmp_path / "meta")
    (tmp_path / "meta" / "consolidated.03.pth").unlink()
    with pytest.raises(CheckpointError, match="holds 2 of 4 shards") as error:
        open_meta(tmp_path / "meta")
    assert "bring all 4 files" in str(error.value)


def test_a_folder_of_one_of_two_shards_says_so(tmp_path: Path):
    shards_of(tmp_path / "meta", 2)
    (tmp_path / "meta" / "consolidated.01.pth").unlink()
    with pytest.raises(CheckpointError, match="holds 1 of 2 shards"):
        open_meta(tmp_path / "meta")


def test_no_and_several_files_are_told(tmp_path: Path):
    shards_of(tmp_path / "meta", 1)
    whole = tmp_path / "meta" / "consolidated.00.pth"
    shutil.copy(whole, tmp_path / "meta" / "a.pth")
    whole.rename(tmp_path / "meta" / "b.pth")
    with pytest.raises(CheckpointError, match=r"found 'a\.pth', 'b\.pth'"):
        open_meta(tmp_path / "meta")
    assert open_meta(tmp_path / "meta" / "a.pth").config.dim == MODEL.dim
    for name in ("a.pth", "b.pth"):
        (tmp_path / "meta" / name).unlink()
    with pytest.raises(CheckpointError, match=r"found no \.pth file"):
        open_meta(tmp_path / "meta")


def test_norms_must_be_the_same_in_every_shard(tmp_path: Path):
    shards_of(tmp_path / "meta", 2)
    config = MODEL
    rewritten(tmp_path / "meta" / "consolidated.01.pth", {"norm.weight": np.ones(config.dim)})
    found = open_meta(tmp_path / "meta")
    assert found.read("layers.0.ffn_norm.weight").shape == (config.dim,)
    for read in (found.read, found.raw):
        with pytest.raises(CheckpointError, match=r"norm\.weight should be the same in each"):
            read("norm.weight")


def rewritten(path: Path, changes: dict[str, np.ndarray | None]) -> None:
    """Write a shard again with some tensors replaced, added or (None) left out."""
    from puna.weights.pickle_file import open_pickle

    arrays = {name: one.read() for name, one in open_pickle(path).items()} | changes
    kept = {name: one.astype(np.float32) for name, one in arrays.items() if one is not None}
    plan = [PlannedTensor(name, one.shape, "F32") for name, one in kept.items()]
    with PickleWriter(path, plan) as writer:
        for one in kept.values():
            writer.add(one)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"layers.1.attention.wo.weight": None},
            r"wo\.weight should have .* found nothing",
        ),
        (
            {"layers.0.attention.wq.bias": np.ones(32)},
            r"wq\.bias should have nothing",
        ),
        (
            {"layers.2.attention.wq.weight": np.ones((32, 32))},
            r"2\.attention\.wq\.weight should have",
        ),
        (
            {"layers.1.feed_forward.w2.weight": np.ones((32, 80))},
            r"\[32, 88\], found the shape .*80",
        ),
        ({"tok_embeddings.weight": np.ones((40, 32))}, "vocab_size is 48, but the embedding has"),
        ({"tok_embeddings.weight": np.ones(40)}, r"tok_embeddings\.weight and norm\.weight"),
        ({"norm.weight": None}, r"tok_embeddings\.weight and norm\.weight"),
    ],
)
def test_weights_of_another_shape_than_params_json_are_refused(changes, told, tmp_path: Path):
    shards_of(tmp_path / "meta", 1)
    rewritten(tmp_path / "meta" / "consolidated.00.pth", changes)
    with pytest.raises(CheckpointError, match=told):
        open_meta(tmp_path / "meta")


def test_keys_that_are_computed_are_ignored_with_a_note(tmp_path: Path):
    shards_of(tmp_path / "meta", 1)
    extra = {"rope.freqs": np.ones(4), "layers.0.attention.inner_attention.rope.freqs": np.ones(4)}
    rewritten(tmp_path / "meta" / "consolidated.00.pth", extra)
    found = open_meta(tmp_path / "meta")
    assert not set(extra) & set(found.tensors)
    assert [note for note in found.notes if "rope.freqs" in note] == [
        "ignored, being computed and not learned: "
        "'layers.0.attention.inner_attention.rope.freqs', 'rope.freqs'"
    ]


def test_an_output_that_puna_json_calls_tied_but_is_not_is_told_when_read(tmp_path: Path):
    config = tiny_config(vocabulary_size=48, hidden_dim=88, kv_heads=4, tied_embeddings=True)
    write(tmp_path / "meta", config, shards=2)
    assert "tied_embeddings" in (tmp_path / "meta" / "puna.json").read_text()
    rewritten(tmp_path / "meta" / "consolidated.01.pth", {"output.weight": np.ones((24, 32))})
    with pytest.raises(CheckpointError, match=r"output\.weight should be the embedding"):
        open_meta(tmp_path / "meta").read("tok_embeddings.weight")


def test_a_tokenizer_beside_or_above_the_shards_is_found(tmp_path: Path):
    shards_of(tmp_path / "7B", 1)
    assert open_meta(tmp_path / "7B").tokenizer_files.files == {}
    (tmp_path / "tokenizer.model").write_bytes(b"above")
    found = open_meta(tmp_path / "7B").tokenizer_files.files
    assert found == {"tokenizer.model": tmp_path / "tokenizer.model"}
    (tmp_path / "7B" / "tokenizer.model").write_bytes(b"beside")
    source = open_meta(tmp_path / "7B" / "consolidated.00.pth")
    write_meta(source, tmp_path / "copy", dtype=None, shards=2, console=silent())
    assert (tmp_path / "copy" / "tokenizer.model").read_bytes() == b"beside"
