"""Settings that every kind of adapter shares: where on the decoder it sits, and how strong it is.

Each kind adds its own in its file (lora.py, lokr.py, loha.py).  Defaults are Side-Step's.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..config import Config, require

AttentionType = Literal["both", "self", "cross"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(Config, ABC):
    """Base of the settings of every kind of adapter."""

    kind: ClassVar[str]
    """Name of the kind in JSON."""

    alpha: float = 128.0
    """Numerator of the scale alpha / rank of the learned change; saved, so that strength 1.0 is the trained one."""
    dropout: float = 0.1
    """Probability of dropping each input feature of the adapter in a training step."""
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
    rank_dropout: float = 0.0
    """Probability of dropping each rank of a LoRA, or each row of a LoKR's or LoHA's delta, for a sample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha > 0, f"alpha must be above 0, got {self.alpha}.")
        require(0 <= self.dropout < 1, f"dropout must be at least 0 and below 1, got {self.dropout}.")
        require(0 <= self.rank_dropout < 1,
                f"rank_dropout must be at least 0 and below 1, got {self.rank_dropout}.")
        require(not (self.rank_dropout and self.decomposed),
                f"rank_dropout is {self.rank_dropout:g}, but with DoRA the lengths of columns depend on all ranks. Set "
                "it to 0, or switch DoRA off.")
        require(len(self.target_modules) > 0, "target_modules is empty; nothing would be trained. Name at least one.")
        for name in ("target_modules", "self_target_modules", "cross_target_modules"):
            _check_projections(name, getattr(self, name))
        for entry in self.module_ranks:
            require(re.fullmatch(r"[\w.*?\[\]-]+=\d+", entry) is not None,
                    f"module_ranks has {entry!r}; write a module and its rank, such as layers.0.self_attn.q_proj=16.")

    @property
    @abstractmethod
    def base_rank(self) -> int:
        """Rank of every module that `module_ranks` does not name."""

    @property
    def decomposed(self) -> bool:
        """True where the lengths of a weight's input columns are trained apart from their directions (DoRA)."""
        return False

    @property
    def has_scalar(self) -> bool:
        """True where one more trained number, zero at first, multiplies the delta of each module."""
        return False

    def scaling(self, rank: int) -> float:
        """Scale of a module's delta: alpha / rank of the config, for any rank of the module itself.

        Alpha thus grows and shrinks with a module's rank, and all modules are equally strong.
        """
        return self.alpha / self.base_rank

    def to_json(self) -> dict[str, Any]:
        """JSON of the settings and their kind; see registry.config_from_json."""
        return {"kind": self.kind, **super().to_json()}


def _check_projections(name: str, values: tuple[str, ...]) -> None:
    unknown = [value for value in values if value not in PROJECTIONS]
    require(not unknown, f"{name} has {', '.join(unknown)}; an attention has {', '.join(PROJECTIONS)}.")
    require(len(set(values)) == len(values), f"{name} names one twice: {', '.join(values)}.")
