"""LoKR: W + scale * (w1 x w2), the Kronecker product of two blocks, of far fewer parameters than a LoRA.

Trained through LyCORIS: its module determines the matrices, its functions apply and multiply them.  Files are
read without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from .. import optional
from ..config import require
from ..errors import AdapterError
from . import layer
from .algorithm import Factors, LiveAdapter, Matrix, Parts, ScaleOf, Trainable, uniform, zeros
from .config import AdapterConfig
from .delta import WeightDelta, multiplied, number, require_chain, require_part, tucker

PURPOSE = "LoKR training"
TESTED = "4.1.3"
"""Version of lycoris-lora that the tests ran with."""
BACKEND = "torch"
"""LyCORIS's other backends, Triton and torch.compile, round differently, and compile for minutes."""


@dataclass(frozen=True, kw_only=True)
class LokrConfig(AdapterConfig):
    """Settings of a LoKR, under LyCORIS's names."""

    kind: ClassVar[str] = "lokr"

    linear_dim: int = 64
    """Rank of the larger block; at half of its width or more the block is a full matrix, and alpha has no effect."""
    factor: int = -1
    """Size of the smaller block, the real knob of capacity: 4 or 8 give large blocks, -1 the most even split."""
    decompose_both: bool = False
    use_tucker: bool = False
    """Acts on convolutions only, of which the adapted modules have none; kept so that foreign settings can be read."""
    use_scalar: bool = False
    weight_decompose: bool = False
    """Train the length of each input column of the weight apart from its direction (input-axis DoRA)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.linear_dim >= 1, f"linear_dim must be at least 1, got {self.linear_dim}.")
        require(self.factor == -1 or self.factor >= 1,
                f"factor must be -1 (automatic) or at least 1, got {self.factor}.")

    @property
    def base_rank(self) -> int:
        return self.linear_dim

    @property
    def decomposed(self) -> bool:
        return self.weight_decompose

    @property
    def has_scalar(self) -> bool:
        return self.use_scalar


@dataclass(frozen=True, kw_only=True)
class KroneckerDelta(WeightDelta):
    """scale * (w1 x w2); either is one matrix, or the two factors of one."""

    w1: tuple[Tensor, ...]
    w2: tuple[Tensor, ...]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.w1[0].shape[0] * self.w2[0].shape[0], self.w1[-1].shape[1] * self.w2[-1].shape[1]

    def delta(self, dtype: torch.dtype) -> Tensor:
        return self.scale * torch.kron(multiplied(self.w1, dtype), multiplied(self.w2, dtype))

    def host(self) -> dict[str, Tensor]:
        """Tensors by the host's endings.  It knows no alpha where both are whole, so there the scale goes into w1."""
        names = {"lokr_w1": self.w1, "lokr_w2": self.w2}
        tensors: dict[str, Tensor] = {}
        for name, parts in names.items():
            endings = ("",) if len(parts) == 1 else ("_a", "_b")
            tensors |= {name + ending: part for ending, part in zip(endings, parts, strict=True)}
        rank = next((len(parts[1]) for parts in (self.w2, self.w1) if len(parts) == 2), None)
        if rank is not None:
            return tensors | {"alpha": number(self.scale * rank)}
        return tensors | {"lokr_w1": self.w1[0] if self.scale == 1 else self.scale * self.w1[0].float()}


_NAMES = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
"""Matrices in the order of LyCORIS's functions."""


class Lokr(Trainable):
    """LoKR."""

    kind = "lokr"
    config = LokrConfig
    recomputed = False
    file_names: ClassVar[Mapping[str, str]] = {name: name for name in (*_NAMES, "lokr_t2")}
    peft_type = "LOKR"
    rank_parts = ("lokr_w2_b", "lokr_w1_b")
    whole_part = "lokr_w2"
    scaled_names = ("lokr_w2_b", "lokr_w2")

    def require(self, config: AdapterConfig) -> None:
        with optional.imports("lycoris", PURPOSE):
            import lycoris.functional.lokr
            import lycoris.modules.lokr  # noqa: F401

    def matrices(self, config: AdapterConfig, rank: int, rows: int, columns: int) -> dict[str, Matrix]:
        settings = cast("LokrConfig", config)
        small_rows, large_rows = _split(rows, settings.factor)
        small_columns, large_columns = _split(columns, settings.factor)
        last = uniform if config.has_scalar else zeros
        found: dict[str, Matrix] = {}
        if settings.decompose_both and 2 * rank < max(small_rows, small_columns):
            found["lokr_w1_a"] = Matrix(small_rows, rank, uniform)
            found["lokr_w1_b"] = Matrix(rank, small_columns, uniform)
        else:
            found["lokr_w1"] = Matrix(small_rows, small_columns, uniform)
        if 2 * rank < max(large_rows, large_columns):
            found["lokr_w2_a"] = Matrix(large_rows, rank, uniform)
            found["lokr_w2_b"] = Matrix(rank, large_columns, last)
        else:
            found["lokr_w2"] = Matrix(large_rows, large_columns, last)
        return found

    def attach(self, decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveAdapter:
        self.require(config)
        known = dict(decoder.named_modules())
        for rank, rows, columns in {(rank, base.out_features, base.in_features) for module, rank in modules.items()
                                    if isinstance(base := known.get(module), nn.Linear)}:
            self._require_same(cast("LokrConfig", config), rank, rows, columns)
        return layer.attach(self, decoder, config, modules, seed)

    def _require_same(self, config: LokrConfig, rank: int, rows: int, columns: int) -> None:
        """AdapterError unless LyCORIS's module for these settings has the matrices that `matrices` counts."""
        from lycoris.modules.lokr import LokrModule

        with torch.device("meta"):
            module = LokrModule("", nn.Linear(columns, rows, bias=False), lora_dim=rank,
                                alpha=config.scaling(rank) * rank, factor=config.factor,
                                decompose_both=config.decompose_both, use_tucker=config.use_tucker,
                                use_scalar=config.use_scalar, bypass_mode=True)
        theirs = {name: tuple(one.shape) for name, one in module.named_parameters() if name != "scalar"}
        ours = {name: (one.rows, one.columns) for name, one in self.matrices(config, rank, rows, columns).items()}
        if theirs != ours:
            raise AdapterError(f"The installed lycoris-lora makes {theirs} of a LoKR on {rows} x {columns}, where this "
                               f"pack counts {ours}. Run: python -m pip install lycoris-lora=={TESTED}.")

    def product(self, factors: Factors) -> Tensor:
        from lycoris.functional.lokr import kron_weight

        product: Tensor = kron_weight(*map(factors.get, _NAMES), backend=BACKEND)
        return product

    def output(self, x: Tensor, factors: Factors, strength: Tensor | float) -> Tensor:
        """Output of the delta: one block after the other; their Kronecker product is never made."""
        from lycoris.functional.lokr import kron_bypass

        with torch.autocast(x.device.type, enabled=False):
            # In float32 and with the scale in it, where LyCORIS's module would round both to the dtype of x.
            small = strength * _block(factors, "lokr_w1")
        large = (factors[name].to(x.dtype) if name in factors else None for name in _NAMES[3:])
        out: Tensor = kron_bypass(x, small.to(x.dtype), None, None, *large, backend=BACKEND)
        return out

    def to_file(self, factors: Factors, *, has_scalar: bool) -> dict[str, Tensor]:
        if not has_scalar or self.alpha_rank(factors):
            return dict(factors)
        # Alpha counts only where a block is a product; this product is the block itself.
        whole = factors["lokr_w1"]
        rest = {name: tensor for name, tensor in factors.items() if name != "lokr_w1"}
        return {"lokr_w1_a": whole, "lokr_w1_b": torch.eye(whole.shape[1]), **rest}

    def from_file(self, name: str, tensors: Factors) -> Tensor:
        return tensors[name] if name in tensors else tensors["lokr_w1_a"]

    def parse(self, module: str, parts: Parts, scale_of: ScaleOf) -> WeightDelta:
        w1, w2 = _one_or_two(module, parts, "lokr_w1"), _one_or_two(module, parts, "lokr_w2")
        scale = scale_of(next((len(one[1]) for one in (w2, w1) if len(one) == 2), None))
        if "lokr_t2" in parts:
            core = require_part(module, parts, "lokr_t2")
            require_chain(module, w2[0].T, core, w2[-1])
            w2 = (tucker(core, w2[-1], w2[0], rank_first=True),)
        else:
            require_chain(module, *w2)
        require_chain(module, *w1)
        # As a matrix the product is the same: a kernel's positions only follow its inputs.
        return KroneckerDelta(w1=tuple(one.flatten(1) for one in w1), w2=tuple(one.flatten(1) for one in w2),
                              scale=scale)


def _split(size: int, factor: int) -> tuple[int, int]:
    """A size as small * large: by `factor` where that divides it, else by the largest divisor below; -1 is evenly."""
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    small = next(divisor for divisor in range(limit, 0, -1) if size % divisor == 0)
    return small, size // small


def _block(factors: Factors, name: str) -> Tensor:
    return factors[name] if name in factors else factors[f"{name}_a"] @ factors[f"{name}_b"]


def _one_or_two(module: str, parts: Parts, name: str) -> tuple[Tensor, ...]:
    """A whole matrix, or its two factors."""
    if name in parts:
        extra = sorted({f"{name}_a", f"{name}_b"} & parts.keys())
        if extra:
            raise AdapterError(f"{module} has {name} and also {', '.join(extra)}. The file mixes two adapters.")
        return (require_part(module, parts, name),)
    return require_part(module, parts, f"{name}_a"), require_part(module, parts, f"{name}_b")
