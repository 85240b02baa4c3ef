"""The tensors of one module, under their common names, put together to what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from ..errors import AdapterError
from .alpha import Scales
from .delta import Factors, Full, Hadamard, Kronecker, LowRank, ModuleDelta, require_chain, tucker

Parts = Mapping[str, Tensor]
"""Tensors of one module, by what they are: down, up, lokr_w1 ..., alpha, magnitude."""

SMALLEST, LARGEST = 2.0**-126, 2.0**127
"""Size of a scale that is neither 0 nor infinite in float32."""

ScaleOf = Callable[[int | None], float]
"""Rank, or None for two whole matrices -> scale."""

_BESIDE = {"alpha", "scalar", "magnitude", "row_magnitude", "diff_b"}
_KINDS = {
    "LoRA": {"down", "up", "mid", "up.bias"},
    "LoKR": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"},
    "LoHA": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"},
    "full": {"diff"},
}  # fmt: skip


def build(module: str, name: str, parts: Parts, scales: Scales, *, made_for_host: bool) -> ModuleDelta:
    """The record of one module; `name` is what PEFT calls it.

    AdapterError when a partner is missing, kinds are mixed, or shapes contradict each other.
    """
    kinds = [kind for kind, own in _KINDS.items() if own & parts.keys()]
    if len(kinds) > 1 or not parts.keys() <= set().union(_BESIDE, *_KINDS.values()):
        raise AdapterError(f"{module} has {', '.join(sorted(parts))}, which do not belong together. The file mixes two "
                           "adapters or is damaged.")
    if not kinds and "diff_b" not in parts:
        raise AdapterError(f"{module} is incomplete: it has {', '.join(sorted(parts))} alone. Get the file again.")
    alpha = _number(module, "alpha", parts)
    scalar = _number(module, "scalar", parts)

    def scale_of(rank: int | None) -> float:
        scale = (scales.whole(name, alpha) if rank is None
                 else scales.low_rank(name, alpha, rank, made_for_host=made_for_host))
        scale = scale if scalar is None else scale * scalar
        if not SMALLEST <= abs(scale) <= LARGEST:
            said = scales.alpha_of(name) if alpha is None else alpha
            raise AdapterError(f"{module} cannot be applied: with its alpha of {said:g}, its scale is {scale:g}. "
                               "Get the file again, or train it with another alpha.")
        return scale

    readers = {"LoRA": _lora, "LoKR": _lokr, "LoHA": _loha, "full": _full}
    factors = readers[kinds[0]](module, parts, scale_of) if kinds else None
    bias = parts.get("diff_b")
    if "up.bias" in parts:
        bias = scale_of(_require(module, parts, "down").shape[0]) * parts["up.bias"].float()
    return ModuleDelta(factors=factors, magnitude=_magnitude(module, parts, factors), bias=bias)


def _number(module: str, part: str, parts: Parts) -> float | None:
    if part not in parts:
        return None
    value = float(parts[part].double()) if parts[part].numel() == 1 else math.nan
    if not (math.isfinite(value) and value != 0):
        raise AdapterError(f"{module} is damaged: its {part} is {parts[part].tolist()}, and must be one number other "
                           "than 0.")
    return value


def _require(module: str, parts: Parts, name: str) -> Tensor:
    if name not in parts:
        raise AdapterError(f"{module} is incomplete: it has {', '.join(sorted(parts))}, but no {name}. Get the file "
                           "again.")
    if parts[name].dim() < 2:
        raise AdapterError(f"{module} is damaged: its {name} is not a matrix, but {tuple(parts[name].shape)}.")
    return parts[name]


def _lora(module: str, parts: Parts, scale_of: ScaleOf) -> Factors:
    down, up = _require(module, parts, "down"), _require(module, parts, "up")
    scale = scale_of(len(down))
    if "mid" in parts:
        core = _require(module, parts, "mid")
        require_chain(module, up, core, down)
        return Full(diff=scale * tucker(core, down, up, rank_first=False))
    require_chain(module, up, down)
    if up[0].numel() != len(down):
        raise AdapterError(f"{module} is damaged: its up is {tuple(up.shape)}. Get the file again.")
    return LowRank(down=down, up=up, scale=scale)


def _lokr(module: str, parts: Parts, scale_of: ScaleOf) -> Factors:
    w1, w2 = _one_or_two(module, parts, "lokr_w1"), _one_or_two(module, parts, "lokr_w2")
    rank = next((len(one[1]) for one in (w2, w1) if len(one) == 2), None)
    scale = scale_of(rank)
    if "lokr_t2" in parts:
        core = _require(module, parts, "lokr_t2")
        require_chain(module, w2[0].T, core, w2[-1])
        w2 = (tucker(core, w2[-1], w2[0], rank_first=True),)
    else:
        require_chain(module, *w2)
    require_chain(module, *w1)
    # As a matrix the product is the same: a kernel's positions only follow its inputs.
    return Kronecker(w1=tuple(one.flatten(1) for one in w1), w2=tuple(one.flatten(1) for one in w2), scale=scale)


def _one_or_two(module: str, parts: Parts, name: str) -> tuple[Tensor, ...]:
    """A whole matrix, or its two factors."""
    if name in parts:
        extra = sorted({f"{name}_a", f"{name}_b"} & parts.keys())
        if extra:
            raise AdapterError(f"{module} has {name} and also {', '.join(extra)}. The file mixes two adapters.")
        return (_require(module, parts, name),)
    return _require(module, parts, f"{name}_a"), _require(module, parts, f"{name}_b")


def _loha(module: str, parts: Parts, scale_of: ScaleOf) -> Factors:
    pairs = [(_require(module, parts, f"hada_w{number}_a"), _require(module, parts, f"hada_w{number}_b"))
             for number in (1, 2)]
    scale = scale_of(len(pairs[0][1]))
    if "hada_t1" in parts or "hada_t2" in parts:
        cores = [_require(module, parts, f"hada_t{number}") for number in (1, 2)]
        for core, (a, b) in zip(cores, pairs, strict=True):
            require_chain(module, a.T, core, b)
        first, second = (tucker(core, b, a, rank_first=True) for core, (a, b) in zip(cores, pairs, strict=True))
        return Full(diff=scale * first * second)
    for pair in pairs:
        require_chain(module, *pair)
    if [len(pairs[0][0]), pairs[0][1].shape[1]] != [len(pairs[1][0]), pairs[1][1].shape[1]]:
        raise AdapterError(f"{module} is damaged: the two products of its LoHA differ in shape. Get the file again.")
    return Hadamard(first=pairs[0], second=pairs[1], scale=scale)


def _full(module: str, parts: Parts, scale_of: ScaleOf) -> Factors:
    return Full(diff=parts["diff"])


def _magnitude(module: str, parts: Parts, factors: Factors | None) -> Tensor | None:
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
