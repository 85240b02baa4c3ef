"""The adapter algorithms, and dispatch to them: configs from JSON, attaching, parameter counts, tensors of files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..errors import AdapterError, ConfigError
from ..model.decoder import DecoderGeometry
from .algorithm import Algorithm, LiveAdapter, Parts, ScaleOf, Trainable
from .config import AdapterConfig
from .delta import FullDelta, ModuleDelta, WeightDelta, require_part
from .loha import Loha
from .lokr import Lokr
from .lora import Lora
from .targets import target_modules


class Full(Algorithm):
    """A delta in the shape of its weight, which files may hold and no training here makes."""

    kind = "full"
    file_names: ClassVar[Mapping[str, str]] = {"diff": "diff", "w_norm": "diff"}

    def parse(self, module: str, parts: Parts, scale_of: ScaleOf) -> WeightDelta:
        return FullDelta(diff=parts["diff"])


ALGORITHMS: tuple[Algorithm, ...] = (Lora(), Lokr(), Loha(), Full())
"""A new kind of adapter is one more here."""

SIZES: Mapping[str, DecoderGeometry] = {
    "2B": DecoderGeometry(width=2048, layers=24, heads=16, kv_heads=8, head_width=128, mlp=6144, condition_width=2048,
                          in_channels=192, out_channels=64, patch=2),
    "XL": DecoderGeometry(width=2560, layers=32, heads=32, kv_heads=8, head_width=128, mlp=9728, condition_width=2048,
                          in_channels=192, out_channels=64, patch=2),
}  # fmt: skip
"""Published checkpoints, for counting the parameters of a configuration before one is loaded."""
_SHARED = {"alpha": "alpha", "scalar": "scalar", "lora_magnitude_vector": "row_magnitude", "dora_scale": "magnitude",
           "magnitude": "magnitude", "diff_b": "diff_b", "b_norm": "diff_b"}  # fmt: skip
"""Name of a tensor in files -> part, of those that no algorithm owns."""
_UP_BIAS = "up.bias"
_SMALLEST, _LARGEST = 2.0**-126, 2.0**127
"""Size of a scale that is neither 0 nor infinite in float32."""


def trainable() -> dict[str, Trainable]:
    """Algorithms that can be trained, by kind."""
    return {one.kind: one for one in ALGORITHMS if isinstance(one, Trainable)}


def configs() -> dict[str, type[AdapterConfig]]:
    """Kind -> class of its settings."""
    return {kind: one.config for kind, one in trainable().items()}


def file_names() -> dict[str, str]:
    """Name of a tensor in files -> part, of every algorithm."""
    return {name: part for one in ALGORITHMS for name, part in one.file_names.items()} | _SHARED


def scaled_names() -> list[str]:
    """Names of the matrices that can take over a factor of the whole delta, of every algorithm."""
    return [name for one in trainable().values() for name in one.scaled_names]


def config_from_json(values: Mapping[str, Any]) -> AdapterConfig:
    """Config that `to_json` wrote.  ConfigError for an unknown kind or setting."""
    kind = values.get("kind", "lora")
    known = configs()
    if not isinstance(kind, str) or kind not in known:
        raise ConfigError(f"An adapter of kind {kind!r} is unknown; there are {', '.join(known)}.")
    return known[kind].from_json({key: value for key, value in values.items() if key != "kind"})


def require(config: AdapterConfig) -> None:
    """Import what attaching such an adapter needs.  Raises MissingDependency."""
    trainable()[config.kind].require(config)


def attach(decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveAdapter:
    """Put an adapter of the config's kind on exactly `modules` (name -> rank); nothing else trains."""
    return trainable()[config.kind].attach(decoder, config, modules, seed)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Trained numbers of an adapter."""

    parameters: Mapping[str, int]
    """Module -> trained numbers."""
    full: tuple[str, ...]
    """Modules of a LoKR whose larger block is a full matrix, so that its rank has no effect; usually all or none."""

    @property
    def total(self) -> int:
        return sum(self.parameters.values())


def capacity(config: AdapterConfig, geometry: DecoderGeometry) -> Capacity:
    """Capacity of what `attach` would make on a decoder of this size, without making it."""
    ranks = target_modules(config, geometry.layers)
    return capacity_of(config, ranks, {module: _shape(module, geometry) for module in ranks})


def capacity_of(config: AdapterConfig, ranks: Mapping[str, int], shapes: Mapping[str, tuple[int, int]]) -> Capacity:
    """Capacity on modules of these ranks and (rows, columns)."""
    algorithm = trainable()[config.kind]
    full = [module for module, rank in ranks.items()
            if algorithm.whole_part and algorithm.whole_part in algorithm.matrices(config, rank, *shapes[module])]
    return Capacity(parameters={module: algorithm.parameter_count(config, rank, *shapes[module])
                                for module, rank in ranks.items()}, full=tuple(full))


def _shape(module: str, geometry: DecoderGeometry) -> tuple[int, int]:
    """Rows and columns of a projection's weight."""
    queries, keys = geometry.heads * geometry.head_width, geometry.kv_heads * geometry.head_width
    width, mlp = geometry.width, geometry.mlp
    return {"q_proj": (queries, width), "k_proj": (keys, width), "v_proj": (keys, width), "o_proj": (width, queries),
            "gate_proj": (mlp, width), "up_proj": (mlp, width), "down_proj": (width, mlp)}[module.rpartition(".")[2]]


def algorithm_of(module: str, parts: Mapping[str, object]) -> Algorithm | None:
    """Algorithm of a module's parts; None for a bias alone.  AdapterError where parts do not belong together."""
    found = [one for one in ALGORITHMS if one.parts & parts.keys()]
    known = set(_SHARED.values()).union({_UP_BIAS}, *(one.parts for one in ALGORITHMS))
    if len(found) > 1 or not parts.keys() <= known:
        raise AdapterError(f"{module} has {', '.join(sorted(parts))}, which do not belong together. The file mixes two "
                           "adapters or is damaged.")
    if not found and "diff_b" not in parts:
        raise AdapterError(f"{module} is incomplete: it has {', '.join(sorted(parts))} alone. Get the file again.")
    return found[0] if found else None


def parse(module: str, parts: Parts, scale: Callable[[int | None, float | None], float],
          alpha_of: Callable[[], float]) -> ModuleDelta:
    """Delta of one module of a file.

    `scale` is given the rank (None where alpha has no effect) and the file's own alpha; `alpha_of` gives, for
    messages, the one that counts where the file has none.  AdapterError when parts are missing, mixed or contradictory.
    """
    algorithm = algorithm_of(module, parts)
    alpha, scalar = _number(module, "alpha", parts), _number(module, "scalar", parts)

    def scale_of(rank: int | None) -> float:
        found = scale(rank, alpha) * (1.0 if scalar is None else scalar)
        if not _SMALLEST <= abs(found) <= _LARGEST:
            used = alpha_of() if alpha is None else alpha
            raise AdapterError(f"{module} cannot be applied: with its alpha of {used:g}, its scale is {found:g}. "
                               "Get the file again, or train it with another alpha.")
        return found

    factors = None if algorithm is None else algorithm.parse(module, parts, scale_of)
    bias = parts.get("diff_b")
    if _UP_BIAS in parts:
        bias = scale_of(require_part(module, parts, "down").shape[0]) * parts[_UP_BIAS].float()
    return ModuleDelta(factors=factors, magnitude=_magnitude(module, parts, factors), bias=bias)


def _number(module: str, part: str, parts: Parts) -> float | None:
    if part not in parts:
        return None
    value = float(parts[part].double()) if parts[part].numel() == 1 else math.nan
    if not (math.isfinite(value) and value != 0):
        raise AdapterError(f"{module} is damaged: its {part} is {parts[part].tolist()}, and must be one number other "
                           "than 0.")
    return value


def _magnitude(module: str, parts: Parts, factors: WeightDelta | None) -> Tensor | None:
    """[outputs, 1 ...] or [1, inputs ...]; PEFT writes the former as [outputs], or of convolutions [1, outputs, 1 ...].
    """
    magnitude = parts.get("row_magnitude", parts.get("magnitude"))
    if magnitude is None:
        return None
    if magnitude.dim() == 1 or "row_magnitude" in parts:
        magnitude = magnitude.flatten()[:, None]
    if factors is None or sum(size != 1 for size in magnitude.shape) != 1:
        raise AdapterError(f"{module} is damaged: it has a magnitude of shape {tuple(magnitude.shape)} and "
                           f"{'no factors' if factors is None else 'a LoRA'}. Get the file again.")
    return magnitude
