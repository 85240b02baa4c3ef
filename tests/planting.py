"""Data that depends on a few known modules: a teacher differs from the base model in these only.

The teacher's prediction becomes the target of every loss.  Training and estimating see it with noise, the part of
music that no model predicts; a held-out loss, measured without gradients, sees it without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from sidestep_core import rng
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import Decoder, load_decoder

CPU = torch.device("cpu")
SIZE = 0.02
"""Change of the prediction by each planted module, relative to the prediction's norm."""
NOISE = 0.2
"""Size of the noise, relative to the prediction's rms."""

PAIRS = tuple((f"layers.{layer}.{part}.{one}_proj", f"layers.{layer}.{part}.{other}_proj")
              for layer, part, one, other in ((0, "cross_attn", "q", "k"), (0, "mlp", "gate", "up"),
                                              (1, "self_attn", "q", "k"), (1, "cross_attn", "q", "k"),
                                              (1, "mlp", "gate", "up")))
"""Pairs of the tiny model whose planted changes no other module can imitate well.

Otherwise the modules that the data depends on are ambiguous.  v and o of one attention, or up and down of one MLP,
learn most of a change planted in the other, or in a later layer.  A change planted in q and k of the first attention
is sometimes explained by its v, which sees the same input: of 20 pairs 4 were of these, and one of the 4 had v
between them.
"""


def planted(checkpoint: Checkpoint, modules: Sequence[str], seed: int, size: float = SIZE) -> Decoder:
    """Load the checkpoint's decoder with a random change of rank 2 in each module, all of the same effect."""
    decoder = load_decoder(checkpoint.model_weights().under("decoder."), torch.float32, CPU)
    random = rng.generator("planted", seed)
    x_BTC, source_BTC = (torch.randn(1, 40, 64, generator=random) for _ in range(2))
    condition_BSD = torch.randn(1, 9, decoder.geometry.condition_width, generator=random)
    inputs = x_BTC, torch.tensor([0.5]), condition_BSD, flow_matching.context_latents(source_BTC)
    changes = {}
    with torch.no_grad():
        base_BTC = decoder(*inputs)
        for module in modules:
            weight = decoder.get_parameter(f"{module}.weight")
            before = weight.clone()
            change = (torch.randn(weight.shape[0], 2, generator=random)
                      @ torch.randn(2, weight.shape[1], generator=random))
            change *= 0.1 * weight.norm() / change.norm()
            # The effect grows slightly less than linearly.
            for _ in range(12):
                weight.copy_(before + change)
                moved = (decoder(*inputs) - base_BTC).norm() / base_BTC.norm()
                change *= float(size / moved) ** 0.8
            weight.copy_(before)
            changes[module] = change
        for module, change in changes.items():
            decoder.get_parameter(f"{module}.weight").add_(change)
    return decoder


@contextlib.contextmanager
def taught_by(teacher: Decoder, seed: int, noise: float = NOISE, *,
              contrary: tuple[Decoder, Tensor] | None = None) -> Iterator[None]:
    """Make the teacher's prediction for the same inputs the target of every other decoder.

    `contrary` is the base model, and the latents [T, C] of one song that is taught the opposite: as far from the base
    model's prediction as the teacher's, on its other side.
    """
    teachers = (teacher, contrary[0]) if contrary else (teacher,)
    asked: list[Tensor] = []
    count = 0

    def ask(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Decoder) and module not in teachers:
            with torch.no_grad():
                asked[:] = [one(*inputs) for one in teachers]

    def velocity(x0_BTC: Tensor, noise_BTC: Tensor) -> Tensor:
        nonlocal count
        target_BTC = asked[0]
        if contrary:
            is_contrary_B11 = (x0_BTC == contrary[1]).flatten(1).all(1)[:, None, None]
            target_BTC = torch.where(is_contrary_B11, 2 * asked[1] - target_BTC, target_BTC)
        if not torch.is_grad_enabled():
            return target_BTC
        count += 1
        draws_BTC = torch.randn(target_BTC.shape, generator=rng.generator("unpredictable", seed, count))
        return target_BTC + noise * target_BTC.square().mean().sqrt() * draws_BTC

    hook = register_module_forward_pre_hook(ask)
    try:
        with mock.patch.object(flow_matching, "velocity", velocity):
            yield
    finally:
        hook.remove()
