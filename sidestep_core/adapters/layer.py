"""The trained layer of LoKR, LoHA and every DoRA: a frozen linear layer plus the output of a float32 delta.

Over a bfloat16 base LyCORIS's own modules round weight and delta together where DoRA needs their sum, and lose a delta
below 1/256 of a weight; here the delta is computed apart from the weight.  DoRA is along the input axis: the columns
of the changed weight are brought to trained lengths, in float32; delta.decomposed computes the same for files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import rng
from ..errors import AdapterError
from ..model.layers import project_together
from .algorithm import Factors, Trainable, TrainedDelta, check_belongs
from .config import AdapterConfig

REDRAWN_ON = ("cuda", "xpu")
"""Devices that draw a dropout mask again for the backward pass, faster than they would read it from memory."""
_LEVELS = 1 << 16
"""The probability of dropout is a multiple of 1 / 2^16."""


@dataclass(frozen=True)
class RedrawnMask:
    """Dropout mask that every use draws again."""

    seed: int
    p: float


Mask = Tensor | RedrawnMask
"""Inputs that dropout keeps: 1 and 0 in their dtype, or a way to draw them."""

Dropped = Tensor | RedrawnMask
"""Input after dropout, unscaled, or the mask to draw for it."""


def draw_mask(x: Tensor, p: float) -> Mask:
    """Draw a mask that drops each element of x with probability p in (0, 1), by torch's CPU generator.

    Gradient checkpointing restores that one on every device, unlike the generator of MPS.  Sixteen bits of an integer
    per element are as good as torch's one number, which is a tenth of a whole step on the CPU, and four times as fast.
    """
    if x.device.type in REDRAWN_ON:
        return RedrawnMask(seed=int(torch.empty((), dtype=torch.int64).random_()), p=p)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    # Not bool: a product of mixed types takes twice as long on the CPU.
    kept = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(draws.view(torch.int16)[: x.numel()].view(x.shape), _dropped(p) - _LEVELS // 2, out=kept)
    return kept.to(x.device)


def apply_mask(x: Tensor, mask: Mask) -> Tensor:
    """Zero the dropped elements of x, or of a gradient of its shape; to be multiplied by `mask_scale`."""
    return x * (mask if isinstance(mask, Tensor) else drawn(x, mask))


def drawn(x: Tensor, mask: RedrawnMask) -> Tensor:
    """Draw the mask of an input once more."""
    kept = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    return kept.bernoulli_(1 - _dropped(mask.p) / _LEVELS, generator=generator(x.device, mask.seed))


def mask_scale(p: float) -> float:
    """Factor 1 / (1 - p) of dropout, for the caller to multiply into whatever is smallest."""
    return _LEVELS / (_LEVELS - _dropped(p))


def _dropped(p: float) -> int:
    return round(p * _LEVELS)


def generator(device: torch.device, seed: int) -> torch.Generator:
    """Generator of the device, at a seed."""
    return torch.Generator(device).manual_seed(seed)


class AdapterLayer(nn.Module):
    """A frozen linear layer and its adapter."""

    def __init__(self, base: nn.Linear, algorithm: Trainable, config: AdapterConfig, rank: int,
                 random: torch.Generator) -> None:
        super().__init__()
        weight = base.weight
        self.base_layer = base
        self.algorithm = algorithm
        self.factors = nn.ParameterDict({
            name: matrix.start(torch.empty(matrix.rows, matrix.columns), random).to(weight.device)
            for name, matrix in algorithm.matrices(config, rank, *weight.shape).items()
        })
        self.rank = rank
        self.alpha_rank = algorithm.alpha_rank(self.matrices)
        self.scale = config.scaling(rank) if self.alpha_rank else 1.0
        self.scalar = nn.Parameter(torch.zeros((), device=weight.device)) if config.has_scalar else None
        lengths = column_lengths(weight.float()) if config.decomposed else None
        self.dora_scale = None if lengths is None else nn.Parameter(lengths)
        self.dropout = config.dropout
        self.train(base.training)

    @property
    def matrices(self) -> dict[str, nn.Parameter]:
        """Trained matrices by name."""
        return cast("dict[str, nn.Parameter]", dict(self.factors.items()))

    def forward(self, x: Tensor, dropped: Dropped | None = None) -> Tensor:
        """Compute the output; `dropped` is that of another layer with the same input."""
        out: Tensor = self.base_layer(x)
        weight = self.base_layer.weight
        # Products are computed in the base's dtype anyway; so the input is kept for the backward pass in it too.
        x = x.to(weight.dtype)
        dropped = self.drop(x) if dropped is None else dropped
        if self.dora_scale is None and not self.algorithm.recomputed and x.device.type not in REDRAWN_ON:
            direct = self.delta_output(x, weight, dropped)
            # In place: no backward pass needs the base's output, and a step is 1.5 % faster.
            return out.add_(direct) if out.dtype == direct.dtype else out + direct
        # The delta and its factors would take several times the weight's own memory.
        added: Tensor = checkpoint(self.delta_output, x, weight, dropped, use_reentrant=False,
                                   preserve_rng_state=False)
        return out + added

    def drop(self, x: Tensor) -> Dropped:
        """Draw a dropout mask for an input in the base's dtype, and apply it where it is stored."""
        if not (self.training and self.dropout):
            return x
        mask = draw_mask(x, self.dropout)
        return mask if isinstance(mask, RedrawnMask) else apply_mask(x, mask)

    def delta_output(self, x: Tensor, weight: Tensor, dropped: Dropped | None = None) -> Tensor:
        """Output of the delta alone."""
        scale = mask_scale(self.dropout) if self.training and self.dropout else 1.0
        if dropped is not None:
            x = apply_mask(x, dropped) if isinstance(dropped, RedrawnMask) else dropped
        if self.dora_scale is None:
            return self.algorithm.output(x, self.matrices, scale * self._strength())
        with torch.autocast(x.device.type, enabled=False):
            delta = self._strength() * self.algorithm.product(self.matrices)
            return F.linear(x * scale, decompose(weight.float(), delta, self.dora_scale).to(x.dtype))

    def _strength(self) -> Tensor | float:
        return self.scale if self.scalar is None else self.scale * self.scalar

    def trained(self) -> Iterator[nn.Parameter]:
        """Trained parameters in a fixed order."""
        yield from self.matrices.values()
        yield from (parameter for parameter in (self.dora_scale, self.scalar) if parameter is not None)

    def saved(self) -> dict[str, Tensor]:
        """Tensors of the file.  The scalar is part of alpha, in float64, from which it comes back exactly."""
        tensors = self._in_file({name: matrix.detach().clone() for name, matrix in self.matrices.items()})
        alpha = torch.tensor(self.scale * (self.alpha_rank or self.rank))
        if self.scalar is not None:
            alpha = self._alpha_of_scalar_one(tensors) * self.scalar.detach().cpu().double()
        lengths = {} if self.dora_scale is None else {"dora_scale": self.dora_scale.detach().clone()}
        return {**{self.algorithm.file_name(name): tensor for name, tensor in tensors.items()}, **lengths,
                "alpha": alpha}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take over what `saved` returned of a layer like this one."""
        tensors = {self.algorithm.file_names.get(name.removesuffix(".weight"), name): tensor
                   for name, tensor in saved.items()}
        with torch.no_grad():
            for name, matrix in self.matrices.items():
                matrix.copy_(self.algorithm.from_file(name, tensors))
            if self.dora_scale is not None:
                self.dora_scale.copy_(saved["dora_scale"])
            if self.scalar is not None:
                self.scalar.fill_(float(saved["alpha"]) / self._alpha_of_scalar_one(tensors))

    def _in_file(self, factors: Factors) -> dict[str, Tensor]:
        return self.algorithm.to_file(factors, has_scalar=self.scalar is not None)

    def _alpha_of_scalar_one(self, tensors: Factors) -> float:
        return self.scale * self.algorithm.alpha_rank(tensors)

    def delta(self, module: str) -> TrainedDelta:
        """Weight delta computed on the CPU, in float64 where it depends on the weight."""
        dtype = torch.float32 if self.dora_scale is None else torch.float64
        factors = {name: matrix.detach().cpu().to(dtype) for name, matrix in self.matrices.items()}
        scalar = 1.0 if self.scalar is None else float(self.scalar.detach())
        difference = self.scale * scalar * self.algorithm.product(factors)
        if self.dora_scale is None:
            return TrainedDelta(module=module, weight=torch.zeros_like(difference), delta=difference)
        weight = self.base_layer.weight.detach().cpu().to(dtype)
        delta = decompose(weight, difference, self.dora_scale.detach().cpu().to(dtype))
        return TrainedDelta(module=module, weight=weight, delta=delta)


def attach(algorithm: Trainable, decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int],
           seed: int) -> LiveLayers:
    """Put an adapter on exactly `modules` (name -> rank), in float32 over any base dtype; nothing else trains.

    Initial values are random by `seed` and module, and the decoder's output stays the same, bit for bit.
    """
    decoder.requires_grad_(False)
    layers: dict[str, AdapterLayer] = {}
    for name, rank in modules.items():
        try:
            base = decoder.get_submodule(name)
        except AttributeError as error:
            raise AdapterError(f"The adapter was to be put on {name}, which this decoder does not have.") from error
        if not isinstance(base, nn.Linear):
            raise AdapterError(f"The adapter was to be put on {name}, which is a {type(base).__name__}, not a linear "
                               "layer.")
        layers[name] = AdapterLayer(base, algorithm, config, rank, rng.generator(seed, "init", name))
    for name, layer in layers.items():
        decoder.set_submodule(name, layer)
    project_together(decoder, _project)
    return LiveLayers(layers=layers)


def _project(x: Tensor, projections: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Compute projections of one input, the adapted ones with one dropout mask."""
    first = next((each for each in projections if isinstance(each, AdapterLayer)), None)
    dropped = None if first is None else first.drop(x.to(first.base_layer.weight.dtype))
    return tuple(each(x, dropped) if isinstance(each, AdapterLayer) else each(x) for each in projections)


@dataclass(frozen=True, kw_only=True)
class LiveLayers:
    """Adapter layers attached to a decoder; see algorithm.LiveAdapter."""

    layers: Mapping[str, AdapterLayer]

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Trained parameters, float32, in a fixed order."""
        return tuple(itertools.chain.from_iterable(layer.trained() for layer in self.layers.values()))

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of the adapter's file, under LyCORIS's names, which ComfyUI reads too."""
        return {f"{prefix(module)}.{name}": tensor for module, layer in self.layers.items()
                for name, tensor in layer.saved().items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore saved tensors, bit for bit.  AdapterError, before anything changes, for those of another adapter."""
        check_belongs(tensors, self.state_dict())
        for module, layer in self.layers.items():
            layer.restore({name: tensors[f"{prefix(module)}.{name}"] for name in layer.saved()})

    def deltas(self, every: int = 1) -> Iterator[TrainedDelta]:
        """Weight delta of every n-th module, computed on the CPU."""
        for module, layer in itertools.islice(self.layers.items(), None, None, every):
            yield layer.delta(module)


def column_lengths(weight: Tensor) -> Tensor:
    """Length of every input column of a weight [out, in], as [1, in]."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=0, keepdim=True)
    return lengths


def decompose(weight: Tensor, delta: Tensor, lengths: Tensor) -> Tensor:
    """Delta of DoRA: `weight + delta`, its columns brought to `lengths`, less the weight.

    ComfyUI and LyCORIS divide by the length plus the epsilon of their dtype; here, as in float64 there, by the length.
    """
    found = column_lengths(weight + delta).clamp_min(torch.finfo(weight.dtype).tiny)
    stretch = lengths / found
    # Not (weight + delta) * stretch - weight, in which a small delta would drown in rounding.
    return delta * stretch + weight * (stretch - 1)


def prefix(module: str) -> str:
    """Name of a module in LyCORIS's files."""
    return f"lycoris_{module.replace('.', '_')}"
