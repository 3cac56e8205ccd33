"""RMSNorm against its formula."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from puna.model.rmsnorm import RMSNorm  # noqa: E402


def test_rows_have_unit_root_mean_square_times_the_weight():
    norm = RMSNorm(4, 0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0], [-1e4, 1e4, 1e4, 1e4]])
    # sqrt((9 + 16) / 4) = 2.5
    wanted = [[3 / 2.5, 2 * 4 / 2.5, 0.0, 0.0], [-1.0, 2.0, -1.0, 0.5]]
    np.testing.assert_allclose(norm(x).detach().numpy(), wanted, rtol=1e-6)


def test_epsilon_keeps_a_row_of_zeros_zero():
    assert torch.equal(RMSNorm(8, 1e-5)(torch.zeros(2, 8)), torch.zeros(2, 8))


def test_bf16_rows_are_normalised_in_float32():
    """A sum of 4,096 squares in bf16 would stop growing at 256."""
    x = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = RMSNorm(4096, 1e-6)(x)
    assert found.dtype == torch.bfloat16
    wanted = x.double() / x.double().square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=0)


def test_gradients_equal_those_of_the_formula():
    norm = RMSNorm(6, 1e-5).double()
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def formula(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    leaves = [x.clone().requires_grad_(), norm.weight.detach().clone().requires_grad_()]
    formula(*leaves).square().sum().backward()
    ours = x.clone().requires_grad_()
    norm(ours).square().sum().backward()
    # The row passes through float32.
    torch.testing.assert_close(ours.grad, leaves[0].grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.weight.grad, leaves[1].grad, atol=1e-5, rtol=1e-5)
