"""The chunked loss against torch's cross-entropy over all logits at once."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from puna.train import loss as loss_module  # noqa: E402
from puna.train.loss import IGNORE, chunked_loss, plain_loss  # noqa: E402

# Sums of float32 in another order, relative to the largest value.
FLOAT32_TOLERANCE = 2e-6
# Products in bf16 round to 8 bits; ours may be off by twice what torch's own is.
BF16_FACTOR = 2.0
SIZES = [(1, 5), (7, 320), (1024, 97), (1025, 33), (2500, 257), (300, 4096)]


def inputs(rows: int, vocabulary: int, dim: int = 24, ignored: float = 0.2):
    """Float64 hidden rows and weight, and targets of which some do not count."""
    generator = torch.Generator().manual_seed(rows + vocabulary)
    hidden = torch.randn(rows, dim, dtype=torch.float64, generator=generator)
    weight = torch.randn(vocabulary, dim, dtype=torch.float64, generator=generator)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = IGNORE
    return hidden, weight, targets


def value_and_gradients(function, hidden, weight, targets, dtype, scale=1.0):
    """The loss and both gradients of `scale` times it, in float64."""
    leaves = [one.detach().to(dtype).clone().requires_grad_() for one in (hidden, weight)]
    value = function(*leaves, targets)
    (value * scale).backward()
    return [value.detach().double(), *(leaf.grad.double() for leaf in leaves)]


@pytest.mark.parametrize(("rows", "vocabulary"), SIZES)
def test_value_and_gradients_equal_those_of_plain_cross_entropy(rows, vocabulary):
    tensors = inputs(rows, vocabulary)
    wanted = value_and_gradients(plain_loss, *tensors, torch.float64, scale=1 / 77)
    found = value_and_gradients(chunked_loss, *tensors, torch.float32, scale=1 / 77)
    for one, other in zip(found, wanted, strict=True):
        bound = FLOAT32_TOLERANCE * max(1.0, other.abs().max().item()) * math.sqrt(rows)
        torch.testing.assert_close(one, other, atol=bound, rtol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize(("rows", "vocabulary"), SIZES)
def test_in_bf16_the_error_is_of_the_size_of_torchs_own(rows, vocabulary):
    hidden, weight, targets = inputs(rows, vocabulary)
    hidden = hidden.bfloat16()  # what autocast hands over: narrow rows, wide weights
    wanted = value_and_gradients(plain_loss, hidden, weight, targets, torch.float64)

    def ours(rows, weight, targets):
        return chunked_loss(rows.bfloat16(), weight, targets, dtype=torch.bfloat16)

    def torchs(rows, weight, targets):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain_loss(rows.bfloat16(), weight, targets)

    found = value_and_gradients(ours, hidden, weight, targets, torch.float32)
    peer = value_and_gradients(torchs, hidden, weight, targets, torch.float32)
    for one, other, right in zip(found, peer, wanted, strict=True):
        rounding = 2**-9 * right.square().mean().sqrt()
        error, usual = ((tensor - right).square().mean().sqrt() for tensor in (one, other))
        assert error <= BF16_FACTOR * torch.maximum(usual, rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_the_value_is_the_same(dtype):
    hidden, weight, targets = inputs(2500, 257)
    leaves = [hidden.float(), weight.float().requires_grad_()]
    with_gradients = chunked_loss(*leaves, targets, dtype=dtype)
    with torch.no_grad():
        without = chunked_loss(*leaves, targets, dtype=dtype)
    assert without.item() == pytest.approx(with_gradients.item(), rel=2e-6)


def test_ignored_targets_count_for_nothing():
    hidden, weight, _ = inputs(9, 31)
    everything = torch.full((9,), IGNORE)
    value, *gradients = value_and_gradients(chunked_loss, hidden, weight, everything, torch.float32)
    assert value == 0
    assert all(not gradient.any() for gradient in gradients)
    some = torch.arange(9)
    some[3:] = IGNORE
    short = value_and_gradients(chunked_loss, hidden[:3], weight, some[:3], torch.float32)
    long = value_and_gradients(chunked_loss, hidden, weight, some, torch.float32)
    torch.testing.assert_close(long[0], short[0])
    torch.testing.assert_close(long[1][:3], short[1])
    assert not long[1][3:].any()


def of_logits(logits: torch.Tensor, targets: torch.Tensor, dtype=torch.float32):
    """The loss of these logits and its gradient: hidden rows that a unit matrix projects."""
    unit = torch.eye(logits.shape[1])
    leaf = logits.clone().requires_grad_()
    value = chunked_loss(leaf, unit, targets, dtype=dtype)
    value.backward()
    return value.item(), leaf.grad


def test_huge_logits_neither_overflow_nor_vanish():
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    value, gradient = of_logits(logits, torch.tensor([1, 2]))
    assert value == pytest.approx(2e4 + math.log(3))
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0, 0.0], [1 / 3, 1 / 3, -2 / 3]]))


def test_certainty_costs_nothing_and_ignorance_the_log_of_the_vocabulary():
    targets = torch.arange(8)
    assert of_logits(1e3 * torch.eye(8), targets)[0] == 0.0
    assert of_logits(torch.zeros(8, 8), targets)[0] == pytest.approx(8 * math.log(8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("margin", [2.0, 6.0, 8.0])
def test_a_row_that_is_almost_right_keeps_its_small_gradient(dtype, margin):
    """d loss / d logit of the target is p - 1: near p = 1 it must not be rounded as p is."""
    logits = torch.zeros(5, 16)
    logits[:, 3] = margin
    _, gradient = of_logits(logits, torch.full((5,), 3), dtype)
    share = math.exp(margin) / (math.exp(margin) + 15)
    assert gradient[0, 3].item() == pytest.approx(share - 1, rel=2**-7)
    assert gradient[0, 0].item() == pytest.approx((1 - share) / 15, rel=2**-7)


def test_one_chunk_of_logits_exists_at_a_time(monkeypatch):
    """4,096 rows of 2,000 pieces are 33 MB of logits; chunks of 256 rows are 2 MB each."""
    monkeypatch.setattr(loss_module, "CHUNK_ROWS", 256)
    hidden, weight, targets = inputs(4096, 2000)
    leaves = [hidden.float().requires_grad_(), weight.float().requires_grad_()]

    def peak_bytes(function):
        from torch.autograd import profiler

        with profiler.profile(profile_memory=True) as profile:
            function(*leaves, targets).backward()
        held = peak = 0
        for event in profile.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        return peak

    logits = 4096 * 2000 * 4
    assert peak_bytes(plain_loss) > logits
    assert peak_bytes(chunked_loss) < logits / 2
