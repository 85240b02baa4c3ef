"""Gradient scores: statistics of the gradients of many samples, accumulated module by module, and the scores from them.

Samples go into four folds, and by their times into three bins.  Of each gradient only a small feature is kept.  Sums of
two folds share no sample (and no song, see estimate.py), so their product is an unbiased square of the mean gradient,
free of the noise of single samples.
Shapes: M module, F fold, K time bin, N position, O output and I input feature of a module, R row of a projection.
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

FOLDS = 4
TIME_BINS = 3
ALL_FOLDS, ALL_BINS = range(FOLDS), range(TIME_BINS)
LORA_RANK = 8
SKETCH_SIZE = 64
"""Rows and columns of a projected gradient; exact for modules of at most this width."""
DAMPING = 1.0
"""Added to the size of each direction before dividing by it, in units of the mean size."""

Shape = tuple[int, int]
"""Shape of a module's weight: (out, in)."""


class GradientScorer(ABC):
    """Accumulates a feature of the gradient of each module over samples."""

    def __init__(self, shapes: Sequence[Shape], device: torch.device) -> None:
        self.shapes = tuple(shapes)
        self.counts_FK = torch.zeros(FOLDS, TIME_BINS, dtype=torch.int64)
        self._sums = tuple(torch.zeros(FOLDS, TIME_BINS, *self._feature_shape(shape), device=device)
                           for shape in shapes)
        self._pending: dict[int, Tensor] = {}

    @property
    def samples(self) -> int:
        """Number of samples accumulated."""
        return int(self.counts_FK.sum())

    def observe(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> None:
        """Take the current sample's gradient of one module's weight, output^T @ input."""
        self._pending[module] = self._feature(module, gradient_NO.float(), input_NI.float())

    def take(self) -> list[Tensor]:
        """Take away the features of the current sample, one of each module."""
        return [self._pending.pop(module) for module in range(len(self.shapes))]

    def feature_shapes(self) -> list[tuple[int, ...]]:
        """List the shapes of what `take` returns."""
        return [self._feature_shape(shape) for shape in self.shapes]

    def commit(self, fold: int, time_bin: int, features: Sequence[Tensor] | None = None) -> bool:
        """Accumulate the current sample, or one that was taken; return False, with nothing changed, if its gradient is
        not finite."""
        features = self.take() if features is None else features
        if not torch.stack([feature.abs().amax() for feature in features]).isfinite().all():
            return False
        for module, feature in enumerate(features):
            self._accumulate(module, fold, time_bin, feature)
        self.counts_FK[fold, time_bin] += 1
        return True

    def state_dict(self) -> dict[str, Tensor]:
        """Return the accumulated tensors by name."""
        return {"counts": self.counts_FK, **{f"total.{module}": total for module, total in enumerate(self._sums)}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state.  BadTensorFile, before anything changes, if it is of another scorer."""
        own = self.state_dict()
        if {name: tensor.shape for name, tensor in own.items()} != {name: state[name].shape for name in state}:
            raise BadTensorFile("It holds other sums than these.")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    @abstractmethod
    def scores(self, folds: Sequence[int] = ALL_FOLDS, bins: Sequence[int] = ALL_BINS) -> Tensor:
        """Return the score of every module [M], float64, from the samples of these folds and bins; 0 if too few."""

    @abstractmethod
    def _feature_shape(self, shape: Shape) -> tuple[int, ...]:
        """Return the shape of the feature of a gradient."""

    @abstractmethod
    def _feature(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
        """Return the feature of a gradient."""

    def _accumulate(self, module: int, fold: int, time_bin: int, feature: Tensor) -> None:
        self._sums[module][fold, time_bin] += feature

    def _fold_means(self, module: int, folds: Sequence[int], bins: Sequence[int]) -> list[Tensor]:
        """Return the mean feature of each of the folds with samples in these bins, float64 on the CPU."""
        sums_FK = self._sums[module].cpu()[list(folds)][:, list(bins)].double()
        counts_F = self.counts_FK[list(folds)][:, list(bins)].sum(1).tolist()
        return [sums_K.sum(0) / count for sums_K, count in zip(sums_FK, counts_F, strict=True) if count]


class NormScorer(GradientScorer):
    """Scores by the gradient's norm, which does not tell signal from noise."""

    def __init__(self, shapes: Sequence[Shape], device: torch.device, kind: Score) -> None:
        super().__init__(shapes, device)
        self._kind = kind

    def scores(self, folds: Sequence[int] = ALL_FOLDS, bins: Sequence[int] = ALL_BINS) -> Tensor:
        counts_FK = self.counts_FK[list(folds)][:, list(bins)]
        sums = [total.cpu()[list(folds)][:, list(bins)].double().sum() for total in self._sums]
        means: Tensor = torch.stack(sums) / max(1, int(counts_FK.sum()))
        return means

    def _feature_shape(self, shape: Shape) -> tuple[int, ...]:
        return ()

    def _feature(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(gradient_NO.T @ input_NI)
        size = self.shapes[module][0] * self.shapes[module][1]
        if self._kind == "fisher":
            return norm.square() / size
        return norm if self._kind == "gradient_norm" else norm / size**0.5


class GainScorer(GradientScorer):
    """Scores by the gradient of a LoRA's B at its start: the first-order drop of the mean loss by plain descent."""

    def __init__(self, shapes: Sequence[Shape], device: torch.device, seed: int) -> None:
        super().__init__(shapes, device)
        self.lora_a = {width: random_lora_a(width, seed).to(device) for width in {into for _, into in shapes}}
        """A by input width, shared by modules of one width, so that their scores compare."""

    def scores(self, folds: Sequence[int] = ALL_FOLDS, bins: Sequence[int] = ALL_BINS) -> Tensor:
        return _squared_means(self._fold_means(module, folds, bins) for module in range(len(self.shapes)))

    def _feature_shape(self, shape: Shape) -> tuple[int, ...]:
        return shape[0], LORA_RANK

    def _feature(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
        return gradient_NO.T @ (input_NI @ self.lora_a[self.shapes[module][1]].T)


class SignalScorer(GradientScorer):
    """Scores by the mean gradient, sketched on both sides, preconditioned by the second moments of single samples.

    So no score is high because a module's gradients are large, or because one direction of them, such as a constant
    shift, gets something from every sample; an optimizer that divides by the usual size of a gradient, as AdamW does,
    gains nothing from these either.
    """

    def __init__(self, shapes: Sequence[Shape], device: torch.device, seed: int) -> None:
        super().__init__(shapes, device)
        widths = [{shape[side] for shape in shapes} for side in range(2)]
        self._left, self._right = ({width: _random_basis(width, seed, name).to(device) for width in of_side}
                                   for of_side, name in zip(widths, ("left", "right"), strict=True))
        sketches = [self._feature_shape(shape) for shape in shapes]
        self._moments_left = tuple(torch.zeros(FOLDS, left, left, device=device) for left, _ in sketches)
        self._moments_right = tuple(torch.zeros(FOLDS, right, right, device=device) for _, right in sketches)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the accumulated tensors by name."""
        sides = (("left", self._moments_left), ("right", self._moments_right))
        moments = {f"{side}.{module}": moment for side, every in sides for module, moment in enumerate(every)}
        return {**super().state_dict(), **moments}

    def scores(self, folds: Sequence[int] = ALL_FOLDS, bins: Sequence[int] = ALL_BINS) -> Tensor:
        return _squared_means(self._preconditioned(module, folds, bins) for module in range(len(self.shapes)))

    def _preconditioned(self, module: int, folds: Sequence[int], bins: Sequence[int]) -> list[Tensor]:
        count = int(self.counts_FK[list(folds)].sum())
        left, right = (_preconditioner(moments[module].cpu()[list(folds)].double().sum(0) / count)
                       for moments in (self._moments_left, self._moments_right))
        return [left @ mean @ right for mean in self._fold_means(module, folds, bins)]

    def _feature_shape(self, shape: Shape) -> tuple[int, ...]:
        return min(SKETCH_SIZE, shape[0]), min(SKETCH_SIZE, shape[1])

    def _feature(self, module: int, gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
        out, into = self.shapes[module]
        return (gradient_NO @ self._left[out]).T @ (input_NI @ self._right[into])

    def _accumulate(self, module: int, fold: int, time_bin: int, feature: Tensor) -> None:
        super()._accumulate(module, fold, time_bin, feature)
        self._moments_left[module][fold] += feature @ feature.T
        self._moments_right[module][fold] += feature.T @ feature


def make_scorer(kind: Score, shapes: Sequence[Shape], device: torch.device, seed: int) -> GradientScorer:
    """Create an empty scorer for this kind of score."""
    if kind == "signal":
        return SignalScorer(shapes, device, seed)
    return GainScorer(shapes, device, seed) if kind == "gain" else NormScorer(shapes, device, kind)


def random_lora_a(width: int, seed: int) -> Tensor:
    """Draw a LoRA's A [R, width] as PEFT does, uniform within 1 / sqrt(width)."""
    draws = torch.rand(LORA_RANK, width, generator=rng.generator(seed, "probe", width))
    scaled: Tensor = (2 * draws - 1) / width**0.5
    return scaled


def _random_basis(width: int, seed: int, side: str) -> Tensor:
    """Draw orthonormal directions [width, R]."""
    draws = torch.randn(width, min(SKETCH_SIZE, width), generator=rng.generator(seed, "sketch", side, width))
    directions: Tensor = torch.linalg.qr(draws)[0]
    return directions.contiguous()


def _preconditioner(moments_RR: Tensor) -> Tensor:
    """Return the damped power -1/4 of the second moments, as Shampoo uses it: applied on both sides of a gradient, it
    evens out the size of all directions."""
    values_R, vectors_RR = torch.linalg.eigh(moments_RR)
    damped_R = values_R.clamp(min=0) + DAMPING * values_R.mean().clamp(min=torch.finfo(torch.float64).tiny)
    power_RR: Tensor = (vectors_RR * damped_R**-0.25) @ vectors_RR.T
    return power_RR


def _squared_means(fold_means: Iterable[list[Tensor]]) -> Tensor:
    """Return for each module the mean product of two different folds, an unbiased squared norm of the mean [M]."""
    found = []
    for means in fold_means:
        products = [(one * other).sum() for one, other in combinations(means, 2)]
        found.append(torch.stack(products).mean() if products else torch.zeros((), dtype=torch.float64))
    return torch.stack(found)
