"""Keeping fewer activations changes memory and work, never a gradient (paper 2.4)."""

from __future__ import annotations

import pytest
from tiny_training import run_config

torch = pytest.importorskip("torch")

from puna.model.llama import Llama  # noqa: E402
from puna.train.activation_checkpoint import CheckpointedBlock  # noqa: E402

KINDS = ("none", "selective", "narrow", "full")
# Heads of 16, which our kernels leave to torch, and of 32.
SHAPES = {
    "multi-head": {"heads": 4},
    "grouped-query": {"heads": 4, "kv_heads": 2},
    "kernels": {"heads": 2, "kv_heads": 1},
}


def build(kind: str, **shape):
    """A model with fixed weights, and its layers under the policy."""
    config = run_config(model={"dim": 64, "layers": 3, **shape}).model
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(1))
    return model, [CheckpointedBlock(layer, kind) for layer in model.layers]


def ids() -> torch.Tensor:
    return torch.randint(320, (4, 32), generator=torch.Generator().manual_seed(2))


def loss_of(model, blocks, dtype):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        return model.output(model.hidden(ids(), blocks=blocks)).float().logsumexp(-1).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_policy_gives_the_same_loss_and_gradients_to_the_bit(shape, dtype):
    results = []
    for kind in KINDS:
        model, blocks = build(kind, **SHAPES[shape])
        loss = loss_of(model, blocks, dtype)
        loss.backward()
        results.append({name: one.grad for name, one in model.named_parameters()} | {"": loss})
    plain = results[0]
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    for other in results[1:]:
        assert other.keys() == plain.keys()
        assert [name for name in plain if not torch.equal(plain[name], other[name])] == []


def kept_bytes(kind: str, dtype) -> int:
    from torch.autograd import profiler

    model, blocks = build(kind)

    def forward():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return model.hidden(ids(), blocks=blocks)

    forward().sum().backward()
    with profiler.profile(profile_memory=True) as profile:
        out = forward()
    events = profile.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]") - out.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_less_is_really_kept(dtype):
    none, selective, narrow, full = (kept_bytes(kind, dtype) for kind in KINDS)
    assert selective < 0.7 * none
    assert narrow < 0.7 * selective
    assert full < 0.5 * narrow


def test_selective_multiplies_no_matrix_twice_narrow_one_and_full_nearly_each():
    from torch.utils.flop_counter import FlopCounterMode

    forward, backward = {}, {}
    for kind in KINDS:
        model, blocks = build(kind)
        with FlopCounterMode(display=False) as counter:
            hidden = model.hidden(ids(), blocks=blocks)
        forward[kind] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            hidden.sum().backward()
        backward[kind] = counter.get_total_flops()
    assert len(set(forward.values())) == 1
    assert backward["selective"] == backward["none"]
    gate_and_up = (
        2
        * ids().numel()
        * sum(
            layer.feed_forward.w1.weight.numel() + layer.feed_forward.w3.weight.numel()
            for layer in model.layers
        )
    )
    assert backward["narrow"] == backward["none"] + gate_and_up
    # The last product of a layer is not needed again: nothing after it asks for its output.
    again = backward["full"] - backward["none"]
    assert 0.6 * forward["none"] < again <= forward["none"]


def test_the_models_own_tree_stays_as_it_is():
    model, blocks = build("selective")
    assert len(blocks) == 3
    assert all("block" not in name for name, _ in model.named_parameters())
