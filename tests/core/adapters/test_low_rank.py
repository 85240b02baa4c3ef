"""The LoRA layer against PEFT's own, in values and gradients, and its dropout masks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sidestep_core import rng
from sidestep_core.adapters.dropout import Mask, Part, RedrawnMask, Switch, apply_mask, draw_mask, mask_scale
from sidestep_core.adapters.low_rank import LoraWeights, linears
from sidestep_core.model.layers import SwiGLU
from tests.tolerance import BF16, FP32, PERTURBED, deviation

P, RANK, SCALE = 0.1, 6, 1.7
REDRAWN = RedrawnMask(parts=(Part(dimension=0, first=0, count=9, seed=5),), p=P)


def random(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=rng.generator(name, *shape))


def linear(x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float, mask: Mask | None = None) -> Tensor:
    return linears(x, [LoraWeights(weight, down, up, scale)], mask)[0]


def peft_layer(dtype: torch.dtype) -> Linear:
    """PEFT's layer with trained factors, without dropout."""
    base = nn.Linear(48, 40, bias=False)
    layer = Linear(base, "default", PeftConfig(r=RANK, lora_alpha=1, init_lora_weights=False), r=RANK, lora_alpha=1)
    with torch.no_grad():
        base.weight.copy_(random(40, 48, name="w"))
        layer.lora_A["default"].weight.copy_(random(RANK, 48, name="a"))
        layer.lora_B["default"].weight.copy_(random(40, RANK, name="b"))
    layer.scaling["default"] = SCALE
    base.to(dtype).requires_grad_(False)
    return layer


def gradients(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out.float() * random(*out.shape, name="g")).sum(), inputs, retain_graph=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FP32), (torch.bfloat16, BF16)], ids=["fp32", "bf16"])
def test_low_rank_linear_matches_peft(dtype: torch.dtype, tolerance: float) -> None:
    layer = peft_layer(dtype)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = random(2, 9, 48).to(dtype).requires_grad_()
    ours = linear(x, layer.base_layer.weight, down, up, SCALE)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        theirs = layer(x)
    assert deviation(ours, theirs) <= tolerance
    for found, expected in zip(gradients(ours, x, down, up), gradients(theirs, x, down, up), strict=True):
        assert found.dtype == expected.dtype
        assert deviation(found, expected) <= tolerance
    other = linear(x, layer.base_layer.weight, down, up, SCALE * (1 + PERTURBED))
    if dtype == torch.float32:
        assert deviation(other, theirs) > tolerance


@pytest.mark.parametrize("mask", [draw_mask(random(9, 48), P, Switch(), "x"), REDRAWN], ids=["stored", "redrawn"])
def test_dropout_matches_plain_autograd(mask: Mask) -> None:
    weight, down, up = random(40, 48), random(RANK, 48).requires_grad_(), random(40, RANK).requires_grad_()
    x = random(9, 48).requires_grad_()
    scale = SCALE * mask_scale(P)
    ours = linear(x, weight, down, up, scale, mask)
    plain = x @ weight.T + scale * (apply_mask(x, mask) @ down.T @ up.T)
    assert deviation(ours, plain) <= FP32
    for found, expected in zip(gradients(ours, x, down, up), gradients(plain, x, down, up), strict=True):
        assert deviation(found, expected) <= FP32
    undropped = x @ weight.T + SCALE * (x @ down.T @ up.T)
    assert deviation(ours, undropped) > PERTURBED


@pytest.mark.parametrize("mask", [None, draw_mask(random(9, 48), P, Switch(), "x"), REDRAWN],
                         ids=["none", "stored", "redrawn"])
def test_layers_together_match_each_alone(mask: Mask | None) -> None:
    trained = [random(size, width, name=str(n)).requires_grad_() for n in range(3)
               for size, width in ((RANK + n, 48), (40, RANK + n))]
    layers = [LoraWeights(random(40, 48, name=f"w{n}"), *trained[2 * n:2 * n + 2], SCALE + n) for n in range(3)]
    x = random(9, 48).requires_grad_()
    together, alone = linears(x, layers, mask), [linears(x, [each], mask)[0] for each in layers]
    found, expected = (gradients(torch.stack(tuple(outs)), x, *trained) for outs in (together, alone))
    for ours, theirs in zip((*together, *found), (*alone, *expected), strict=True):
        assert deviation(ours, theirs) <= FP32
    assert deviation(found[0], gradients(torch.stack(alone[:2]), x)[0]) > PERTURBED


@pytest.mark.parametrize("redrawn", [False, True])
def test_mask_drops_the_given_share(redrawn: bool) -> None:
    x = torch.ones(400, 500)
    torch.manual_seed(1)
    whole = replace(REDRAWN, parts=(replace(REDRAWN.parts[0], count=len(x)),))
    mask = whole if redrawn else draw_mask(x, P, Switch(), "x")
    kept = apply_mask(x, mask)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert abs(float(kept.mean()) - (1 - P)) < 0.005
    assert torch.equal(apply_mask(x, mask), kept)
    assert abs(float(kept.mean()) * mask_scale(P) - 1) < 0.005


def test_mask_has_one_stream_of_numbers() -> None:
    """A mask is drawn in parts, and is the one that is drawn at once."""
    x = torch.ones(1, 70_001, 3)
    found = draw_mask(x, P, Switch(seeds=(7,)), "a")
    random = rng.generator(7, "a")
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None, generator=random)
    expected = words.view(torch.int16)[:x.numel()].view(x.shape) >= round(P * (1 << 16)) - (1 << 15)
    assert isinstance(found, Tensor)
    assert torch.equal(found.bool(), expected)


def test_recomputation_draws_the_same_mask() -> None:
    weight, down, up = random(40, 48), random(RANK, 48).requires_grad_(), random(40, RANK).requires_grad_()
    x = random(9, 48).requires_grad_()

    def block(x: Tensor) -> Tensor:
        return linear(x, weight, down, up, SCALE, draw_mask(x, P, Switch(), "x")).sin()

    torch.manual_seed(3)
    expected = gradients(block(x), x, down, up)
    torch.manual_seed(3)
    found = gradients(checkpoint(block, x, use_reentrant=False), x, down, up)
    assert all(map(torch.equal, found, expected))
    torch.manual_seed(4)
    assert not torch.equal(gradients(block(x), x)[0], expected[0])


def test_swiglu_matches_plain_autograd() -> None:
    gate, up = random(9, 48, name="gate").requires_grad_(), random(9, 48, name="up").requires_grad_()
    ours, plain = SwiGLU.apply(gate, up), torch.nn.functional.silu(gate) * up
    assert torch.equal(ours, plain)
    found, expected = gradients(ours, gate, up), gradients(plain, gate, up)
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(found[0], expected[1])


def test_masks_belong_to_samples() -> None:
    """The mask of a sample is that of the sample alone, in a row of the batch and in a run of tokens."""
    x, tokens = torch.ones(3, 7, 48), (4, 9, 2)
    together = Switch(seeds=(11, 12, 13), tokens=tokens)
    rows = draw_mask(x, P, together, "a")
    runs = draw_mask(torch.ones(1, 15, 48), P, together, "a").split(tokens, dim=1)
    for sample, seed in enumerate(together.seeds):
        alone = Switch(seeds=(seed,), tokens=(tokens[sample],))
        assert torch.equal(rows[sample:sample + 1], draw_mask(x[:1], P, alone, "a"))
        assert torch.equal(runs[sample], draw_mask(torch.ones(1, tokens[sample], 48), P, alone, "a"))
        assert not torch.equal(rows[sample:sample + 1], draw_mask(x[:1], P, alone, "b"))
    redrawn = RedrawnMask(parts=together.parts(x), p=P)
    for sample, seed in enumerate(together.seeds):
        alone = RedrawnMask(parts=Switch(seeds=(seed,)).parts(x[:1]), p=P)
        assert torch.equal(apply_mask(x, redrawn)[sample], apply_mask(x[:1], alone)[0])
