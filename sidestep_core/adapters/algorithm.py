"""Contract of an adapter algorithm: one class in a file of its own, and one line in registry.py.

`Algorithm` is what a file of that kind means; `Trainable` adds how such an adapter is trained.  The delta of a trained
layer (`product`) and that of a file (`parse`, then WeightDelta.delta) are computed apart: the one proves the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import AdapterError
from .config import AdapterConfig
from .delta import WeightDelta
from .dropout import Switch

Factors = Mapping[str, Tensor]
"""Trained matrices of one module by name."""
Parts = Mapping[str, Tensor]
"""Tensors of one module in a file by name, whichever program wrote them."""
ScaleOf = Callable[[int | None], float]
"""Rank, or None where alpha has no effect -> scale."""
Start = Callable[[Tensor, torch.Generator], Tensor]
"""Fills an empty matrix with its initial values."""


@dataclass(frozen=True, kw_only=True)
class TrainedDelta:
    """Weight delta of one trained module, both tensors on the CPU and of one dtype."""

    module: str
    weight: Tensor
    """Base weight in float64 where the delta depends on it; else zeros of its shape in float32."""
    delta: Tensor


class LiveAdapter(Protocol):
    """An adapter attached to a decoder."""

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Trained parameters, float32, in a fixed order."""
        ...

    @property
    def undecayed(self) -> tuple[nn.Parameter, ...]:
        """Those of `parameters` that weight decay leaves alone: they start at another value than zero, so decay towards
        zero would change the model."""
        ...

    @property
    def ups(self) -> tuple[nn.Parameter, ...]:
        """Those of `parameters` that are the B of a low-rank product; none for kinds without one."""
        ...

    @property
    def switch(self) -> Switch:
        """State that its layers share: whether it is on, and the seeds of dropout."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of the adapter's file."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore saved tensors, bit for bit.  AdapterError, before anything changes, for those of another adapter."""
        ...

    def deltas(self, every: int = 1) -> Iterator[TrainedDelta]:
        """Weight delta of every n-th module."""
        ...


@dataclass(frozen=True)
class Matrix:
    """Shape and initial values of one trained matrix."""

    rows: int
    columns: int
    start: Start


def zeros(matrix: Tensor, random: torch.Generator) -> Tensor:
    return matrix.zero_()


def uniform(matrix: Tensor, random: torch.Generator) -> Tensor:
    bound = 1 / math.sqrt(matrix.shape[1])
    return matrix.uniform_(-bound, bound, generator=random)


def normal(matrix: Tensor, random: torch.Generator) -> Tensor:
    return matrix.normal_(generator=random)


def small_normal(matrix: Tensor, random: torch.Generator) -> Tensor:
    return matrix.normal_(std=0.1, generator=random)


class Algorithm(ABC):
    """An adapter algorithm as its files have it."""

    kind: ClassVar[str]
    file_names: ClassVar[Mapping[str, str]]
    """Name of a tensor in files -> name of the part it is."""
    peft_type: ClassVar[str] = ""
    """Value of `peft_type` in PEFT's settings; empty where PEFT has no such kind."""
    rank_parts: ClassVar[tuple[str, ...]] = ()
    """Parts whose first dimension is the rank."""
    whole_part: ClassVar[str] = ""
    """Part that is one full matrix where no part of `rank_parts` exists."""

    @property
    def parts(self) -> frozenset[str]:
        return frozenset(self.file_names.values())

    def rank_part(self, names: Collection[str]) -> str:
        """First of the given parts that has the rank as its first dimension; empty where there is none."""
        return next((name for name in self.rank_parts if name in names), "")

    @abstractmethod
    def parse(self, module: str, parts: Parts, scale_of: ScaleOf) -> WeightDelta:
        """Weight delta of a module's parts.  AdapterError where one is missing or shapes contradict each other."""


class Trainable(Algorithm):
    """An adapter algorithm that can be trained here."""

    config: ClassVar[type[AdapterConfig]]
    scaled_names: ClassVar[tuple[str, ...]]
    """Names in our files of a matrix that can take over a factor of the whole delta; the first that exists counts."""
    recomputed: ClassVar[bool] = True
    """Recompute `output` in the backward pass, because it makes a matrix as large as the weight."""

    low_rank: ClassVar[bool] = False
    """True if the matrices are `down` and `up` of a low-rank product."""

    def is_traceable(self, config: AdapterConfig) -> bool:
        """Return True if its layers have a plain form for a compiler."""
        return False

    def require(self, config: AdapterConfig) -> None:
        """Import whatever `attach` needs.  Raises MissingDependency."""

    @abstractmethod
    def matrices(self, config: AdapterConfig, rank: int, rows: int, columns: int) -> dict[str, Matrix]:
        """Trained matrices on a weight [rows, columns] by name.

        One of them is zero at first, or with a scalar none, so that the decoder starts unchanged.
        """

    @abstractmethod
    def attach(self, decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveAdapter:
        """Put an adapter on exactly `modules` (name -> rank), in float32 over any base dtype; nothing else trains."""

    @abstractmethod
    def product(self, factors: Factors) -> Tensor:
        """Unscaled delta [rows, columns] of the trained matrices."""

    def output(self, x: Tensor, factors: Factors, strength: Tensor | float) -> Tensor:
        """Output of the scaled delta for an input x [..., columns]."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, (strength * self.product(factors)).to(x.dtype))

    def alpha_rank(self, factors: Factors) -> int:
        """Rank by which alpha is divided; 0 where alpha has no effect."""
        return factors[name].shape[0] if (name := self.rank_part(factors)) else 0

    def parameter_count(self, config: AdapterConfig, rank: int, rows: int, columns: int) -> int:
        """Trained numbers on a weight [rows, columns]."""
        matrices = self.matrices(config, rank, rows, columns).values()
        return (sum(matrix.rows * matrix.columns for matrix in matrices) + columns * config.decomposed
                + config.has_scalar)

    def file_name(self, name: str) -> str:
        """Name in our files of a trained matrix."""
        return name

    def to_file(self, factors: Factors, *, has_scalar: bool) -> dict[str, Tensor]:
        """Tensors by part name in which alpha has an effect where a scalar is folded into it."""
        return dict(factors)

    def from_file(self, name: str, tensors: Factors) -> Tensor:
        """Trained matrix `name` of what `to_file` returned."""
        return tensors[name]


def check_belongs(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """AdapterError, naming the first difference, unless `saved` has the names, shapes and alphas of `own`.

    An alpha in float64 holds a trained scalar (see layer.py) and may differ.
    """
    for name in {**own, **saved}:
        if name not in own:
            raise AdapterError(f"{name} is in the saved adapter, but this run has nothing of that name. It belongs to "
                               "another run.")
        if name not in saved or saved[name].shape != own[name].shape:
            found = f"of shape {tuple(saved[name].shape)}" if name in saved else "missing"
            raise AdapterError(f"{name} is {found} in the saved adapter; this run needs {tuple(own[name].shape)}. It "
                               "belongs to another run.")
        fixed = name.endswith(".alpha") and own[name].dtype == torch.float32
        if fixed and float(saved[name]) != float(own[name]):
            raise AdapterError(f"{name} is {float(saved[name]):g} in the saved adapter; this run needs "
                               f"{float(own[name]):g}. It belongs to another run.")
