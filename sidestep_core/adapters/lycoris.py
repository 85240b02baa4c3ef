"""Adapters of the LyCORIS family on a frozen decoder: LoKR, LoHA, and all that decompose the weight, DoRA first.

Parameters, their start and their names in files are LyCORIS's; its modules are not used, because over a bfloat16 base
they round weight and change together, so that a change below 1/256 of a weight is lost, and they have no dropout.
Here the change is reckoned apart from the weight, in float32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import rng
from ..errors import AdapterError
from . import dora
from .config import AdapterConfig, LokrConfig, LoraConfig
from .dropout import Dropout
from .file import TrainedDelta, check_belongs
from .targets import scaling

Start = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Matrix:
    """One trained matrix: its shape, and how it starts."""

    rows: int
    columns: int
    start: Start


def _zero(matrix: Tensor, random: torch.Generator) -> Tensor:
    return matrix.zero_()


def _uniform(matrix: Tensor, random: torch.Generator) -> Tensor:
    bound = 1 / math.sqrt(matrix.shape[1])
    return matrix.uniform_(-bound, bound, generator=random)


def _normal(matrix: Tensor, random: torch.Generator) -> Tensor:
    return matrix.normal_(generator=random)


def _small(matrix: Tensor, random: torch.Generator) -> Tensor:
    return matrix.normal_(std=0.1, generator=random)


def matrices_of(config: AdapterConfig, rank: int, rows: int, columns: int) -> dict[str, Matrix]:
    """The trained matrices of an adapter of this rank on a weight [rows, columns], by their names in arithmetic.py.

    One of them starts at zero, or with `use_scalar` a factor before them all, so that nothing changes at first.
    """
    if isinstance(config, LoraConfig):
        return {"lora_down": Matrix(rank, columns, _uniform), "lora_up": Matrix(rows, rank, _zero)}
    if isinstance(config, LokrConfig):
        return _lokr_matrices(config, rank, rows, columns)
    return {"hada_w1_a": Matrix(rows, rank, _small), "hada_w1_b": Matrix(rank, columns, _normal),
            "hada_w2_a": Matrix(rows, rank, _small if config.use_scalar else _zero),
            "hada_w2_b": Matrix(rank, columns, _normal)}


def _lokr_matrices(config: LokrConfig, rank: int, rows: int, columns: int) -> dict[str, Matrix]:
    small_rows, large_rows = _split(rows, config.factor)
    small_columns, large_columns = _split(columns, config.factor)
    last = _uniform if config.use_scalar else _zero
    found: dict[str, Matrix] = {}
    if config.decompose_both and 2 * rank < max(small_rows, small_columns):
        found["lokr_w1_a"] = Matrix(small_rows, rank, _uniform)
        found["lokr_w1_b"] = Matrix(rank, small_columns, _uniform)
    else:
        found["lokr_w1"] = Matrix(small_rows, small_columns, _uniform)
    if 2 * rank < max(large_rows, large_columns):
        found["lokr_w2_a"] = Matrix(large_rows, rank, _uniform)
        found["lokr_w2_b"] = Matrix(rank, large_columns, last)
    else:
        found["lokr_w2"] = Matrix(large_rows, large_columns, last)
    return found


def _split(size: int, factor: int) -> tuple[int, int]:
    """A size as small * large: by `factor` where that divides it, else by the largest divisor below; -1 is evenly."""
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    small = next(divisor for divisor in range(limit, 0, -1) if size % divisor == 0)
    return small, size // small


def decomposes(config: AdapterConfig) -> bool:
    """Whether the lengths of a weight's input columns are trained apart from their directions."""
    return config.dora if isinstance(config, LoraConfig) else config.weight_decompose


def has_scalar(config: AdapterConfig) -> bool:
    """Whether one more number, which starts at zero, multiplies all matrices of a module."""
    return not isinstance(config, LoraConfig) and config.use_scalar


class AdapterLayer(nn.Module):
    """A frozen linear layer, and what its adapter adds to it."""

    def __init__(self, base: nn.Linear, config: AdapterConfig, rank: int, random: torch.Generator) -> None:
        super().__init__()
        weight = base.weight
        self.base_layer = base
        self.factors = nn.ParameterDict({
            name: matrix.start(torch.empty(matrix.rows, matrix.columns), random).to(weight.device)
            for name, matrix in matrices_of(config, rank, *weight.shape).items()
        })
        self.rank = rank
        self.divisor = dora.divisor(self.matrices)
        self.scale = scaling(config, rank) if self.divisor else 1.0
        self.scalar = nn.Parameter(torch.zeros((), device=weight.device)) if has_scalar(config) else None
        lengths = dora.column_lengths(weight.float()) if decomposes(config) else None
        self.dora_scale = None if lengths is None else nn.Parameter(lengths)
        self.dropout = Dropout(config.dropout) if config.dropout > 0 else nn.Identity()
        self.train(base.training)

    @property
    def matrices(self) -> dict[str, nn.Parameter]:
        """The trained matrices, by their names in arithmetic.py."""
        return cast("dict[str, nn.Parameter]", dict(self.factors.items()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x)
        weight = self.base_layer.weight
        # Products are made in the base's dtype anyway; so the input is kept for the backward pass in it too.
        x = self.dropout(x).to(weight.dtype)
        if self.dora_scale is None and any(name.startswith("lokr_") for name in self.factors):
            return out + self._apply_lokr(x)
        # Recomputed in the backward pass: the change and what it is made of would take several times the weight's own
        # memory.
        added: Tensor = checkpoint(self._apply_change, x, weight, use_reentrant=False, preserve_rng_state=False)
        return out + added

    def _apply_change(self, x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            change = self._strength() * dora.product(self.matrices)
            if self.dora_scale is not None:
                change = dora.decompose(weight.float(), change, self.dora_scale)
            return F.linear(x, change.to(x.dtype))

    def _strength(self) -> Tensor | float:
        return self.scale if self.scalar is None else self.scale * self.scalar

    def _apply_lokr(self, x: Tensor) -> Tensor:
        """x times the Kronecker product of two blocks, one after the other: the product itself is never made."""
        matrices = self.matrices
        with torch.autocast(x.device.type, enabled=False):
            small = self._strength() * dora.block(matrices, "lokr_w1")
        names = ("lokr_w2",) if "lokr_w2" in matrices else ("lokr_w2_b", "lokr_w2_a")
        x = x.unflatten(-1, (small.shape[1], -1))
        for name in names:
            x = F.linear(x, matrices[name].to(x.dtype))
        x = F.linear(x.transpose(-1, -2), small.to(x.dtype))
        return x.transpose(-1, -2).flatten(-2)

    def trained(self) -> Iterator[nn.Parameter]:
        """Its parameters, in an order that does not change."""
        yield from self.matrices.values()
        yield from (parameter for parameter in (self.dora_scale, self.scalar) if parameter is not None)

    def content(self) -> dict[str, Tensor]:
        """Its tensors in a file.  The scalar is part of alpha, in float64, from which it comes back exactly."""
        tensors = {name: matrix.detach().clone() for name, matrix in self.matrices.items()}
        alpha = torch.tensor(self.scale * (self.divisor or self.rank))
        if self.scalar is not None:
            if not self.divisor:
                # Alpha counts only where a block is a product; this product is the block itself.
                whole = tensors.pop("lokr_w1")
                tensors = {"lokr_w1_a": whole, "lokr_w1_b": torch.eye(whole.shape[1]), **tensors}
            alpha = self._alpha_of_scalar_one(tensors) * self.scalar.detach().cpu().double()
        if self.dora_scale is not None:
            tensors["dora_scale"] = self.dora_scale.detach().clone()
        return {**{_file_name(name): tensor for name, tensor in tensors.items()}, "alpha": alpha}

    def _alpha_of_scalar_one(self, tensors: dora.Factors) -> float:
        return self.scale * dora.divisor(tensors)

    def put_back(self, content: Mapping[str, Tensor]) -> None:
        """Take over what `content` returned of an adapter like this one."""
        with torch.no_grad():
            for name, matrix in self.matrices.items():
                saved = content.get(_file_name(name))
                matrix.copy_(content["lokr_w1_a"] if saved is None else saved)
            if self.dora_scale is not None:
                self.dora_scale.copy_(content["dora_scale"])
            if self.scalar is not None:
                tensors = {name.removesuffix(".weight"): tensor for name, tensor in content.items()}
                self.scalar.fill_(float(content["alpha"]) / self._alpha_of_scalar_one(tensors))

    def change(self, module: str) -> TrainedDelta:
        """What it adds to the weight, exactly: in float64 where the change depends on the weight."""
        dtype = torch.float32 if self.dora_scale is None else torch.float64
        factors = {name: matrix.detach().cpu().to(dtype) for name, matrix in self.matrices.items()}
        scalar = 1.0 if self.scalar is None else float(self.scalar.detach())
        difference = self.scale * scalar * dora.product(factors)
        if self.dora_scale is None:
            return TrainedDelta(module=module, weight=torch.zeros_like(difference), delta=difference)
        weight = self.base_layer.weight.detach().cpu().to(dtype)
        delta = dora.decompose(weight, difference, self.dora_scale.detach().cpu().to(dtype))
        return TrainedDelta(module=module, weight=weight, delta=delta)


def _file_name(matrix: str) -> str:
    return f"{matrix}.weight" if matrix.startswith("lora_") else matrix


def attach(decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveLycoris:
    """Put an adapter on exactly `modules` (name -> rank), in float32 whatever the base is in; nothing else trains.

    The start is random by `seed` and module, and the decoder still computes what it did, bit for bit.
    """
    decoder.requires_grad_(False)
    adapted: dict[str, AdapterLayer] = {}
    for name, rank in modules.items():
        try:
            base = decoder.get_submodule(name)
        except AttributeError as error:
            raise AdapterError(f"The adapter was to be put on {name}, which this decoder does not have.") from error
        if not isinstance(base, nn.Linear):
            raise AdapterError(f"The adapter was to be put on {name}, which is a {type(base).__name__}, not a linear "
                               "layer.")
        adapted[name] = AdapterLayer(base, config, rank, rng.generator(seed, "init", name))
    for name, layer in adapted.items():
        decoder.set_submodule(name, layer)
    return LiveLycoris(adapted=adapted)


@dataclass(frozen=True, kw_only=True)
class LiveLycoris:
    """A LoKR, LoHA or DoRA attached to a decoder; see adapter.LiveAdapter."""

    adapted: Mapping[str, AdapterLayer]

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All that trains, float32, in an order that does not change."""
        return tuple(itertools.chain.from_iterable(layer.trained() for layer in self.adapted.values()))

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's file content, under LyCORIS's names, which ComfyUI reads too."""
        return {f"{_prefix(module)}.{name}": tensor for module, layer in self.adapted.items()
                for name, tensor in layer.content().items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Put saved content back, bit for bit.  AdapterError, before anything changes, when it is not of this one."""
        check_belongs(tensors, self.state_dict())
        for module, layer in self.adapted.items():
            layer.put_back({name: tensors[f"{_prefix(module)}.{name}"] for name in layer.content()})

    def deltas(self, every: int = 1) -> Iterator[TrainedDelta]:
        """What it adds to the weight of every n-th module, reckoned on the CPU."""
        for module, layer in itertools.islice(self.adapted.items(), None, None, every):
            yield layer.change(module)


def _prefix(module: str) -> str:
    return f"lycoris_{module.replace('.', '_')}"
