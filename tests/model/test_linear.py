"""Linear layers in training: our kernel for the weight's gradient, against float64 and torch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from puna.model import flash  # noqa: E402
from puna.model.linear import add_weight_gradient, linear  # noqa: E402
from puna.native import kernels  # noqa: E402

BF16 = torch.bfloat16
# Blocks are 384 or fewer on a side, chunks 256 tokens: sizes around these and below.
SHAPES = [(1, 32, 32), (31, 96, 64), (257, 416, 800), (600, 1408, 256), (70, 32, 1184)]
needs_kernels = pytest.mark.skipif(flash.ISA is None, reason="no kernels are used here")


@pytest.fixture(params=[*kernels.usable_isas(), "torch"])
def implementation(request, monkeypatch) -> str:
    monkeypatch.setattr(flash, "ISA", None if request.param == "torch" else request.param)
    return str(request.param)


def operands(rows: int, outputs: int, width: int):
    """The gradient of the output, and the input, in bf16."""
    generator = torch.Generator().manual_seed(rows)
    return (
        torch.randn(rows, columns, generator=generator).to(BF16) for columns in (outputs, width)
    )


def trained(x, weight, out_gradient):
    """The output and both gradients of one layer under autocast."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=BF16):
        out = linear(x, weight)
    out.backward(out_gradient)
    return out.detach(), x.grad, weight.grad


@pytest.mark.parametrize(("rows", "outputs", "width"), SHAPES)
def test_weight_gradients_are_added_up_in_float32(rows, outputs, width, implementation):
    gradient, x = operands(rows, outputs, width)
    wanted = gradient.double().T @ x.double()
    total = torch.ones(outputs, width)
    add_weight_gradient(total, gradient, x)
    # torch's own product is rounded to bf16 before it is added.
    tolerance = 0.01 if implementation == "torch" else 1e-6
    scale = wanted.abs().max()
    assert (total.double() - 1 - wanted).abs().max() <= tolerance * scale + 1e-6


@pytest.mark.parametrize(("rows", "outputs", "width"), SHAPES)
def test_a_layer_and_its_gradients_equal_the_formula(rows, outputs, width, implementation):
    out_gradient, x = operands(rows, outputs, width)
    weight = torch.randn(outputs, width, generator=torch.Generator().manual_seed(9)) / width**0.5
    out, x_gradient, weight_gradient = trained(x, weight, out_gradient)
    assert (out.dtype, x_gradient.dtype, weight_gradient.dtype) == (BF16, BF16, torch.float32)
    rounded = weight.to(BF16).double()
    for found, wanted in (
        (out, x.double() @ rounded.T),
        (x_gradient, out_gradient.double() @ rounded),
        (weight_gradient, out_gradient.double().T @ x.double()),
    ):
        error = (found.double() - wanted).square().mean().sqrt()
        assert error <= 2**-8 * wanted.square().mean().sqrt()  # bf16 keeps 8 bits


@needs_kernels
def test_any_number_of_threads_gives_the_same_bits():
    gradient, x = operands(300, 768, 512)
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(torch.ops.puna.weight_gradient(gradient, x))
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_kernels
def test_leading_axes_and_float32_inputs_are_taken_as_autocast_would():
    x = torch.randn(2, 17, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    layer = nn.Linear(64, 96, bias=False)
    with torch.autocast("cpu", dtype=BF16):
        out, wanted = linear(x, layer.weight), layer(x)
    assert torch.equal(out, wanted)
    out.sum().backward()
    assert x.grad.dtype == torch.float32
    assert x.grad.shape == x.shape


@needs_kernels
@pytest.mark.parametrize("case", ["no gradient", "no autocast", "narrow", "frozen"])
def test_where_the_kernel_does_not_apply_torch_does_it_all(case, monkeypatch):
    monkeypatch.setattr("puna.model.linear._Linear", None)  # calling it would fail
    weight = torch.randn(50 if case == "narrow" else 64, 32, requires_grad=case != "frozen")
    x = torch.randn(3, 32)
    with (
        torch.set_grad_enabled(case != "no gradient"),
        torch.autocast("cpu", dtype=BF16, enabled=case != "no autocast"),
    ):
        assert torch.equal(linear(x, weight), functional.linear(x, weight))


@needs_kernels
def test_the_operator_is_what_torch_expects_of_it():
    gradient, x = operands(20, 64, 32)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.puna.weight_gradient.default, (gradient, x), test_utils=tests)


@needs_kernels
@pytest.mark.parametrize(
    ("left", "right", "out", "message"),
    [
        ((4, 32), (5, 32), (32, 32), "as many rows"),
        ((4, 48), (4, 32), (48, 32), "multiples of 32"),
        ((4, 32), (4, 64), (64, 32), "out should be"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(left, right, out, message):
    arrays = [torch.zeros(shape, dtype=torch.int16) for shape in (left, right)]
    isa = kernels.usable_isas()[0]
    with pytest.raises(ValueError, match=message):
        kernels.extension().weight_gradient(isa, 1, *arrays, torch.zeros(out), False)
