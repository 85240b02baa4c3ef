"""Dropout of an adapter's inputs, and of its ranks: the mask of a sample follows from the sample and the module alone.

So it is the same in a batch of any size, and drawn again for the backward pass where that is cheaper than to keep it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .. import rng

REDRAWN_ON = ("cuda", "xpu")
"""Devices that draw a dropout mask again for the backward pass, faster than they would read it from memory."""
_LEVELS = 1 << 16
"""The probability of dropout is a multiple of 1 / 2^16."""
_AT_ONCE = 1 << 16
"""Elements that are drawn at once, so that their numbers stay in the processor's cache."""
_SPACE = f"sidestep_{zlib.crc32(__name__.encode()):08x}"
"""Namespace of torch's operations, of this copy of the package: a second copy in one process that registered the same
names would replace the kernels of the first."""
_KEY_BYTES = 64
"""Length of every key, so that it is the same for a compiler."""


@dataclass
class Switch:
    """State that all layers of an attached adapter share; it changes between forward passes only."""

    on: bool = True
    """False for the model without the adapter."""
    seeds: tuple[int, ...] = ()
    """Seed of each sample's masks; without any, every mask is drawn by torch's global generator."""
    tokens: tuple[int, ...] = ()
    """Condition tokens of each sample, which are concatenated."""
    samples: Tensor = field(default_factory=lambda: torch.empty(2, 0, dtype=torch.int64))
    """Seeds and tokens once more, for a compiled layer: it would be compiled again for each number in a tuple."""

    def start(self, seeds: Sequence[int], tokens: Sequence[int]) -> None:
        """Set the samples of the next pass."""
        self.seeds, self.tokens = tuple(seeds), tuple(tokens)
        self.samples = torch.tensor([self.seeds, self.tokens], dtype=torch.int64)

    def parts(self, x: Tensor) -> tuple[Part, ...]:
        """Return each sample's part of a module's input: a row of the batch, or a run of tokens."""
        if not self.seeds:
            return (Part(dimension=0, first=0, count=len(x), seed=int(torch.empty((), dtype=torch.int64).random_())),)
        if len(x) == len(self.seeds):
            return tuple(Part(dimension=0, first=row, count=1, seed=seed) for row, seed in enumerate(self.seeds))
        ends = [sum(self.tokens[:sample + 1]) for sample in range(len(self.tokens))]
        return tuple(Part(dimension=1, first=end - count, count=count, seed=seed)
                     for end, count, seed in zip(ends, self.tokens, self.seeds, strict=True))


@dataclass(frozen=True, kw_only=True)
class Part:
    """Slice of an input that belongs to one sample, and the seed of its mask."""

    dimension: int
    first: int
    count: int
    seed: int

    def of(self, x: Tensor) -> Tensor:
        return x.narrow(self.dimension, self.first, self.count)


@dataclass(frozen=True)
class RedrawnMask:
    """Dropout mask that every use draws again."""

    parts: tuple[Part, ...]
    p: float


Mask = Tensor | RedrawnMask
"""Inputs that dropout keeps: 1 and 0 in their dtype, or a way to draw them."""
Dropped = Tensor | RedrawnMask
"""Input after dropout, unscaled, or the mask to draw for it."""


def draw_mask(x: Tensor, p: float, switch: Switch, module: str) -> Mask:
    """Draw a mask that drops each element of x with probability p in (0, 1).

    On the CPU: sixteen bits of an integer per element are as good as torch's one number, which is a tenth of a whole
    step, and four times as fast.
    """
    parts = tuple(replace(part, seed=rng.seed(part.seed, module)) for part in switch.parts(x))
    if x.device.type in REDRAWN_ON:
        return RedrawnMask(parts=parts, p=p)
    # Not bool: a product of mixed types takes twice as long on the CPU.
    kept = torch.empty(x.shape, dtype=x.dtype)
    draws = torch.empty(min(kept.numel(), _AT_ONCE) // 4 + 1, dtype=torch.int64)
    for part in parts:
        random = generator(kept.device, part.seed)
        for own in part.of(kept).view(-1).split(_AT_ONCE):
            words = draws[: -(-len(own) // 4)].random_(-(1 << 63), None, generator=random)
            torch.ge(words.view(torch.int16)[: len(own)], _dropped(p) - _LEVELS // 2, out=own)
    return kept.to(x.device)


def apply_mask(x: Tensor, mask: Mask) -> Tensor:
    """Zero the dropped elements of x, or of a gradient of its shape; to be multiplied by `mask_scale`."""
    return x * (mask if isinstance(mask, Tensor) else drawn(x, mask))


def drawn(x: Tensor, mask: RedrawnMask) -> Tensor:
    """Draw the mask of an input once more."""
    kept = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    for part in mask.parts:
        part.of(kept).bernoulli_(1 - _dropped(mask.p) / _LEVELS, generator=generator(x.device, part.seed))
    return kept


def draw_columns(x: Tensor, width: int, p: float, switch: Switch, module: str) -> Tensor:
    """Draw the columns, of `width`, that each sample of x keeps in a product of it: 1 and 0, to be broadcast over rows.
    """
    parts = switch.parts(x)
    # Drawn on the device: small copies to a GPU would wait for it.
    kept = [torch.empty(*(1,) * (x.dim() - 1), width, device=x.device).bernoulli_(
        1 - _dropped(p) / _LEVELS, generator=generator(x.device, rng.seed(part.seed, module, "columns")))
        for part in parts]
    if parts[0].dimension == 1:
        kept = [own.expand(1, part.count, width) for own, part in zip(kept, parts, strict=True)]
    return torch.cat(kept, dim=parts[0].dimension).to(x.dtype)


@torch.library.custom_op(f"{_SPACE}::drop", mutates_args=(),
                         schema="(Tensor x, Tensor samples, Tensor module, float p) -> Tensor")
def drop(x: Tensor, samples: Tensor, module: Tensor, p: float) -> Tensor:
    """Zero the elements of x that a module drops, in an operation that a compiler leaves whole; its gradient is the
    same one, which draws again.
    """
    return apply_mask(x, draw_mask(x, p, _switch(samples), module_of(module)))


@torch.library.custom_op(f"{_SPACE}::columns", mutates_args=(),
                         schema="(Tensor x, int width, Tensor samples, Tensor module, float p) -> Tensor")
def columns(x: Tensor, width: int, samples: Tensor, module: Tensor, p: float) -> Tensor:
    """Draw columns like `draw_columns`, in an operation that a compiler leaves whole."""
    return draw_columns(x, width, p, _switch(samples), module_of(module))


@drop.register_fake
def _(x: Tensor, samples: Tensor, module: Tensor, p: float) -> Tensor:
    return torch.empty_like(x)


@columns.register_fake
def _(x: Tensor, width: int, samples: Tensor, module: Tensor, p: float) -> Tensor:
    by_row = x.shape[0] == samples.shape[1]
    return x.new_empty(x.shape[0], *((1,) * (x.dim() - 2) if by_row else x.shape[1:-1]), width)


def _keep_draws(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    _, samples, module, ctx.p = inputs
    ctx.save_for_backward(samples, module)


def _drop_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    samples, module = ctx.saved_tensors
    return drop(gradient, samples, module, ctx.p), None, None, None


drop.register_autograd(_drop_gradient, setup_context=_keep_draws)


def _switch(samples: Tensor) -> Switch:
    seeds, tokens = samples.tolist()
    return Switch(seeds=tuple(seeds), tokens=tuple(tokens))


def key_of(module: str) -> Tensor:
    """Name of a module as bytes: a compiled layer computes all layers, so the name is an input of it."""
    return torch.tensor(list(module.encode().ljust(_KEY_BYTES)), dtype=torch.uint8)


def module_of(key: Tensor) -> str:
    """Name of a module by its key."""
    return bytes(key.tolist()).decode().rstrip()


def mask_scale(p: float) -> float:
    """Factor 1 / (1 - p) of dropout, for the caller to multiply into whatever is smallest."""
    return _LEVELS / (_LEVELS - _dropped(p))


def _dropped(p: float) -> int:
    return round(p * _LEVELS)


def generator(device: torch.device, seed: int) -> torch.Generator:
    """Generator of the device, at a seed."""
    return torch.Generator(device).manual_seed(seed)
