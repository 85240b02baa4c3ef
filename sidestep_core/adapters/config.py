"""What is adapted and how: the kinds of adapter, and where on the decoder each sits.

Defaults are Side-Step's (LoRA rank 64, alpha 128, dropout 0.1; LoKR dimension 64, alpha 128, factor -1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..config import Config, require
from ..errors import ConfigError

AttentionType = Literal["both", "self", "cross"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Placement(Config):
    """Where an adapter sits; what every kind of adapter shares."""

    kind: ClassVar[str]
    """Name of the kind in JSON."""

    alpha: float = 128.0
    """Scale of the learned change is alpha / rank; it is written into the file, so strength 1.0 means this."""
    dropout: float = 0.1
    """Chance that an input feature of an adapter is dropped in a training step."""
    attention_type: AttentionType = "both"
    """self: how moments of the music relate; cross: how they follow caption and lyrics; both."""
    target_modules: tuple[str, ...] = PROJECTIONS
    self_target_modules: tuple[str, ...] = ()
    """Projections of self-attention only; empty: those of target_modules."""
    cross_target_modules: tuple[str, ...] = ()
    """Projections of cross-attention only; empty: those of target_modules."""
    target_mlp: bool = False
    """Also gate, up and down projection of every MLP."""
    module_ranks: tuple[str, ...] = ()
    """`pattern=rank` for single modules, such as `layers.0.*=16`; the last that fits counts, rank 0 leaves out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha > 0, f"alpha must be above 0, got {self.alpha}.")
        require(0 <= self.dropout < 1, f"dropout must be at least 0 and below 1, got {self.dropout}.")
        require(len(self.target_modules) > 0, "target_modules is empty; nothing would be trained. Name at least one.")
        for name in ("target_modules", "self_target_modules", "cross_target_modules"):
            _check_projections(name, getattr(self, name))
        for entry in self.module_ranks:
            require(re.fullmatch(r"[\w.*?\[\]-]+=\d+", entry) is not None,
                    f"module_ranks has {entry!r}; write a module and its rank, such as layers.0.self_attn.q_proj=16.")

    def to_json(self) -> dict[str, Any]:
        """As of every config, and which kind of adapter it is of."""
        return {"kind": self.kind, **super().to_json()}


def _check_projections(name: str, values: tuple[str, ...]) -> None:
    unknown = [value for value in values if value not in PROJECTIONS]
    require(not unknown, f"{name} has {', '.join(unknown)}; an attention has {', '.join(PROJECTIONS)}.")
    require(len(set(values)) == len(values), f"{name} names one twice: {', '.join(values)}.")


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Placement):
    """Low-rank adapters: W + (alpha / rank) * B @ A."""

    kind: ClassVar[str] = "lora"

    rank: int = 64
    rslora: bool = False
    """Scale by alpha / sqrt(rank), which keeps large ranks as lively as small ones."""
    dora: bool = False
    """Train the length of each input column of the weight apart from its direction (input-axis DoRA)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, f"rank must be at least 1, got {self.rank}.")


@dataclass(frozen=True, kw_only=True)
class LokrConfig(Placement):
    """Kronecker adapters: W + scale * (w1 x w2), of far fewer parameters than a LoRA."""

    kind: ClassVar[str] = "lokr"

    linear_dim: int = 64
    """Rank of the larger block; at half of its width or more the block is a full matrix, and alpha has no effect."""
    factor: int = -1
    """Size of the smaller block, the real knob of capacity: 4 or 8 give large blocks, -1 the most even split."""
    decompose_both: bool = False
    use_tucker: bool = False
    """Only for convolutions, of which the adapted modules have none; kept so that settings of others can be read."""
    use_scalar: bool = False
    weight_decompose: bool = False
    """Train the length of each input column of the weight apart from its direction (input-axis DoRA)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.linear_dim >= 1, f"linear_dim must be at least 1, got {self.linear_dim}.")
        require(self.factor == -1 or self.factor >= 1, f"factor must be -1 (even) or 1 or more, got {self.factor}.")


@dataclass(frozen=True, kw_only=True)
class LohaConfig(Placement):
    """Hadamard adapters: W + (alpha / rank) * (B1 @ A1) * (B2 @ A2), of rank up to rank squared."""

    kind: ClassVar[str] = "loha"

    rank: int = 32
    use_scalar: bool = False
    weight_decompose: bool = False
    """Train the length of each input column of the weight apart from its direction (input-axis DoRA)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, f"rank must be at least 1, got {self.rank}.")


AdapterConfig = LoraConfig | LokrConfig | LohaConfig

KINDS: dict[str, type[LoraConfig] | type[LokrConfig] | type[LohaConfig]] = {
    "lora": LoraConfig, "lokr": LokrConfig, "loha": LohaConfig,
}  # fmt: skip


def adapter_config_from_json(values: Mapping[str, Any]) -> AdapterConfig:
    """The config that `to_json` wrote.  ConfigError for a kind or a setting that there is not."""
    kind = values.get("kind", "lora")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"An adapter of kind {kind!r} is unknown; there are {', '.join(KINDS)}.")
    return KINDS[kind].from_json({key: value for key, value in values.items() if key != "kind"})
