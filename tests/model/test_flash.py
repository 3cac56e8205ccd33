"""Fused rotary attention, on each implementation there is, against the formula in float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from puna.model import flash  # noqa: E402
from puna.model.flash import causal_attention  # noqa: E402
from puna.model.rotary import rotary_factors, rotate  # noqa: E402
from puna.model.sizes import ModelConfig  # noqa: E402
from puna.native import kernels  # noqa: E402

# 512 keys meet a query at a time, and 128 keys 512 queries: lengths around these and around tiles.
LENGTHS = (1, 7, 32, 33, 127, 129, 300, 513, 700)
HEAD_SIZES = (32, 64, 96, 128, 256)
HEADS = {"multi-head": (3, 3), "grouped-query": (4, 2), "one kv head": (3, 1)}
# float32 sums of up to 700 terms of size 1, in another order; angles are float32 too.
FLOAT32_TOLERANCE = 2e-4

BF16 = torch.bfloat16
IMPLEMENTATIONS = [*kernels.usable_isas(), "torch"]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch) -> str:
    monkeypatch.setattr(flash, "ISA", None if request.param == "torch" else request.param)
    assert flash.uses_kernels("cpu", BF16, 64) == (request.param != "torch")
    return str(request.param)


def factors(head_dim: int, time: int):
    config = ModelConfig(dim=head_dim, heads=1, context_length=time)
    return rotary_factors(config, time)


def inputs(heads: str, time: int, head_dim: int, batch: int = 2):
    """Queries, keys and values side by side, and the output's gradient, in float64."""
    generator = torch.Generator().manual_seed(time * 1000 + head_dim)
    count, kv_count = HEADS[heads]
    return tuple(
        torch.randn(batch, time, width * head_dim, dtype=torch.float64, generator=generator)
        for width in (count + 2 * kv_count, count)
    )


def explicit(joined, cosines, sines, heads):
    """rotary, then softmax(q kᵀ / sqrt(head_dim) where not in the future) v, all written out."""
    head_dim = 2 * cosines.shape[1]
    parts = joined.unflatten(-1, (-1, head_dim)).transpose(1, 2)
    kv_heads = (parts.shape[1] - heads) // 2
    query, key, value = parts.split([heads, kv_heads, kv_heads], dim=1)
    a, b = (torch.stack((x[..., 0::2], x[..., 1::2])) for x in (query, key))
    query, key = (
        torch.stack((x[0] * cosines - x[1] * sines, x[0] * sines + x[1] * cosines), -1).flatten(-2)
        for x in (a, b)
    )
    key, value = (rows.repeat_interleave(heads // kv_heads, dim=1) for rows in (key, value))
    scores = query @ key.mT / math.sqrt(head_dim)
    rows = torch.arange(query.shape[2])
    scores = scores.masked_fill(rows[None, :] > rows[:, None], -math.inf)
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)


def forward_and_gradient(attention, tensors, heads: int, dtype):
    """The output and the gradient of q, k and v, computed in `dtype`, in float64."""
    joined, out_gradient = (one.detach().to(dtype) for one in tensors)
    joined.requires_grad_()
    head_dim = out_gradient.shape[2] // heads
    turn = factors(head_dim, joined.shape[1])
    if dtype == torch.float64:
        turn = tuple(table.double() for table in turn)
    out = attention(joined, *turn, heads)
    assert out.dtype == dtype
    out.backward(out_gradient)
    return out.detach().double(), joined.grad.double()


def parts_of(heads: str, head_dim: int, out, gradient) -> dict[str, torch.Tensor]:
    """The output, and the gradients of q, k and v apart."""
    count, kv_count = (number * head_dim for number in HEADS[heads])
    names = ("q", "k", "v")
    pieces = gradient.split([count, kv_count, kv_count], dim=-1)
    return {"o": out, **dict(zip(names, pieces, strict=True))}


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("time", [1, 33, 300])
@pytest.mark.parametrize("head_dim", [16, 48, 64])
def test_output_and_gradients_equal_the_formula(heads, time, head_dim):
    """In float32, which is torch's kernel everywhere."""
    tensors, count = inputs(heads, time, head_dim), HEADS[heads][0]
    wanted = forward_and_gradient(explicit, tensors, count, torch.float64)
    found = forward_and_gradient(causal_attention, tensors, count, torch.float32)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=FLOAT32_TOLERANCE, rtol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("head_dim", HEAD_SIZES)
def test_in_bf16_the_error_is_at_most_torchs_own(heads, time, head_dim, implementation):
    count = HEADS[heads][0]
    tensors = tuple(one.to(BF16).double() for one in inputs(heads, time, head_dim, batch=1))
    wanted = forward_and_gradient(explicit, tensors, count, torch.float64)
    found = forward_and_gradient(causal_attention, tensors, count, BF16)
    peer = forward_and_gradient(torchs_own, tensors, count, BF16)
    cut = [parts_of(heads, head_dim, *pair) for pair in (found, peer, wanted)]
    for name, one, other, right in zip("oqkv", *(each.values() for each in cut), strict=True):
        # Half a unit in bf16's last place; a single row's dQ and dK are 0, of terms of size 1.
        rounding = 2**-9 * right.square().mean().sqrt().clamp(min=1e-2)
        error, usual = ((tensor - right).square().mean().sqrt() for tensor in (one, other))
        assert error <= 1.1 * torch.maximum(usual, rounding), name


def torchs_own(joined, cosines, sines, heads):
    """The twin, whatever `flash` would choose."""
    head_dim = 2 * cosines.shape[1]
    kv_heads = (joined.shape[2] // head_dim - heads) // 2
    parts = joined.unflatten(-1, (-1, head_dim)).transpose(1, 2)
    query, key, value = parts.split([heads, kv_heads, kv_heads], dim=1)
    query, key = rotate(query, cosines, sines), rotate(key, cosines, sines)
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    return out.transpose(1, 2).flatten(2)


def test_large_scores_neither_overflow_nor_lose_their_rows(implementation):
    """A key that fits its query perfectly takes all the weight: the output is its value."""
    time, size = 40, 64
    turn = (torch.ones(time, size // 2), torch.zeros(time, size // 2))  # nothing is turned
    key = 50 * torch.eye(time, size)
    value = torch.randn(time, size, generator=torch.Generator().manual_seed(1))
    joined = torch.cat((key, key, value), dim=1)[None].to(BF16)
    found = causal_attention(joined, *turn, 1)
    torch.testing.assert_close(found[0], value.to(BF16))


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_what_is_not_a_number_is_passed_on(part, implementation):
    """A run stops at a loss that is not finite; kernels that lost a NaN would let it go on."""
    time, size, at = 70, 32, 40
    joined = torch.randn(1, time, 3 * size, generator=torch.Generator().manual_seed(2)).to(BF16)
    joined[0, at, size * ["query", "key", "value"].index(part)] = math.nan
    found = causal_attention(joined, *factors(size, time), 1)
    rows = slice(at, at + 1 if part == "query" else None)
    assert found[0, rows].isnan().any(dim=-1).all()


def test_a_model_whose_angles_are_bf16_too_is_served(implementation):
    joined, _ = (one.to(BF16) for one in inputs("multi-head", 9, 32))
    turn = tuple(table.to(BF16) for table in factors(32, 9))
    assert causal_attention(joined, *turn, 3).dtype == BF16


def test_no_row_sees_the_future(implementation):
    time = 600
    joined, _ = (one.to(BF16) for one in inputs("multi-head", time, 32))
    before = causal_attention(joined, *factors(32, time), 3)
    joined[:, 540:] = 100.0
    after = causal_attention(joined, *factors(32, time), 3)
    assert torch.equal(before[:, :540], after[:, :540])
    assert not torch.equal(before[:, 540:], after[:, 540:])


def test_the_same_inputs_give_the_same_bits_on_any_number_of_threads(implementation):
    tensors = inputs("grouped-query", 129, 64)
    first = forward_and_gradient(causal_attention, tensors, 4, BF16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    second = forward_and_gradient(causal_attention, tensors, 4, BF16)
    torch.set_num_threads(threads)
    if implementation == "torch":  # its backward sums in an order that depends on the threads
        return
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_arrays_that_do_not_lie_side_by_side_change_nothing(implementation):
    joined, gradient = (one.to(BF16) for one in inputs("multi-head", 50, 32))
    wanted = forward_and_gradient(causal_attention, (joined, gradient), 3, BF16)
    apart = tuple(one.transpose(0, 1).contiguous().transpose(0, 1) for one in (joined, gradient))
    assert not apart[0].is_contiguous()
    found = forward_and_gradient(causal_attention, apart, 3, BF16)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.skipif(flash.ISA is None, reason="no kernels are used here")
def test_the_operators_are_what_torch_expects_of_them():
    joined, _ = (one.to(BF16) for one in inputs("grouped-query", 20, 32))
    arguments = (joined.requires_grad_(), *factors(32, 20), 4)
    torch.library.opcheck(
        torch.ops.puna.attention.default,
        arguments,
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "wanted"),
    [
        ("cuda", BF16, 64, "torch's fused kernel"),
        ("cpu", torch.float32, 64, "torch's fused kernel (the kernels need bf16)"),
        ("cpu", BF16, 48, "torch's fused kernel (the kernels need heads of 32n, not 48)"),
        ("cpu", BF16, 64, "Puna's kernels (amx)"),
    ],
)
def test_a_run_records_which_attention_it_uses(device, dtype, head_dim, wanted, monkeypatch):
    monkeypatch.setattr(flash, "ISA", "amx")
    monkeypatch.setattr(kernels, "missing_reason", lambda: None)
    assert flash.describe(device, dtype, head_dim) == wanted


def test_without_kernels_the_record_says_why(monkeypatch):
    monkeypatch.setattr(flash, "ISA", None)
    monkeypatch.setattr(kernels, "missing_reason", lambda: "this processor has no AMX")
    assert flash.describe("cpu", BF16, 64) == "torch's fused kernel (this processor has no AMX)"
