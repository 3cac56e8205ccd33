"""AdamW as the paper states it: which weights decay, and one step against the formula."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_training import run_config

torch = pytest.importorskip("torch")

from puna.model.llama import Llama  # noqa: E402
from puna.train.adamw import build_adamw  # noqa: E402

SETTINGS = run_config().train


def model_with_gradients(seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    model = Llama(run_config().model)
    model.initialise()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def test_matrices_decay_and_norms_do_not():
    model = Llama(run_config().model)
    decay = {
        id(parameter): group["weight_decay"]
        for group in build_adamw(model, SETTINGS).param_groups
        for parameter in group["params"]
    }
    found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(decay) == len(found)
    for name, value in found.items():
        assert value == (0.0 if "norm" in name else 0.1), name
    assert {name for name, value in found.items() if value} >= {
        "tok_embeddings.weight",
        "output.weight",
        "layers.1.attention.wq.weight",
    }


def test_the_papers_betas_and_clip_are_the_defaults():
    from puna.train.settings import TrainConfig

    settings = TrainConfig()
    assert (settings.beta1, settings.beta2, settings.weight_decay) == (0.9, 0.95, 0.1)
    assert (settings.gradient_clip, settings.final_learning_rate_fraction) == (1.0, 0.1)
    for group in build_adamw(Llama(run_config().model), settings).param_groups:
        assert group["betas"] == (0.9, 0.95)
        assert group["eps"] == 1e-8


def test_three_steps_equal_the_formula():
    """Loshchilov & Hutter: decay first, then the bias-corrected moments, in float64."""
    model = model_with_gradients()
    weights = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    first = {name: np.zeros_like(weight) for name, weight in weights.items()}
    second = {name: np.zeros_like(weight) for name, weight in weights.items()}
    optimizer = build_adamw(model, SETTINGS)
    for step, rate in ((1, 1e-3), (2, 2e-3), (3, 5e-4)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in model.named_parameters():
            gradient = parameter.grad.double().numpy()
            decay = 0.0 if gradient.ndim == 1 else 0.1
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient**2
            moved = first[name] / (1 - 0.9**step)
            moved /= np.sqrt(second[name] / (1 - 0.95**step)) + 1e-8
            weights[name] = weights[name] * (1 - rate * decay) - rate * moved
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad = parameter.grad * 0.5 + 0.1
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(
            parameter.detach().numpy(), weights[name], atol=1e-7, rtol=2e-6, err_msg=name
        )
