"""DoRA as a LoRA on scaled inputs matches the sum of weight and delta, brought to the trained lengths."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidestep_core import rng
from sidestep_core.adapters.dropout import Part, RedrawnMask, Switch, apply_mask, draw_mask, mask_scale
from sidestep_core.adapters.layer import attach, column_lengths, decompose
from sidestep_core.adapters.loha import Loha, LohaConfig
from sidestep_core.adapters.lora import Lora, LoraConfig
from sidestep_core.adapters.low_rank import Dora, dora_linear
from tests.tolerance import BF16, FP32, FP64, PERTURBED, deviation

P, SCALE = 0.1, 1.7


def random(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=rng.generator(name, *shape))


def trained(dtype: torch.dtype) -> Dora:
    """DoRA after some steps, on a weight [40, 48]."""
    weight, lengths = random(40, 48, name="w").to(dtype), column_lengths(random(40, 48, name="w").to(dtype))
    return Dora(weight=weight, down=random(6, 48, name="a").to(dtype).requires_grad_(),
                up=random(40, 6, name="b").to(dtype).requires_grad_(), scale=SCALE, squares=lengths.flatten().square(),
                lengths=(lengths * (1 + 0.1 * random(1, 48, name="m").to(dtype))).requires_grad_())


def by_definition(x: Tensor, given: Dora, masked: Tensor) -> Tensor:
    delta = decompose(given.weight, given.scale * (given.up @ given.down), given.lengths)
    return F.linear(x, given.weight) + F.linear(masked, delta)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FP32), (torch.float64, FP64)], ids=["fp32", "fp64"])
@pytest.mark.parametrize("dropped", ["none", "stored", "redrawn"])
def test_matches_plain_autograd(dtype: torch.dtype, tolerance: float, dropped: str) -> None:
    given, x = trained(dtype), random(2, 9, 48).to(dtype).requires_grad_()
    parts = (Part(dimension=0, first=0, count=len(x), seed=5),)
    mask = RedrawnMask(parts=parts, p=P) if dropped == "redrawn" else draw_mask(x, P, Switch(), "layer")
    kept = 1.0 if dropped == "none" else mask_scale(P)
    masked = x if dropped == "none" else apply_mask(x, mask)
    ours = dora_linear(x, given, mask if isinstance(mask, RedrawnMask) else masked, kept)
    plain = by_definition(x, given, kept * masked)
    assert deviation(ours, plain) <= 10 * tolerance
    inputs, upstream = (x, given.down, given.up, given.lengths), random(2, 9, 40, name="g").to(dtype)
    found, expected = (torch.autograd.grad((out * upstream).sum(), inputs, retain_graph=True)
                       for out in (ours, plain))
    for one, other in zip(found, expected, strict=True):
        assert deviation(one, other) <= 10 * tolerance
    other = dora_linear(x, replace(given, scale=SCALE * (1 + 10 * PERTURBED)), masked, kept)
    assert deviation(other, plain) > 10 * FP32


def test_bfloat16_recovers_the_effect() -> None:
    """Over a bfloat16 weight a small effect is there on the average, though each output is rounded."""
    given = trained(torch.float32)
    weight = given.weight.bfloat16()
    lengths = column_lengths(weight.float())
    small = replace(given, weight=weight, scale=0.02, squares=lengths.flatten().square(), lengths=1.01 * lengths)
    x = random(2000, 48).bfloat16()
    with torch.no_grad():
        found = dora_linear(x, small, x).double() - F.linear(x, weight).double()
        exact = replace(small, weight=weight.double(), up=given.up.double(), down=given.down.double())
        effect = by_definition(x.double(), exact, x.double()) - F.linear(x.double(), weight.double())
    recovered = float((found * effect).sum() / effect.square().sum())
    assert abs(recovered - 1) < BF16
    assert abs(0.9 * recovered - 1) > BF16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(48, 40, bias=False)


@pytest.mark.parametrize("config", [LoraConfig(dora=True, rank=4, dropout=0.0), LohaConfig(rank=4, dropout=0.0),
                                    LohaConfig(rank=4, dropout=0.0, weight_decompose=True)])
def test_folded_layer_matches_base_and_delta(config: LoraConfig | LohaConfig) -> None:
    block = Block()
    algorithm = Lora() if isinstance(config, LoraConfig) else Loha()
    layer = attach(algorithm, block, config, {"q_proj": 4}, seed=0).layers["q_proj"].train()
    x, base = random(7, 48), layer.base_layer(random(7, 48))
    assert torch.equal(layer(x), base)
    with torch.no_grad():
        for number, parameter in enumerate(layer.trained()):
            parameter.add_(0.1 * random(*parameter.shape, name=str(number)))
    found, plain = layer(x), base + layer.delta_output(x)
    assert deviation(found, plain) <= FP32
    assert deviation(found, base) > PERTURBED
    gradients = (torch.autograd.grad(out.square().sum(), tuple(layer.trained())) for out in (found, plain))
    for one, other in zip(*gradients, strict=True):
        assert deviation(one, other) <= FP32
