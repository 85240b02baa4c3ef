"""The kinds of adapter: which module trains which, and how many numbers a configuration trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..model.decoder import DecoderGeometry
from . import lora, lycoris
from .config import AdapterConfig, LokrConfig, LoraConfig
from .file import LiveAdapter
from .targets import target_modules

SIZES: Mapping[str, DecoderGeometry] = {
    "2B": DecoderGeometry(width=2048, layers=24, heads=16, kv_heads=8, head_width=128, mlp=6144, condition_width=2048,
                          in_channels=192, out_channels=64, patch=2),
    "XL": DecoderGeometry(width=2560, layers=32, heads=32, kv_heads=8, head_width=128, mlp=9728, condition_width=2048,
                          in_channels=192, out_channels=64, patch=2),
}  # fmt: skip
"""The published checkpoints, for saying what a configuration means before one is loaded."""


def require(config: AdapterConfig) -> None:
    """Import what attaching such an adapter needs.  Raises MissingDependency."""
    if isinstance(config, LoraConfig) and not config.dora:
        lora.require()


def attach(decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveAdapter:
    """Put an adapter of the config's kind on exactly `modules` (name -> rank); nothing else trains."""
    if isinstance(config, LoraConfig) and not config.dora:
        return lora.attach(decoder, config, modules, seed)
    return lycoris.attach(decoder, config, modules, seed)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How much an adapter can learn, in numbers that train."""

    parameters: Mapping[str, int]
    """Of every module."""
    full: tuple[str, ...]
    """Modules of a LoKR whose larger block is a full matrix, so that its rank has no effect; usually all or none."""

    @property
    def total(self) -> int:
        return sum(self.parameters.values())


def capacity(config: AdapterConfig, geometry: DecoderGeometry) -> Capacity:
    """What `attach` would make on a decoder of this size, without making it."""
    ranks = target_modules(config, geometry.layers)
    return capacity_of(config, ranks, {module: _shape(module, geometry) for module in ranks})


def capacity_of(config: AdapterConfig, ranks: Mapping[str, int], shapes: Mapping[str, tuple[int, int]]) -> Capacity:
    """The same for modules of these ranks and (rows, columns)."""
    parameters: dict[str, int] = {}
    full: list[str] = []
    for module, rank in ranks.items():
        rows, columns = shapes[module]
        matrices = lycoris.matrices_of(config, rank, rows, columns)
        lengths = columns if lycoris.decomposes(config) else 0
        parameters[module] = (sum(matrix.rows * matrix.columns for matrix in matrices.values()) + lengths
                              + lycoris.has_scalar(config))
        if isinstance(config, LokrConfig) and "lokr_w2" in matrices:
            full.append(module)
    return Capacity(parameters=parameters, full=tuple(full))


def _shape(module: str, geometry: DecoderGeometry) -> tuple[int, int]:
    """Rows and columns of a projection's weight."""
    queries, keys = geometry.heads * geometry.head_width, geometry.kv_heads * geometry.head_width
    width, mlp = geometry.width, geometry.mlp
    return {"q_proj": (queries, width), "k_proj": (keys, width), "v_proj": (keys, width), "o_proj": (width, queries),
            "gate_proj": (mlp, width), "up_proj": (mlp, width), "down_proj": (width, mlp)}[module.rpartition(".")[2]]
