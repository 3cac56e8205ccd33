"""Counted on paper: what torch counts, allocates and keeps, and the numbers of the paper."""

from __future__ import annotations

import dataclasses
import math

import pytest

from puna.errors import ConfigError
from puna.model import count
from puna.model.sizes import ModelConfig, named

# GPU-hours, tokens (table 15 and table 2), and what follows: FLOPs by 6ND, and the share of an
# A100's 312 TFLOP/s by PaLM's definition (worked out from the paper's numbers, apart from us).
PAPER = {
    "7B": (82_432, 1.0e12, 4.04e22, 0.471),
    "13B": (135_168, 1.0e12, 7.81e22, 0.548),
    "33B": (530_432, 1.4e12, 2.73e23, 0.482),
    "65B": (1_022_362, 1.4e12, 5.48e23, 0.497),
}
A100_FLOPS = 312e12
KV_BYTES_A_TOKEN = {"7B": 524_288, "13B": 819_200, "33B": 1_597_440, "65B": 2_621_440}

CONFIG = ModelConfig(dim=64, layers=3, heads=4, vocabulary_size=96, context_length=32)
GROUPED = dataclasses.replace(CONFIG, kv_heads=2, hidden_dim=96)
TIED = dataclasses.replace(CONFIG, tied_embeddings=True)
SHAPES = [CONFIG, GROUPED, TIED]
# Torch's kernel may keep grouped keys and values once for each query head; the formula does not.
ACTIVATION_TOLERANCE = 0.05


@pytest.mark.parametrize("name", PAPER)
def test_training_flops_of_the_papers_runs(name):
    hours, tokens, flops, utilisation = PAPER[name]
    assert 6 * count.parameters(named(name)) * tokens == pytest.approx(flops, rel=0.002)
    per_second = tokens / (hours * 3600)
    share = per_second * count.palm_flops_per_token(named(name)) / A100_FLOPS
    assert share == pytest.approx(utilisation, abs=0.0006)


@pytest.mark.parametrize("name", PAPER)
def test_causal_attention_needs_half_of_what_palm_counts_for_it(name):
    """6·L·d·T where PaLM has 12·L·d·T; norms and the embedding look-up multiply nothing."""
    config = named(name)
    context = config.context_length
    attention = count.training_flops_per_token(config) - 6 * count.matmul_parameters(config)
    assert attention == 6 * config.layers * config.dim * (context + 1)
    palm = count.palm_flops_per_token(config) - 6 * count.parameters(config)
    assert attention / palm == pytest.approx(0.5, rel=1 / context)


@pytest.mark.parametrize(("name", "wanted"), KV_BYTES_A_TOKEN.items())
def test_kv_cache_of_the_papers_sizes(name, wanted):
    assert count.kv_cache_bytes(named(name), 1, 1) == wanted
    assert count.kv_cache_bytes(named(name)) == wanted * 2048


def test_training_state_of_7b_takes_16_bytes_a_parameter():
    assert count.optimizer_bytes(named("7B")) == 16 * 6_738_415_616


def explicit_attention(joined, cosines, sines, heads):
    """Attention in matrices, so that torch counts its products; rotary adds none."""
    import torch

    head_dim = 2 * cosines.shape[1]
    parts = joined.unflatten(-1, (-1, head_dim)).transpose(1, 2)
    kv_heads = (parts.shape[1] - heads) // 2
    query, key, value = parts.split([heads, kv_heads, kv_heads], dim=1)
    key, value = (rows.repeat_interleave(heads // kv_heads, dim=1) for rows in (key, value))
    scores = query @ key.mT / math.sqrt(head_dim)
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("config", SHAPES, ids=["multi-head", "grouped-query", "tied"])
@pytest.mark.parametrize("time", [1, 17, 32])
def test_flops_equal_torchs_own_count_but_for_what_causality_saves(config, time, monkeypatch):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from puna.model.llama import Llama

    monkeypatch.setattr("puna.model.attention.causal_attention", explicit_attention)
    model = Llama(config)
    counter = FlopCounterMode(display=False)
    with counter:
        logits = model(torch.zeros(2, time, dtype=torch.int64))
    forward = counter.get_total_flops()
    with counter:
        logits.sum().backward()
    both = forward + counter.get_total_flops()
    # A row attends to (time + 1) / 2 positions on average, the explicit product has all of them.
    saved = config.layers * 4 * config.dim * (time - (time + 1) / 2)
    assert forward / (2 * time) - saved == count.forward_flops_per_token(config, time)
    assert both / (2 * time) - 3 * saved == count.training_flops_per_token(config, time)


@pytest.mark.parametrize("config", SHAPES, ids=["multi-head", "grouped-query", "tied"])
def test_training_state_is_as_large_as_counted(config):
    torch = pytest.importorskip("torch")
    from puna.model.llama import Llama
    from puna.train.adamw import build_adamw
    from puna.train.settings import TrainConfig

    model = Llama(config)
    optimizer = build_adamw(model, TrainConfig())
    model(torch.zeros(1, 3, dtype=torch.int64)).sum().backward()
    optimizer.step()
    tensors = [*model.parameters(), *(parameter.grad for parameter in model.parameters())]
    for state in optimizer.state.values():
        tensors += [value for name, value in state.items() if name != "step"]
    assert sum(one.nbytes for one in tensors) == count.optimizer_bytes(config)


@pytest.mark.parametrize("config", SHAPES, ids=["multi-head", "grouped-query", "tied"])
@pytest.mark.parametrize("bytes_per_value", [2, 4])
def test_weights_and_kv_cache_are_as_large_as_counted(config, bytes_per_value):
    torch = pytest.importorskip("torch")
    from puna.infer.backends.torch_pages import PagedCache
    from puna.model.llama import Llama

    dtype = {2: torch.bfloat16, 4: torch.float32}[bytes_per_value]
    model = Llama(config).to(dtype)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert weights == count.weight_bytes(config, bytes_per_value)
    cache = PagedCache(config, 2, dtype, torch.device("cpu"))
    measured = cache.keys.nbytes + cache.values.nbytes  # two pages and the spare one
    assert measured == count.kv_cache_bytes(config, 3, 32, bytes_per_value)


def bytes_kept(run) -> int:
    """What `run` allocates and does not give back, by torch's own profiler."""
    from torch.autograd import profiler

    with profiler.profile(profile_memory=True) as profile:
        out = run()
    events = profile.kineto_results.events()
    kept = sum(event.nbytes() for event in events if event.name() == "[memory]")
    return kept - out.nbytes


@pytest.mark.parametrize("kind", ["none", "selective", "narrow", "full"])
@pytest.mark.parametrize("bytes_per_value", [2, 4])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_activations_kept_for_the_backward_pass_are_as_large_as_counted(
    kind, bytes_per_value, kv_heads, monkeypatch
):
    torch = pytest.importorskip("torch")
    from puna.model.llama import Llama
    from puna.train.activation_checkpoint import CheckpointedBlock

    config = ModelConfig(
        dim=128, layers=4, heads=4, kv_heads=kv_heads, vocabulary_size=96, context_length=128
    )
    if kind == "none":  # our kernels keep no rotated queries and keys, which are counted
        monkeypatch.setattr("puna.model.flash.ISA", None)
    model = Llama(config)
    blocks = [CheckpointedBlock(layer, kind) for layer in model.layers]
    ids = torch.zeros(4, 128, dtype=torch.int64)

    def run():
        x = model.tok_embeddings(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bytes_per_value == 2):
            for block in blocks:
                x = block(x, model.rotary_cosines, model.rotary_sines)
        return x

    run().sum().backward()  # what is made once and stays
    wanted = count.activation_bytes(config, 4, None, kind, bytes_per_value)
    assert bytes_kept(run) == pytest.approx(wanted, rel=ACTIVATION_TOLERANCE)


def test_a_policy_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="none, selective, narrow, full, not 'some'"):
        count.activation_bytes(named("7B"), 1, None, "some")
