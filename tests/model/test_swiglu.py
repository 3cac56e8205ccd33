"""SwiGLU against its formula, and linears side by side against linears one by one."""

from __future__ import annotations

import numpy as np
import pytest

from puna.model.sizes import ModelConfig

torch = pytest.importorskip("torch")

from puna.model.swiglu import FeedForward, side_by_side  # noqa: E402

CONFIG = ModelConfig(dim=12, heads=2, hidden_dim=20)


def test_the_output_is_the_papers_formula():
    torch.manual_seed(0)
    layer = FeedForward(CONFIG)
    x = torch.randn(2, 3, 12)
    w1, w2, w3 = (getattr(layer, name).weight.detach().numpy() for name in ("w1", "w2", "w3"))
    gate = x.numpy() @ w1.T
    wanted = (gate / (1 + np.exp(-gate)) * (x.numpy() @ w3.T)) @ w2.T
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, atol=1e-6)


def test_linears_side_by_side_equal_them_one_by_one_gradients_included():
    torch.manual_seed(0)
    linears = [torch.nn.Linear(12, size, bias=False) for size in (8, 4, 20)]
    x = torch.randn(5, 12, requires_grad=True)
    weights = [linear.weight for linear in linears]
    joined = side_by_side(x, *weights)
    sum(part.square().sum() for part in joined).backward()
    found = [x.grad, *(linear.weight.grad for linear in linears)]
    x.grad = None
    for linear in linears:
        linear.weight.grad = None
    apart = [linear(x) for linear in linears]
    sum(part.square().sum() for part in apart).backward()
    wanted = [x.grad, *(linear.weight.grad for linear in linears)]
    for one, other in zip([*joined, *found], [*apart, *wanted], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for one, other in zip(side_by_side(x, *weights), apart, strict=True):
            torch.testing.assert_close(one, other)
