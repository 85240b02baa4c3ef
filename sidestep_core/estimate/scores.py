"""What the gradients of many samples add up to, and the scores that are made of it.

The samples go into four quarters, and by their times into three spans.  Of each gradient only a few numbers are kept.
Sums of two quarters share no sample (and no song, see estimate.py), so the product of them is free of what single ones
are about.
Shapes: M module, Q quarter, K span, N position, O output and I input feature of a module, R row of a projection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from .. import rng
from ..io.tensors import BadTensorFile
from .result import Score

QUARTERS = 4
SPANS = 3
EVERY_QUARTER, EVERY_SPAN = range(QUARTERS), range(SPANS)
LORA_RANK = 8
SKETCH = 64
"""Rows and columns to which a gradient is projected at most; modules of at most this width lose nothing."""
DAMPING = 1.0
"""What is added to the size of each direction before dividing by it, of the mean size of all."""

Shape = tuple[int, int]
"""Of a module's weight: (out, in)."""


class GradientSums(ABC):
    """Sums over samples of what `_feature` takes from the gradient of each module."""

    def __init__(self, shapes: Sequence[Shape], device: torch.device) -> None:
        self.shapes = tuple(shapes)
        self.counts_QK = torch.zeros(QUARTERS, SPANS, dtype=torch.int64)
        self._totals = tuple(torch.zeros(QUARTERS, SPANS, *self._feature_shape(shape), device=device)
                             for shape in shapes)
        self._present: dict[int, Tensor] = {}

    @property
    def samples(self) -> int:
        """How many are in."""
        return int(self.counts_QK.sum())

    def listen(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> None:
        """Take in the present sample's gradient of one module's weight, output^T @ input."""
        self._present[module] = self._feature(module, gradient_NO.float(), input_NI.float())

    def commit(self, quarter: int, span: int) -> bool:
        """Count the present sample; False, and nothing is changed, where its gradient is not finite."""
        features = [self._present.pop(module) for module in range(len(self.shapes))]
        if not torch.stack([feature.abs().amax() for feature in features]).isfinite().all():
            return False
        for module, feature in enumerate(features):
            self._add(module, quarter, span, feature)
        self.counts_QK[quarter, span] += 1
        return True

    def tensors(self) -> dict[str, Tensor]:
        """As a file holds them."""
        return {"counts": self.counts_QK, **{f"total.{module}": total for module, total in enumerate(self._totals)}}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from what a file holds.  BadTensorFile, before anything changes, when it is not of these sums."""
        own = self.tensors()
        if {name: tensor.shape for name, tensor in own.items()} != {name: saved[name].shape for name in saved}:
            raise BadTensorFile("It holds other sums than these.")
        for name, tensor in own.items():
            tensor.copy_(saved[name])

    @abstractmethod
    def scores(self, quarters: Sequence[int] = EVERY_QUARTER, spans: Sequence[int] = EVERY_SPAN) -> Tensor:
        """Score of every module [M], float64, by the samples of these quarters and spans; 0 where they are too few."""

    @abstractmethod
    def _feature_shape(self, shape: Shape) -> tuple[int, ...]:
        """Of what is kept of a gradient."""

    @abstractmethod
    def _feature(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
        """What is kept of a gradient."""

    def _add(self, module: int, quarter: int, span: int, feature: Tensor) -> None:
        self._totals[module][quarter, span] += feature

    def _means(self, module: int, quarters: Sequence[int], spans: Sequence[int]) -> list[Tensor]:
        """Mean feature of each of the quarters that has samples in these spans, float64 on the CPU."""
        total_QK = self._totals[module].cpu()[list(quarters)][:, list(spans)].double()
        counts_Q = self.counts_QK[list(quarters)][:, list(spans)].sum(1).tolist()
        return [total_K.sum(0) / count for total_K, count in zip(total_QK, counts_Q, strict=True) if count]


class Lengths(GradientSums):
    """Of each gradient its length: of how much of it the samples agree on, this says nothing."""

    def __init__(self, shapes: Sequence[Shape], device: torch.device, kind: Score) -> None:
        super().__init__(shapes, device)
        self._kind = kind

    def scores(self, quarters: Sequence[int] = EVERY_QUARTER, spans: Sequence[int] = EVERY_SPAN) -> Tensor:
        counts_QK = self.counts_QK[list(quarters)][:, list(spans)]
        totals = [total.cpu()[list(quarters)][:, list(spans)].double().sum() for total in self._totals]
        means: Tensor = torch.stack(totals) / max(1, int(counts_QK.sum()))
        return means

    def _feature_shape(self, shape: Shape) -> tuple[int, ...]:
        return ()

    def _feature(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(gradient_NO.T @ input_NI)
        size = self.shapes[module][0] * self.shapes[module][1]
        if self._kind == "fisher":
            return length.square() / size
        return length if self._kind == "gradient_norm" else length / size**0.5


class Gains(GradientSums):
    """Of each gradient that of a LoRA's B at its start: how far a step of plain descent on it lowers the mean loss."""

    def __init__(self, shapes: Sequence[Shape], device: torch.device, seed: int) -> None:
        super().__init__(shapes, device)
        self.down = {width: lora_a(width, seed).to(device) for width in {into for _, into in shapes}}
        """A by input width: modules of one width share it, to compare."""

    def scores(self, quarters: Sequence[int] = EVERY_QUARTER, spans: Sequence[int] = EVERY_SPAN) -> Tensor:
        return _agreed(self._means(module, quarters, spans) for module in range(len(self.shapes)))

    def _feature_shape(self, shape: Shape) -> tuple[int, ...]:
        return shape[0], LORA_RANK

    def _feature(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
        return gradient_NO.T @ (input_NI @ self.down[self.shapes[module][1]].T)


class Signals(GradientSums):
    """Of each gradient a projection on both sides, and how large it is in each direction.

    The agreed part is measured by what single samples vary there.  So no score is high because a module's gradients are
    large, or because one direction of them, such as a constant shift, gets something from every sample; an optimizer
    that divides by the usual size of a gradient, as AdamW does, gets nothing out of these either.
    """

    def __init__(self, shapes: Sequence[Shape], device: torch.device, seed: int) -> None:
        super().__init__(shapes, device)
        sides = [{shape[side] for shape in shapes} for side in range(2)]
        self._left, self._right = ({width: _directions(width, seed, name).to(device) for width in widths}
                                   for widths, name in zip(sides, ("left", "right"), strict=True))
        rows = [self._feature_shape(shape) for shape in shapes]
        self._sizes_left = tuple(torch.zeros(QUARTERS, left, left, device=device) for left, _ in rows)
        self._sizes_right = tuple(torch.zeros(QUARTERS, right, right, device=device) for _, right in rows)

    def tensors(self) -> dict[str, Tensor]:
        """As a file holds them."""
        sizes = {f"{side}.{module}": size for side, every in (("left", self._sizes_left), ("right", self._sizes_right))
                 for module, size in enumerate(every)}
        return {**super().tensors(), **sizes}

    def scores(self, quarters: Sequence[int] = EVERY_QUARTER, spans: Sequence[int] = EVERY_SPAN) -> Tensor:
        return _agreed(self._evened(module, quarters, spans) for module in range(len(self.shapes)))

    def _evened(self, module: int, quarters: Sequence[int], spans: Sequence[int]) -> list[Tensor]:
        count = int(self.counts_QK[list(quarters)].sum())
        left, right = (_evening(sizes[module].cpu()[list(quarters)].double().sum(0) / count)
                       for sizes in (self._sizes_left, self._sizes_right))
        return [left @ mean @ right for mean in self._means(module, quarters, spans)]

    def _feature_shape(self, shape: Shape) -> tuple[int, ...]:
        return min(SKETCH, shape[0]), min(SKETCH, shape[1])

    def _feature(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
        out, into = self.shapes[module]
        return (gradient_NO @ self._left[out]).T @ (input_NI @ self._right[into])

    def _add(self, module: int, quarter: int, span: int, feature: Tensor) -> None:
        super()._add(module, quarter, span, feature)
        self._sizes_left[module][quarter] += feature @ feature.T
        self._sizes_right[module][quarter] += feature.T @ feature


def sums_of(kind: Score, shapes: Sequence[Shape], device: torch.device, seed: int) -> GradientSums:
    """Empty sums for this kind of score."""
    if kind == "signal":
        return Signals(shapes, device, seed)
    return Gains(shapes, device, seed) if kind == "gain" else Lengths(shapes, device, kind)


def lora_a(width: int, seed: int) -> Tensor:
    """A [R, width] of a LoRA as PEFT draws it, uniform within 1 / sqrt(width)."""
    random = rng.generator(seed, "probe", width)
    draws = torch.rand(LORA_RANK, width, generator=random)
    scaled: Tensor = (2 * draws - 1) / width**0.5
    return scaled


def _directions(width: int, seed: int, side: str) -> Tensor:
    """Random directions [width, R], each at right angles to all others."""
    draws = torch.randn(width, min(SKETCH, width), generator=rng.generator(seed, "sketch", side, width))
    directions: Tensor = torch.linalg.qr(draws)[0]
    return directions.contiguous()


def _evening(sizes_RR: Tensor) -> Tensor:
    """Power -1/4 of the mean square of a gradient by direction: by it on both sides, all directions get as large."""
    values_R, vectors_RR = torch.linalg.eigh(sizes_RR)
    damped_R = values_R.clamp(min=0) + DAMPING * values_R.mean().clamp(min=torch.finfo(torch.float64).tiny)
    power_RR: Tensor = (vectors_RR * damped_R**-0.25) @ vectors_RR.T
    return power_RR


def _agreed(means: Iterable[list[Tensor]]) -> Tensor:
    """For each module the mean product of two different quarters: the squared length of what all samples agree on."""
    found = []
    for quarters in means:
        products = [(one * other).sum() for one, other in combinations(quarters, 2)]
        found.append(torch.stack(products).mean() if products else torch.zeros((), dtype=torch.float64))
    return torch.stack(found)
