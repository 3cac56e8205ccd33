"""Names and row orders between Meta, Hugging Face and GGUF, against their own code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.model.sizes import ModelConfig
from puna.weights.names import (
    from_gguf,
    from_hugging_face,
    to_gguf,
    to_half_split,
    to_hugging_face,
    to_interleaved,
    turned_heads,
)
from puna.weights.source import tensor_names

CONFIG = ModelConfig(dim=32, layers=2, heads=4, kv_heads=2, hidden_dim=24, vocabulary_size=7)


def test_hugging_face_names_and_shapes_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=7,
            hidden_size=32,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    wanted = {name: tuple(array.shape) for name, array in peer.state_dict().items()}
    found = {to_hugging_face(name): shape for name, shape in tensor_names(CONFIG).items()}
    assert found == wanted


def test_gguf_names_are_those_of_the_gguf_package():
    gguf = pytest.importorskip("gguf")
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG.layers)
    for name in tensor_names(CONFIG):
        by_package = known.get_name(to_hugging_face(name), try_suffixes=(".weight",))
        assert to_gguf(name) == by_package


def test_every_name_comes_back():
    for name in tensor_names(CONFIG):
        assert from_hugging_face(to_hugging_face(name)) == name
        assert from_gguf(to_gguf(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lm_head",
        "lm_head.bias",
        "lm_head.weight\n",
        "model.layers.01.self_attn.q_proj.weight",
        "model.layers.\u0661.self_attn.q_proj.weight",
        "model.layers.-1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.1.self_attn.rotary_emb.inv_freq",
        "model.layers.9999999.self_attn.q_proj.weight",
        "layers.0.attention.wq.weight",
        "blk.0.attn_q.weight",
    ],
)
def test_other_names_are_nobodys(name):
    assert from_hugging_face(name) is None


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.00.attn_q.weight", "norm.weight"])
def test_other_gguf_names_are_nobodys(name):
    assert from_gguf(name) is None


@pytest.mark.parametrize("name", ["norm", "layers.0.attention.wx.weight", "lm_head.weight"])
def test_a_name_that_meta_lacks_is_our_own_mistake(name):
    with pytest.raises(KeyError):
        to_hugging_face(name)
    with pytest.raises(KeyError):
        to_gguf(name)


def test_only_queries_and_keys_are_turned():
    turned = {name: turned_heads(name, CONFIG) for name in tensor_names(CONFIG)}
    assert {name: heads for name, heads in turned.items() if heads is not None} == {
        "layers.0.attention.wq.weight": 4,
        "layers.1.attention.wq.weight": 4,
        "layers.0.attention.wk.weight": 2,
        "layers.1.attention.wk.weight": 2,
    }


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3))
def test_one_order_undoes_the_other(heads, pairs, columns):
    weight = np.arange(heads * pairs * 2 * columns).reshape(-1, columns)
    assert np.array_equal(to_interleaved(to_half_split(weight, heads), heads), weight)
    assert np.array_equal(to_half_split(to_interleaved(weight, heads), heads), weight)


def test_halves_are_the_even_rows_and_then_the_odd_ones_of_each_head():
    rows = np.arange(12)[:, None]
    found = to_half_split(rows, 2)[:, 0].tolist()
    assert found == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_the_half_split_order_is_transformers_own():
    """The two rotations of one query, each in its own order of rows, are the same numbers."""
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from puna.native.numpy_llama import rotary_frequencies, rotate

    generator = np.random.default_rng(0)
    weight = generator.standard_normal((32, 8)).astype(np.float32)
    x = generator.standard_normal((5, 8)).astype(np.float32)
    angles = np.outer(np.arange(5, dtype=np.float32), rotary_frequencies(16, 10000.0))
    ours = rotate(
        (x @ weight.T).reshape(5, 2, 16), np.cos(angles)[:, None], np.sin(angles)[:, None]
    )
    theirs = torch.from_numpy((x @ to_half_split(weight, 2).T).reshape(5, 2, 16))
    both = torch.from_numpy(np.concatenate((angles, angles), axis=1))
    turned, _ = llama.apply_rotary_pos_emb(theirs, theirs, both.cos(), both.sin())
    pairs = np.stack((turned[..., :8].numpy(), turned[..., 8:].numpy()), axis=-1)
    np.testing.assert_allclose(ours, pairs.reshape(ours.shape), atol=1e-5)
