"""Gradient hooks get the gradients that autograd gives the weights, and change nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.errors import ConfigError
from sidestep_core.estimate.hooks import gradient_hooks
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import Decoder
from tests.adapters import fresh, velocity
from tests.tolerance import BF16, FP32, PERTURBED, deviation

MODULES = tuple(target_modules(LoraConfig(target_mlp=True), 2))


def hooked(decoder: Decoder, modules: tuple[str, ...] = MODULES) -> tuple[dict[str, Tensor], Counter[str]]:
    """Return the gradients of the weights from the factors that a hook gets, and the number of its calls."""
    gradients: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def hook(module: str, gradient_NO: Tensor, input_NI: Tensor) -> None:
        calls[module] += 1
        gradients[module] = gradient_NO.T @ input_NI

    with gradient_hooks(decoder, modules, hook):
        velocity(decoder).square().mean().backward()
    return gradients, calls


def by_autograd(decoder: Decoder) -> dict[str, Tensor]:
    """Return the gradients of weights that require them."""
    weights = {name: decoder.get_parameter(f"{name}.weight").requires_grad_() for name in MODULES}
    velocity(decoder).square().mean().backward()
    return {name: weight.grad for name, weight in weights.items()}


@pytest.mark.parametrize("recomputed", [0, 1, 2])
def test_gradients_match_autograd(checkpoint: Checkpoint, recomputed: int) -> None:
    decoder = fresh(checkpoint)
    decoder.recomputed_layers = recomputed
    found, calls = hooked(decoder)
    expected = by_autograd(fresh(checkpoint))
    assert calls == dict.fromkeys(MODULES, 1)
    for name, gradient in expected.items():
        assert deviation(found[name], gradient) <= FP32, name
        assert deviation(found[name] * (1 + PERTURBED), gradient) > FP32


def test_bfloat16_gradients_match_autograd(checkpoint: Checkpoint) -> None:
    found, _ = hooked(fresh(checkpoint, torch.bfloat16))
    expected = by_autograd(fresh(checkpoint, torch.bfloat16))
    assert {gradient.dtype for gradient in found.values()} == {torch.bfloat16}
    for name, gradient in expected.items():
        assert deviation(found[name], gradient) <= BF16, name


def test_hooks_leave_predictions_unchanged(checkpoint: Checkpoint) -> None:
    decoder = fresh(checkpoint)
    expected = velocity(decoder)

    def interrupted() -> None:
        with gradient_hooks(decoder, MODULES, lambda *_: None):
            assert torch.equal(velocity(decoder), expected)
            assert velocity(decoder).requires_grad
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = velocity(decoder)
    assert torch.equal(after, expected)
    assert not after.requires_grad
    assert not any("forward" in vars(module) for module in decoder.modules())


def test_weights_keep_no_gradient(checkpoint: Checkpoint) -> None:
    decoder = fresh(checkpoint)
    hooked(decoder)
    assert all(parameter.grad is None for parameter in decoder.parameters())


@pytest.mark.parametrize("recomputed", [0, 2])
def test_backward_ends_at_the_lowest_module(checkpoint: Checkpoint, recomputed: int) -> None:
    decoder = fresh(checkpoint)
    decoder.recomputed_layers = recomputed
    forwards: Counter[str] = Counter()
    for name, layer in zip(("lower", "upper"), decoder.layers, strict=True):
        layer.mlp.register_forward_pre_hook(lambda module, inputs, name=name: forwards.update([name]))
    found, calls = hooked(decoder, tuple(name for name in MODULES if name.startswith("layers.1.")))
    assert set(found) == set(calls) == {name for name in MODULES if name.startswith("layers.1.")}
    assert forwards == {"lower": 1, "upper": 2 if recomputed else 1}


@pytest.mark.parametrize("module", ["layers.9.self_attn.q_proj", "layers.0.self_attn", "time_embed.linear_1",
                                    "norm_out"])
def test_unknown_module_is_refused(checkpoint: Checkpoint, module: str) -> None:
    decoder = fresh(checkpoint)
    with pytest.raises(ConfigError, match=rf"no linear layer '{module}'"):
        hooked(decoder, (MODULES[0], module))
    assert not any("forward" in vars(layer) for layer in decoder.modules())
