"""Probing: the very gradients that autograd gives the weights, one at a time, and nothing else changed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.errors import ConfigError
from sidestep_core.estimate.hooks import probing
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import Decoder
from tests.adapters import fresh, velocity
from tests.tolerance import BF16, FP32, PERTURBED, deviation

MODULES = tuple(target_modules(LoraConfig(target_mlp=True), 2))


def probed(decoder: Decoder, modules: tuple[str, ...] = MODULES) -> tuple[dict[str, Tensor], Counter[str]]:
    """Gradients of the weights, by the factors that a listener is shown, and how often it is shown each."""
    gradients: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def listen(module: str, gradient_NO: Tensor, input_NI: Tensor) -> None:
        calls[module] += 1
        gradients[module] = gradient_NO.T @ input_NI

    with probing(decoder, modules, listen):
        velocity(decoder).square().mean().backward()
    return gradients, calls


def by_autograd(decoder: Decoder) -> dict[str, Tensor]:
    """The same of weights that require gradients."""
    weights = {name: decoder.get_parameter(f"{name}.weight").requires_grad_() for name in MODULES}
    velocity(decoder).square().mean().backward()
    return {name: weight.grad for name, weight in weights.items()}


@pytest.mark.parametrize("recomputed", [0, 1, 2])
def test_it_shows_each_gradient_once_and_exactly(checkpoint: Checkpoint, recomputed: int) -> None:
    decoder = fresh(checkpoint)
    decoder.recomputed_layers = recomputed
    found, calls = probed(decoder)
    expected = by_autograd(fresh(checkpoint))
    assert calls == dict.fromkeys(MODULES, 1)
    for name, gradient in expected.items():
        assert deviation(found[name], gradient) <= FP32, name
        assert deviation(found[name] * (1 + PERTURBED), gradient) > FP32


def test_in_bfloat16_it_shows_what_autograd_gives_there(checkpoint: Checkpoint) -> None:
    found, _ = probed(fresh(checkpoint, torch.bfloat16))
    expected = by_autograd(fresh(checkpoint, torch.bfloat16))
    assert {gradient.dtype for gradient in found.values()} == {torch.bfloat16}
    for name, gradient in expected.items():
        assert deviation(found[name], gradient) <= BF16, name


def test_it_changes_no_bit_of_a_prediction_and_leaves_nothing_behind(checkpoint: Checkpoint) -> None:
    decoder = fresh(checkpoint)
    expected = velocity(decoder)

    def interrupted() -> None:
        with probing(decoder, MODULES, lambda *_: None):
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
    probed(decoder)
    assert all(parameter.grad is None for parameter in decoder.parameters())


@pytest.mark.parametrize("recomputed", [0, 2])
def test_what_is_below_the_lowest_module_takes_no_part_in_the_backward_pass(checkpoint: Checkpoint,
                                                                            recomputed: int) -> None:
    decoder = fresh(checkpoint)
    decoder.recomputed_layers = recomputed
    forwards: Counter[str] = Counter()
    for name, layer in zip(("lower", "upper"), decoder.layers, strict=True):
        layer.mlp.register_forward_pre_hook(lambda module, inputs, name=name: forwards.update([name]))
    found, calls = probed(decoder, tuple(name for name in MODULES if name.startswith("layers.1.")))
    assert set(found) == set(calls) == {name for name in MODULES if name.startswith("layers.1.")}
    assert forwards == {"lower": 1, "upper": 2 if recomputed else 1}


@pytest.mark.parametrize("module", ["layers.9.self_attn.q_proj", "layers.0.self_attn", "time_embed.linear_1",
                                    "norm_out"])
def test_what_is_no_projection_is_refused_and_nothing_is_touched(checkpoint: Checkpoint, module: str) -> None:
    decoder = fresh(checkpoint)
    with pytest.raises(ConfigError, match=rf"no linear layer '{module}'"):
        probed(decoder, (MODULES[0], module))
    assert not any("forward" in vars(layer) for layer in decoder.modules())
