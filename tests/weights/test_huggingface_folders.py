"""Hugging Face folders without torch: what is written into them, and what is refused in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from weights.hf_folders import arrays, changed, write, write_shards

from puna.console import silent
from puna.errors import CheckpointError
from puna.model.sizes import RopeScaling
from puna.tokens.vocabulary import PieceType, Vocabulary
from puna.weights.huggingface import open_huggingface, write_huggingface
from puna.weights.source import ModelSource, float32_to_bf16, tensor_names


class Quantised:
    """A source that says its weights are quantised, and reads as they would."""

    def __init__(self, source: ModelSource, **dtypes: str) -> None:
        self.path, self.config = source.path, source.config
        self.tokenizer_files = source.tokenizer_files
        self.tensors = {
            name: dataclasses.replace(one, dtype=dtypes.get(name.split(".")[-2], "Q8_0"))
            for name, one in source.tensors.items()
        }
        self.read = source.read


def test_quantised_weights_become_bf16_unless_told_otherwise(tmp_path: Path):
    source = Quantised(open_huggingface(write(tmp_path / "x", changed(), arrays())), norm="F64")
    write_huggingface(source, tmp_path / "y", dtype=None, console=silent())
    dtypes = {name: one.dtype for name, one in open_huggingface(tmp_path / "y").tensors.items()}
    assert dtypes["norm.weight"] == "F32"
    assert {dtype for name, dtype in dtypes.items() if name != "norm.weight"} == {"BF16"}
    config = json.loads((tmp_path / "y/config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"


def test_a_tensor_larger_than_a_shard_has_a_file_of_its_own(tmp_path: Path):
    source = open_huggingface(write(tmp_path / "theirs", changed(), arrays()))
    write_huggingface(source, tmp_path / "ours", dtype=None, console=silent(), max_shard_bytes=1)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) == len(source.tensors)
    assert open_huggingface(tmp_path / "ours").tensors == source.tensors


@pytest.mark.parametrize(("dtype", "wanted"), [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")])
def test_a_dtype_is_for_every_weight(tmp_path: Path, dtype: str, wanted: str):
    source = open_huggingface(write(tmp_path / "x", changed(), arrays()))
    write_huggingface(source, tmp_path / "y", dtype=dtype, console=silent())
    found = open_huggingface(tmp_path / "y")
    assert {one.dtype for one in found.tensors.values()} == {wanted}
    for name in source.tensors:
        values = source.read(name)
        kept = {
            "F32": values,
            "F16": values.astype(np.float16).astype(np.float32),
            "BF16": (float32_to_bf16(values).astype(np.uint32) << 16).view(np.float32),
        }[wanted]
        assert np.array_equal(found.read(name), kept)


def test_what_cannot_be_written_is_refused(tmp_path: Path):
    source = open_huggingface(write(tmp_path / "x", changed(), arrays()))
    with pytest.raises(CheckpointError, match="f32, f16 or bf16, not q8_0"):
        write_huggingface(source, tmp_path / "y", dtype="q8_0", console=silent())
    for name in ("config.json", "../x", "model.safetensors", ".hidden", "a\\b"):
        with pytest.raises(CheckpointError, match="cannot lie beside the weights"):
            write_huggingface(
                source, tmp_path / "y", dtype=None, console=silent(), extra_files={name: b""}
            )
    assert not (tmp_path / "y").exists()


def test_files_of_the_tokenizer_lie_beside_what_is_written(tmp_path: Path):
    folder = write(tmp_path / "x", changed(), arrays())
    source = open_huggingface(folder)
    normal = PieceType.NORMAL
    vocabulary = Vocabulary("bpe", ("a", "b"), (normal, normal), bos_id=0, eos_id=1)
    write_huggingface(
        source,
        tmp_path / "y",
        dtype=None,
        console=silent(),
        vocabulary=vocabulary,
        extra_files={"tokenizer.json": b"{}", "chat_template.jinja": b"hi"},
    )
    assert (tmp_path / "y/tokenizer.json").read_bytes() == b"{}"
    assert (tmp_path / "y/chat_template.jinja").read_bytes() == b"hi"
    generation = json.loads((tmp_path / "y/generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": 1}
    again = open_huggingface(tmp_path / "y")
    assert again.tokenizer_files.files.keys() == {
        "tokenizer.json", "chat_template.jinja", "generation_config.json",
    }  # fmt: skip
    write_huggingface(again, tmp_path / "z", dtype=None, console=silent())
    kept = (tmp_path / "z/generation_config.json").read_bytes()
    assert kept == (tmp_path / "y/generation_config.json").read_bytes()


def test_tensors_are_listed_in_metas_order_with_what_the_file_says(tmp_path: Path):
    source = open_huggingface(write(tmp_path, changed(), arrays()))
    assert list(source.tensors) == list(tensor_names(source.config))
    one = source.tensors["layers.1.attention.wk.weight"]
    assert (one.shape, one.dtype, one.nbytes) == ((8, 16), "F32", 512)
    assert source.format == "hf"
    assert source.path == tmp_path
    assert source.tokenizer_files.files == {}
    raw = source.raw("layers.1.attention.wk.weight")
    assert np.array_equal(
        raw.view(np.float32).reshape(8, 16), source.read("layers.1.attention.wk.weight")
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "order"),
    [("wq", "q_proj", [0, 2, 1, 3]), ("wk", "k_proj", [0, 2, 1, 3]), ("wv", "v_proj", range(4))],
)
def test_rows_of_q_and_k_are_read_in_our_order_or_in_the_files(tmp_path, ours, theirs, order):
    source = open_huggingface(write(tmp_path, changed(), arrays()))
    stored = arrays()[f"model.layers.1.self_attn.{theirs}.weight"]
    name = f"layers.1.attention.{ours}.weight"
    assert np.array_equal(source.read_as_stored(name), stored)
    heads = stored.reshape(-1, 4, 16)  # heads of four rows
    assert np.array_equal(source.read(name), heads[:, list(order)].reshape(stored.shape))


def test_tied_weights_may_be_stored_twice_but_not_differ(tmp_path: Path):
    weights = arrays()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    same = open_huggingface(write(tmp_path / "same", changed(tie_word_embeddings=True), weights))
    assert "output.weight" not in same.tensors
    assert np.array_equal(same.read("tok_embeddings.weight"), weights["model.embed_tokens.weight"])
    other = open_huggingface(write(tmp_path / "other", changed(tie_word_embeddings=True), arrays()))
    for _ in range(2):
        for reader in (other.read, other.raw):
            with pytest.raises(
                CheckpointError, match=r"other: .*embed_tokens.* and lm_head.*differ"
            ):
                reader("tok_embeddings.weight")


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in arrays().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (without("lm_head.weight"), r"lm_head\.weight should have the shape \[11, 16\].*nothing"),
        (without("model.norm.weight"), r"model\.norm\.weight should have .*found nothing"),
        (
            {**arrays(), "model.norm.weight": np.ones(15, dtype=np.float32)},
            r"model\.norm\.weight should have the shape \[16\], found the shape \[15\]",
        ),
        (
            {**arrays(), "model.layers.2.mlp.up_proj.weight": np.ones((12, 16), np.float32)},
            r"layers\.2\.mlp\.up_proj\.weight should have nothing, found the shape \[12, 16\]",
        ),
        (
            {**arrays(), "model.layers.0.self_attn.q_proj.bias": np.ones(16, dtype=np.float32)},
            r"holds weights that a LLaMA lacks: 'model\.layers\.0\.self_attn\.q_proj\.bias'",
        ),
        (
            {f"x{number}": np.ones(1) for number in range(9)},
            r"a LLaMA lacks: 'x0', 'x1', 'x2', 'x3' and 5 more",
        ),
        (
            {**arrays(), "model.norm.weight": np.ones(16, dtype=np.int32)},
            r"model\.norm\.weight should hold weights, found I32",
        ),
    ],
)
def test_weights_that_are_not_the_configs_are_refused(tmp_path: Path, weights, message: str):
    with pytest.raises(CheckpointError, match=str(tmp_path) + ".*" + message):
        open_huggingface(write(tmp_path, changed(), weights))


def test_a_config_of_a_billion_layers_costs_nothing(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"1000000000 layers, the weights are 21 tensors"):
        open_huggingface(write(tmp_path, changed(num_hidden_layers=10**9), arrays()))


def test_values_that_are_not_finite_are_told_when_they_are_read(tmp_path: Path):
    weights = arrays()
    weights["model.layers.1.self_attn.k_proj.weight"][3, 4] = np.nan
    source = open_huggingface(write(tmp_path, changed(), weights))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*k_proj\.weight.* 1 of 128"):
        source.read("layers.1.attention.wk.weight")


@pytest.mark.parametrize("dtype", [None, "f32", "f16", "bf16"])
def test_values_that_are_not_finite_are_never_written(tmp_path: Path, dtype: str | None):
    weights = arrays()
    weights["model.layers.1.self_attn.k_proj.weight"][3, 4] = np.inf
    source = open_huggingface(write(tmp_path / "x", changed(), weights))
    with pytest.raises(CheckpointError, match=r"x.*: .* 1 of 128 are NaN or infinite"):
        write_huggingface(source, tmp_path / "y", dtype=dtype, console=silent())


def test_large_tensors_are_checked_to_the_last_block(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("puna.weights.huggingface.BLOCK_VALUES", 40)
    source = open_huggingface(write(tmp_path / "x", changed(), arrays()))
    write_huggingface(source, tmp_path / "narrow", dtype="bf16", console=silent())
    narrow = open_huggingface(tmp_path / "narrow")
    write_huggingface(narrow, tmp_path / "again", dtype=None, console=silent())
    first, second = (tmp_path / name / "model.safetensors" for name in ("narrow", "again"))
    assert first.read_bytes() == second.read_bytes()
    content = bytearray(first.read_bytes())
    content[-2:] = b"\x80\x7f"  # infinity, the last number of the last tensor
    first.write_bytes(content)
    with pytest.raises(CheckpointError, match="are NaN or infinite"):
        write_huggingface(narrow, tmp_path / "third", dtype=None, console=silent())


def halves() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    names = list(arrays())
    first, second = names[:10], names[10:]
    return {n: arrays()[n] for n in first}, {n: arrays()[n] for n in second}


SHARDS = ("a.safetensors", "b.safetensors")


def indexed(folder: Path, change=None) -> Path:
    """A folder of two shards; `change` may edit the index."""
    write_shards(folder, changed(), dict(zip(SHARDS, halves(), strict=True)))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    if change is not None:
        change(index)
    path.write_text(json.dumps(index))
    return folder


def put(**changes):
    return lambda index: index["weight_map"].update(changes)


def test_a_wrong_total_in_an_index_is_noted(tmp_path: Path):
    assert open_huggingface(indexed(tmp_path / "x")).notes == ()
    (note,) = open_huggingface(
        indexed(tmp_path / "y", lambda index: index["metadata"].update(total_size=5))
    ).notes
    assert "tells of 5 bytes, the shards have 12480" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(x="a.safetensors"), "'x' should be in a.safetensors, they are not"),
        (
            lambda index: index["weight_map"].pop("model.embed_tokens.weight"),
            "'model.embed_tokens.weight' are in a.safetensors, of which the index does not tell",
        ),
        (
            lambda index: index["weight_map"].update({"lm_head.weight": "a.safetensors"}),
            "'lm_head.weight' should be in a.safetensors, they are not",
        ),
        (put(x="c.safetensors"), "c.safetensors should hold weights, found nothing there"),
        (put(x="../a.safetensors"), "a shard should be a file in the same folder"),
        (put(x="/etc/passwd"), "a shard should be a file in the same folder"),
        (put(x="..\\a.safetensors"), "a shard should be a file in the same folder"),
        (put(x="C:a.safetensors"), "a shard should be a file in the same folder"),
        (put(x=".."), "a shard should be a file in the same folder"),
        (put(x=""), "a shard should be a file in the same folder"),
        (put(x="a\x00b"), "a shard should be a file in the same folder"),
        (put(x="a" * 300), "a shard should be a file in the same folder"),
        (put(x=7), "a shard should be a file in the same folder, found 7"),
        (put(x=["a.safetensors"]), "a shard should be a file in the same folder"),
        (lambda index: index.update(weight_map={}), "weight_map should be an object"),
        (lambda index: index.update(weight_map=["x"]), "weight_map should be an object"),
        (lambda index: index.pop("weight_map"), "weight_map should be an object"),
    ],
)
def test_an_index_that_is_not_the_shards_is_refused(tmp_path: Path, change, message: str):
    with pytest.raises(CheckpointError) as caught:
        open_huggingface(indexed(tmp_path, change))
    assert str(tmp_path) in caught.value.message
    assert message in caught.value.message


def test_the_file_that_is_given_is_read_and_others_are_named(tmp_path: Path):
    torch = pytest.importorskip("torch")
    folder = write(tmp_path, changed(), arrays())
    other = {name: torch.from_numpy(array) * 2 for name, array in arrays().items()}
    torch.save(other, folder / "pytorch_model.bin")
    source = open_huggingface(folder)
    assert source.notes == ("model.safetensors is read, and not pytorch_model.bin",)
    for given, factor in (("model.safetensors", 1), ("pytorch_model.bin", 2), ("config.json", 1)):
        read = open_huggingface(folder / given).read("norm.weight")
        assert np.array_equal(read, factor * arrays()["model.norm.weight"])


def test_what_a_file_is_its_bytes_say_and_not_its_name(tmp_path: Path):
    torch = pytest.importorskip("torch")
    folder = write(tmp_path, changed(), arrays())
    state = {name: torch.from_numpy(array) for name, array in arrays().items()}
    torch.save(state, folder / "model.safetensors")
    read = open_huggingface(folder).read("norm.weight")
    assert np.array_equal(read, arrays()["model.norm.weight"])
    (folder / "model.safetensors").rename(folder / "mine.weights")
    read = open_huggingface(folder / "mine.weights").read("norm.weight")
    assert np.array_equal(read, arrays()["model.norm.weight"])


def test_a_folder_without_weights_says_what_is_missing(tmp_path: Path):
    folder = write(tmp_path / "x", changed(), arrays())
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"found 'model-00001-of-00002\.saf") as caught:
        open_huggingface(folder)
    assert "index.json" in str(caught.value.hint)
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"x should hold .* found no weights"):
        open_huggingface(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json should tell the model's shape"):
        open_huggingface(folder)


def test_dynamic_scaling_survives_a_conversion(tmp_path: Path):
    config = changed(rope_scaling={"type": "dynamic", "factor": 2.0})
    source = open_huggingface(write(tmp_path / "x", config, arrays()))
    write_huggingface(source, tmp_path / "y", dtype=None, console=silent())
    again = open_huggingface(tmp_path / "y")
    assert again.config == source.config
    assert again.config.rope_scaling == RopeScaling("dynamic", 2.0, original_context_length=64)
    assert (tmp_path / "y/model.safetensors").read_bytes() == save(arrays(), {"format": "pt"})
