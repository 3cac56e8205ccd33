"""Fused causal attention against the formula written out in float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from puna.model.flash import causal_attention  # noqa: E402

LENGTHS = (1, 7, 127, 129, 300)
HEAD_SIZES = (32, 48, 64, 128)
HEADS = {"multi-head": (3, 3), "grouped-query": (4, 2), "one kv head": (3, 1)}
# float32 sums of up to 300 terms of size 1, in another order.
FLOAT32_TOLERANCE = 2e-5
# The output comes from torch's own kernel. For gradients ours keeps softmax(S) and dP - delta in
# bf16, where torch's rounds only their product: 2.2 to 2.7 times its error was measured for dQ.
BF16_FACTORS = {"o": 1.0, "q": 3.0, "k": 3.0, "v": 2.0}


def explicit(query, key, value):
    """softmax(q kᵀ / sqrt(head_dim) where not in the future) v, every matrix written out."""
    group = query.shape[1] // key.shape[1]
    key, value = (rows.repeat_interleave(group, dim=1) for rows in (key, value))
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    rows = torch.arange(query.shape[2])
    scores = scores.masked_fill(rows[None, :] > rows[:, None], -math.inf)
    return torch.softmax(scores, dim=-1) @ value


def inputs(heads: str, time: int, head_dim: int, batch: int = 2):
    """Query, key, value and an output gradient in float64."""
    generator = torch.Generator().manual_seed(time * 1000 + head_dim)
    counts = [HEADS[heads][0], HEADS[heads][1], HEADS[heads][1], HEADS[heads][0]]
    return [
        torch.randn(batch, count, time, head_dim, dtype=torch.float64, generator=generator)
        for count in counts
    ]


def forward_and_gradients(attention, tensors, dtype):
    """The output and the gradients of q, k, v, computed in `dtype`, in float64."""
    *leaves, out_gradient = (one.detach().clone().to(dtype) for one in tensors)
    for leaf in leaves:
        leaf.requires_grad_()
    out = attention(*leaves)
    assert out.dtype == dtype
    assert out.shape == leaves[0].shape
    out.backward(out_gradient)
    return [out.detach().double(), *(leaf.grad.double() for leaf in leaves)]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("head_dim", HEAD_SIZES)
def test_output_and_gradients_equal_the_formula(heads, time, head_dim):
    tensors = inputs(heads, time, head_dim)
    wanted = forward_and_gradients(explicit, tensors, torch.float64)
    found = forward_and_gradients(causal_attention, tensors, torch.float32)
    for name, one, other in zip("oqkv", found, wanted, strict=True):
        torch.testing.assert_close(
            one, other, atol=FLOAT32_TOLERANCE, rtol=FLOAT32_TOLERANCE, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_in_bf16_the_error_is_of_the_size_of_torchs_own(heads, time, head_dim):
    tensors = [one.bfloat16().double() for one in inputs(heads, time, head_dim)]
    wanted = forward_and_gradients(explicit, tensors, torch.float64)
    found = forward_and_gradients(causal_attention, tensors, torch.bfloat16)

    def torchs_own(query, key, value):
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )

    peer = forward_and_gradients(torchs_own, tensors, torch.bfloat16)
    for name, one, other, right in zip("oqkv", found, peer, wanted, strict=True):
        # Half a unit in bf16's last place; a single row's dQ and dK are 0, of terms of size 1.
        rounding = 2**-9 * right.square().mean().sqrt().clamp(min=1e-2)
        error, usual = ((tensor - right).square().mean().sqrt() for tensor in (one, other))
        assert error <= BF16_FACTORS[name] * torch.maximum(usual, rounding), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transposed_inputs_as_the_model_gives_them_change_nothing(dtype):
    """The model hands over [batch, time, heads, head_dim] transposed, cut from one product."""
    generator = torch.Generator().manual_seed(1)
    joined = torch.randn(2, 33, (4 + 2 + 2) * 32, generator=generator).to(dtype)
    out_gradient = torch.randn(2, 4, 33, 32, generator=generator).to(dtype)
    results = []
    for is_straight in (False, True):
        leaf = joined.clone().requires_grad_()
        parts = [
            part.unflatten(-1, (-1, 32)).transpose(1, 2)
            for part in leaf.split([4 * 32, 2 * 32, 2 * 32], dim=-1)
        ]
        assert not parts[0].is_contiguous()
        if is_straight:
            parts = [part.contiguous() for part in parts]
        out = causal_attention(*parts)
        out.backward(out_gradient)
        results.append((out.detach(), leaf.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_scores_neither_overflow_nor_lose_their_rows(dtype):
    """A key that fits its query perfectly takes all the weight: the output is its value."""
    time, size = 40, 32
    key = 50 * torch.eye(time, size).repeat(1, 2, 1, 1)
    value = torch.randn(1, 2, time, size, generator=torch.Generator().manual_seed(1))
    found = causal_attention(key.to(dtype), key.to(dtype), value.to(dtype))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:, :, :size], value.to(dtype)[:, :, :size])


def test_no_row_sees_the_future():
    query, key, value, _ = (one.float() for one in inputs("multi-head", 130, 32))
    before = causal_attention(query, key, value)
    key[:, :, 100:], value[:, :, 100:] = 7.0, 1e4
    after = causal_attention(query, key, value)
    assert torch.equal(before[:, :, :100], after[:, :, :100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_inputs_give_the_same_bits(dtype):
    tensors = inputs("grouped-query", 129, 64)
    first = forward_and_gradients(causal_attention, tensors, dtype)
    second = forward_and_gradients(causal_attention, tensors, dtype)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
