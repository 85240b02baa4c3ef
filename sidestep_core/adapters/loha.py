"""LoHA: W + (alpha / rank) * (B1 @ A1) * (B2 @ A2), of rank up to rank squared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..config import require
from ..errors import AdapterError
from . import layer
from .algorithm import Factors, LiveAdapter, Matrix, Parts, ScaleOf, Trainable, normal, small_normal, zeros
from .config import AdapterConfig
from .delta import FullDelta, WeightDelta, multiplied, number, require_chain, require_part, tucker


@dataclass(frozen=True, kw_only=True)
class LohaConfig(AdapterConfig):
    """Settings of a LoHA."""

    kind: ClassVar[str] = "loha"

    rank: int = 32
    use_scalar: bool = False
    weight_decompose: bool = False
    """Train the length of each input column of the weight apart from its direction (input-axis DoRA)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, f"rank must be at least 1, got {self.rank}.")

    @property
    def base_rank(self) -> int:
        return self.rank

    @property
    def decomposed(self) -> bool:
        return self.weight_decompose

    @property
    def has_scalar(self) -> bool:
        return self.use_scalar


@dataclass(frozen=True, kw_only=True)
class HadamardDelta(WeightDelta):
    """scale * (a1 @ b1) * (a2 @ b2)"""

    first: tuple[Tensor, Tensor]
    """[outputs, rank] and [rank, inputs]"""
    second: tuple[Tensor, Tensor]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first[0].shape[0], self.first[1].shape[1]

    def delta(self, dtype: torch.dtype) -> Tensor:
        return self.scale * multiplied(self.first, dtype) * multiplied(self.second, dtype)

    def host(self) -> dict[str, Tensor]:
        return {"hada_w1_a": self.first[0], "hada_w1_b": self.first[1], "hada_w2_a": self.second[0],
                "hada_w2_b": self.second[1], "alpha": number(self.scale * len(self.first[1]))}


class Loha(Trainable):
    """LoHA."""

    kind = "loha"
    config = LohaConfig
    file_names: ClassVar[Mapping[str, str]] = {name: name for name in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")}
    peft_type = "LOHA"
    rank_parts = ("hada_w1_b",)
    scaled_names = ("hada_w2_b",)

    def matrices(self, config: AdapterConfig, rank: int, rows: int, columns: int) -> dict[str, Matrix]:
        return {"hada_w1_a": Matrix(rows, rank, small_normal), "hada_w1_b": Matrix(rank, columns, normal),
                "hada_w2_a": Matrix(rows, rank, small_normal if config.has_scalar else zeros),
                "hada_w2_b": Matrix(rank, columns, normal)}

    def attach(self, decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveAdapter:
        return layer.attach(self, decoder, config, modules, seed)

    def product(self, factors: Factors) -> Tensor:
        first = factors["hada_w1_a"] @ factors["hada_w1_b"]
        return first * (factors["hada_w2_a"] @ factors["hada_w2_b"])

    def parse(self, module: str, parts: Parts, scale_of: ScaleOf) -> WeightDelta:
        pairs = [(require_part(module, parts, f"hada_w{n}_a"), require_part(module, parts, f"hada_w{n}_b"))
                 for n in (1, 2)]
        scale = scale_of(len(pairs[0][1]))
        if "hada_t1" in parts or "hada_t2" in parts:
            cores = [require_part(module, parts, f"hada_t{n}") for n in (1, 2)]
            for core, (a, b) in zip(cores, pairs, strict=True):
                require_chain(module, a.T, core, b)
            first, second = (tucker(core, b, a, rank_first=True) for core, (a, b) in zip(cores, pairs, strict=True))
            return FullDelta(diff=scale * first * second)
        for pair in pairs:
            require_chain(module, *pair)
        if [len(pairs[0][0]), pairs[0][1].shape[1]] != [len(pairs[1][0]), pairs[1][1].shape[1]]:
            raise AdapterError(f"{module} is damaged: the two products of its LoHA differ in shape. Get the file "
                               "again.")
        return HadamardDelta(first=pairs[0], second=pairs[1], scale=scale)
