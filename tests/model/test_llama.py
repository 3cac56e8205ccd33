"""The torch model against transformers' LlamaForCausalLM, the NumPy twin, and its own promises."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hf_peer import hf_peer, to_ours
from tiny_model import random_arrays, tiny_config

from puna.errors import UsageError
from puna.model.sizes import ModelConfig, RopeScaling, named

torch = pytest.importorskip("torch")

from puna.model.llama import Llama  # noqa: E402

# Logits of size 1 in float32, sums in another order.
LOGIT_TOLERANCE = 1e-5
# Gradients are compared relative to the largest value of the same weight's gradient.
GRADIENT_TOLERANCE = 1e-5
# Repeated heads and grouped ones add in another order; logits here are of size 5.
GROUP_TOLERANCE = 2e-5

BASE = ModelConfig(dim=64, layers=3, heads=4, hidden_dim=88, vocabulary_size=97, context_length=160)
SHAPES = {
    "multi-head": BASE,
    "grouped-query": dataclasses.replace(BASE, kv_heads=2),
    "one kv head, tied": dataclasses.replace(BASE, kv_heads=1, tied_embeddings=True),
    "tied": dataclasses.replace(BASE, tied_embeddings=True),
    "paper's multiple": dataclasses.replace(BASE, hidden_dim=None, multiple_of=256),
    "one layer, one head": dataclasses.replace(BASE, layers=1, heads=1),
    "odd sizes": dataclasses.replace(BASE, dim=60, heads=6, kv_heads=3, hidden_dim=77),
    "theta and epsilon": dataclasses.replace(BASE, rope_theta=500000.0, norm_epsilon=1e-3),
    "linear scaling": dataclasses.replace(BASE, rope_scaling=RopeScaling("linear", 4.0)),
    "llama3 scaling": dataclasses.replace(
        BASE,
        kv_heads=2,
        rope_theta=500000.0,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, original_context_length=32),
    ),
    "dynamic scaling": dataclasses.replace(
        BASE, kv_heads=2, rope_scaling=RopeScaling("dynamic", 4.0, original_context_length=40)
    ),
}
LENGTHS = (1, 7, 129, 160)


def pair(config: ModelConfig):
    """The peer and our model with the same weights."""
    peer = hf_peer(config)
    model = Llama(config)
    arrays = to_ours(peer, config, lambda parameter: parameter.detach())
    load(model, arrays)
    return peer, model


def load(model: Llama, arrays: dict[str, np.ndarray]) -> Llama:
    parameters = dict(model.named_parameters())
    assert parameters.keys() == arrays.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.asarray(arrays[name])))
    return model


def ids(config: ModelConfig, *shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocabulary_size, shape, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_those_of_transformers(shape):
    config = SHAPES[shape]
    peer, model = pair(config)
    for length in LENGTHS:
        batch = ids(config, 2, length)
        with torch.no_grad():
            wanted = peer(batch).logits
            assert wanted.abs().max() > 0.1
            torch.testing.assert_close(model(batch), wanted, atol=LOGIT_TOLERANCE, rtol=0)
        # With gradients the linear layers run side by side: the same numbers.
        torch.testing.assert_close(model(batch).detach(), wanted, atol=LOGIT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("shape", ["multi-head", "grouped-query", "tied", "llama3 scaling"])
@pytest.mark.parametrize("length", [7, 129])
def test_gradients_equal_those_of_transformers(shape, length):
    config = SHAPES[shape]
    peer, model = pair(config)
    batch, targets = ids(config, 2, length), ids(config, 2, length, seed=2)
    for one in (peer, model):
        out = one(batch)
        logits = out if isinstance(out, torch.Tensor) else out.logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    wanted = to_ours(peer, config, lambda parameter: parameter.grad)
    for name, parameter in model.named_parameters():
        scale = abs(wanted[name]).max()
        assert scale > 0, name
        np.testing.assert_allclose(
            parameter.grad.numpy(), wanted[name], atol=GRADIENT_TOLERANCE * scale, rtol=0,
            err_msg=name,
        )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_numpy_twin_gives_the_same_logits(shape):
    from puna.model.twin import numpy_shape
    from puna.native.numpy_llama import KvCache as TwinCache
    from puna.native.numpy_llama import NumpyLlama

    config = SHAPES[shape]
    arrays = random_arrays(config, scale=0.1)
    model = load(Llama(config), arrays)
    twin = NumpyLlama(numpy_shape(config), arrays)
    batch = ids(config, 1, 129)
    cache = TwinCache(twin.shape, 129)
    wanted = twin.logits(twin.hidden([(cache, batch[0].numpy())]))
    with torch.no_grad():
        found = model(batch)[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=LOGIT_TOLERANCE * abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("shape", ["multi-head", "grouped-query"])
@pytest.mark.parametrize("changed", [1, 64, 128])
def test_a_later_token_never_changes_an_earlier_logit(shape, changed):
    config = SHAPES[shape]
    model = load(Llama(config), random_arrays(config))
    batch = ids(config, 1, 129)
    other = batch.clone()
    other[0, changed] = (batch[0, changed] + 1) % config.vocabulary_size
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            first, second = model(batch).detach(), model(other).detach()
        assert torch.equal(first[:, :changed], second[:, :changed])
        assert not torch.equal(first[:, changed:], second[:, changed:])


def test_grouped_queries_equal_heads_whose_keys_and_values_are_repeated():
    grouped = SHAPES["grouped-query"]
    arrays = random_arrays(grouped)
    repeated = {}
    for name, array in arrays.items():
        if name.endswith(("wk.weight", "wv.weight")):
            heads = array.reshape(grouped.kv_head_count, grouped.head_dim, grouped.dim)
            array = heads.repeat(grouped.heads // grouped.kv_head_count, axis=0)
            array = array.reshape(-1, grouped.dim)
        repeated[name] = array
    batch = ids(grouped, 2, 33)
    with torch.no_grad():
        found = load(Llama(grouped), arrays)(batch)
        wanted = load(Llama(SHAPES["multi-head"]), repeated)(batch)
    torch.testing.assert_close(found, wanted, atol=GROUP_TOLERANCE * found.abs().max(), rtol=0)


@pytest.mark.parametrize("length", [161, 400])
def test_positions_beyond_the_context_are_refused(length):
    model = Llama(BASE)
    with pytest.raises(UsageError, match=f"positions up to {length} .* context is 160"):
        model(ids(BASE, 1, length))


def test_fresh_weights_have_the_stated_spread_and_come_from_the_seed_alone():
    config = dataclasses.replace(named("15M"), vocabulary_size=512, tied_embeddings=False)
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(3))
    residual = 0.02 / math.sqrt(2 * config.layers)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
            continue
        wanted = residual if name.endswith(("wo.weight", "w2.weight")) else 0.02
        # Four standard errors of a sample deviation, 1 / sqrt(2 n), and of a mean.
        count = parameter.numel()
        assert parameter.std().item() == pytest.approx(wanted, rel=4 / math.sqrt(2 * count)), name
        assert abs(parameter.mean().item()) < 4 * wanted / math.sqrt(count), name
    again = Llama(config)
    again.initialise(torch.Generator().manual_seed(3))
    other = Llama(config)
    other.initialise(torch.Generator().manual_seed(4))
    weights = model.state_dict()
    assert all(torch.equal(weights[name], one) for name, one in again.state_dict().items())
    assert not torch.equal(weights["output.weight"], other.state_dict()["output.weight"])


def test_a_fresh_model_is_as_uncertain_as_one_that_knows_nothing():
    config = dataclasses.replace(named("3M"), tied_embeddings=False)
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(1))
    batch = ids(config, 4, 65)
    with torch.no_grad():
        logits = model(batch[:, :-1]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(config.vocabulary_size), abs=0.15)


def test_parameters_carry_metas_names_and_tied_output_is_not_stored_twice():
    config = tiny_config()
    assert Llama(config).state_dict().keys() == random_arrays(config).keys()
    tied = tiny_config(tied_embeddings=True)
    model = Llama(tied)
    assert {name for name, _ in model.named_parameters()} == random_arrays(tied).keys()
    assert model.output.weight is model.tok_embeddings.weight
