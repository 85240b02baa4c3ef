"""The trained layer of LoKR, LoHA and every DoRA: a frozen linear layer plus the output of a float32 delta.

Over a bfloat16 base LyCORIS's own modules round weight and delta together where DoRA needs their sum, and lose a delta
below 1/256 of a weight; here the delta is computed apart from the weight.  DoRA is along the input axis: the columns
of the changed weight are brought to trained lengths, in float32; delta.decomposed computes the same for files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import rng
from ..errors import AdapterError
from ..model.frozen import original, read, weight_of
from ..model.layers import project_together
from . import dropout, low_rank
from .algorithm import Factors, Trainable, TrainedDelta, check_belongs
from .config import AdapterConfig
from .dropout import Dropped, RedrawnMask, Switch


class AdapterLayer(nn.Module):
    """A frozen linear layer and its adapter."""

    def __init__(self, base: nn.Linear, algorithm: Trainable, config: AdapterConfig, rank: int,
                 random: torch.Generator, name: str, switch: Switch) -> None:
        super().__init__()
        self.name, self.switch = name, switch
        weight = weight_of(base)
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
        lengths = column_lengths(original(base).to(weight.device).float()) if config.decomposed else None
        self.dora_scale = None if lengths is None else nn.Parameter(lengths)
        # Fixed, so that they are computed once; their roots are the lengths, bit for bit.
        self.squares = (torch.zeros(0) if lengths is None else
                        column_lengths(read(weight).detach().float()).flatten().square())
        self.dropout, self.rank_dropout = config.dropout, config.rank_dropout
        self.train(base.training)

    @property
    def matrices(self) -> dict[str, nn.Parameter]:
        """Trained matrices by name."""
        return cast("dict[str, nn.Parameter]", dict(self.factors.items()))

    def forward(self, x: Tensor, dropped: Dropped | None = None) -> Tensor:
        """Compute the output; `dropped` is that of another layer with the same input."""
        if not self.switch.on:
            out: Tensor = self.base_layer(x)
            return out
        # Products are computed in the base's dtype anyway; so the input is kept for the backward pass in it too.
        x = x.to(weight_of(self.base_layer).dtype)
        dropped = self.drop(x) if dropped is None else dropped
        if self.dora_scale is not None and self.algorithm.low_rank:
            return low_rank.dora_linear(x, self._dora(self.dora_scale), dropped, self._kept)
        # Elsewhere the sum would round the delta away.
        if self.algorithm.recomputed and self._kept == 1 and x.dtype == torch.float32:
            return self._recomputed(self._folded, x)
        rows = self._drop_rows(x)
        out = self.base_layer(x)
        if self.dora_scale is None and not self.algorithm.recomputed and x.device.type not in dropout.REDRAWN_ON:
            direct = self.delta_output(x, dropped, rows)
            # In place: no backward pass needs the base's output, and a step is 1.5 % faster.
            return out.add_(direct) if out.dtype == direct.dtype else out + direct
        return out + self._recomputed(self.delta_output, x, dropped, rows)

    def _recomputed(self, function: Callable[..., Tensor], *inputs: object) -> Tensor:
        """Recompute in the backward pass: a delta and its factors would take several times the weight's own memory."""
        out: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return out

    def _folded(self, x: Tensor) -> Tensor:
        """Output of the sum of weight and delta."""
        return F.linear(x, read(weight_of(self.base_layer)) + self._delta())

    def drop(self, x: Tensor) -> Dropped:
        """Draw a dropout mask for an input in the base's dtype, and apply it where it is stored."""
        if not (self.training and self.dropout and self.switch.on):
            return x
        mask = dropout.draw_mask(x, self.dropout, self.switch, self.name)
        return mask if isinstance(mask, RedrawnMask) else dropout.apply_mask(x, mask)

    def _drop_rows(self, x: Tensor) -> Tensor | None:
        """Draw the rows of the delta that each sample keeps; None for all."""
        if not (self.training and self.rank_dropout):
            return None
        return dropout.draw_columns(x, weight_of(self.base_layer).shape[0], self.rank_dropout, self.switch, self.name)

    def delta_output(self, x: Tensor, dropped: Dropped | None = None, rows: Tensor | None = None) -> Tensor:
        """Output of the delta alone, of the given rows of it."""
        if dropped is not None:
            x = dropout.apply_mask(x, dropped) if isinstance(dropped, RedrawnMask) else dropped
        if self.dora_scale is None:
            out = self.algorithm.output(x, self.matrices, self._kept * self._strength())
            return out if rows is None else out * rows
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x * self._kept, self._delta().to(x.dtype))

    @property
    def _kept(self) -> float:
        """Factor of dropout."""
        return dropout.mask_scale(self.dropout) * dropout.mask_scale(self.rank_dropout) if self.training else 1.0

    def _delta(self) -> Tensor:
        delta = self._strength() * self.algorithm.product(self.matrices)
        if self.dora_scale is None:
            return delta
        return decompose(read(weight_of(self.base_layer)).float(), delta, self.dora_scale)

    def _dora(self, lengths: Tensor) -> low_rank.Dora:
        return low_rank.Dora(weight=weight_of(self.base_layer), down=self.matrices["down"], up=self.matrices["up"],
                             scale=self.scale, squares=self.squares, lengths=lengths)

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
        weight = original(self.base_layer).cpu().to(dtype)
        delta = decompose(weight, difference, self.dora_scale.detach().cpu().to(dtype))
        return TrainedDelta(module=module, weight=weight, delta=delta)


def attach(algorithm: Trainable, decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int],
           seed: int) -> LiveLayers:
    """Put an adapter on exactly `modules` (name -> rank), in float32 over any base dtype; nothing else trains.

    Initial values are random by `seed` and module, and the decoder's output stays the same, bit for bit.
    """
    decoder.requires_grad_(False)
    layers: dict[str, AdapterLayer] = {}
    switch = Switch()
    for name, rank in modules.items():
        layers[name] = AdapterLayer(adaptable(decoder, name), algorithm, config, rank,
                                    rng.generator(seed, "init", name), name, switch)
    for name, layer in layers.items():
        decoder.set_submodule(name, layer)
    project_together(decoder, _project)
    return LiveLayers(layers=layers, switch=switch)


def adaptable(decoder: nn.Module, name: str) -> nn.Linear:
    """Linear layer of this name.  AdapterError where there is none."""
    try:
        base = decoder.get_submodule(name)
    except AttributeError as error:
        raise AdapterError(f"The adapter was to be put on {name}, which this decoder does not have.") from error
    if not isinstance(base, nn.Linear):
        raise AdapterError(f"The adapter was to be put on {name}, which is a {type(base).__name__}, not a linear "
                           "layer.")
    return base


def _project(x: Tensor, projections: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Compute projections of one input, the adapted ones with one dropout mask."""
    first = next((each for each in projections if isinstance(each, AdapterLayer)), None)
    dropped = None if first is None else first.drop(x.to(weight_of(first.base_layer).dtype))
    return tuple(each(x, dropped) if isinstance(each, AdapterLayer) else each(x) for each in projections)


@dataclass(frozen=True, kw_only=True)
class LiveLayers:
    """Adapter layers attached to a decoder; see algorithm.LiveAdapter."""

    layers: Mapping[str, AdapterLayer]
    switch: Switch

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Trained parameters, float32, in a fixed order."""
        return tuple(itertools.chain.from_iterable(layer.trained() for layer in self.layers.values()))

    @property
    def undecayed(self) -> tuple[nn.Parameter, ...]:
        """Lengths of columns, which start at the model's own, and scalars."""
        every = ((layer.dora_scale, layer.scalar) for layer in self.layers.values())
        return tuple(parameter for pair in every for parameter in pair if parameter is not None)

    @property
    def ups(self) -> tuple[nn.Parameter, ...]:
        """B of every DoRA."""
        return tuple(layer.matrices["up"] for layer in self.layers.values() if layer.algorithm.low_rank)

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
