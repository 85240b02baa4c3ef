"""Every score equals its plain computation from whole gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.estimate.result import Score
from sidestep_core.estimate.scores import ALL_FOLDS, DAMPING, GradientScorer, SignalScorer, make_scorer
from sidestep_core.io.tensors import BadTensorFile, read_tensors, write_tensors
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
SHAPES = ((24, 40), (80, 40), (40, 96))
"""Some wider than a sketch."""
KINDS: tuple[Score, ...] = ("signal", "gain", "gradient_norm", "gradient_norm_per_size", "fisher")
every_kind = pytest.mark.parametrize("kind", KINDS)

Factors = tuple[Tensor, Tensor]
"""Factors of a gradient [out, in]: gradient of the output [N, out], and input [N, in]."""


def draws(samples: int, common: float = 0.5, seed: int = 0) -> list[list[Factors]]:
    """Draw factors for every module of each sample; `common` is in every sample's gradient."""
    random = rng.generator("gradients", seed)
    shared = [(torch.randn(2, out, generator=random), torch.randn(2, into, generator=random)) for out, into in SHAPES]
    return [[(torch.cat((torch.randn(5, out, generator=random), common * one)),
              torch.cat((torch.randn(5, into, generator=random), other)))
             for (out, into), (one, other) in zip(SHAPES, shared, strict=True)] for _ in range(samples)]


def add(scorer: GradientScorer, samples: list[list[Factors]], bins: list[int] | None = None,
        folds: Sequence[int] = ALL_FOLDS) -> GradientScorer:
    """Add samples, in turn to each fold, skipping those of other folds."""
    for step, factors in enumerate(samples, scorer.samples):
        if step % 4 in folds:
            for module, (gradient_NO, input_NI) in enumerate(factors):
                scorer.observe(module, gradient_NO, input_NI)
            assert scorer.commit(step % 4, bins[step] if bins else step % 3)
    return scorer


def added(kind: Score, samples: list[list[Factors]], bins: list[int] | None = None) -> GradientScorer:
    return add(make_scorer(kind, SHAPES, CPU, seed=0), samples, bins)


def gradients(samples: list[list[Factors]], module: int) -> Tensor:
    """Return whole gradients [sample, out, in], float64."""
    return torch.stack([(factors[module][0].T.double() @ factors[module][1].double()) for factors in samples])


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0) ** exponent) @ vectors.T


def squared_mean(matrices: Tensor) -> Tensor:
    """Return the mean product of the means of two folds."""
    means = [matrices[fold::4].mean(0) for fold in range(4)]
    return torch.stack([(one * other).sum() for one, other in combinations(means, 2)]).mean()


def plain(kind: Score, scorer: GradientScorer, samples: list[list[Factors]], module: int) -> Tensor:
    """Compute the score from whole gradients."""
    every = gradients(samples, module)
    if kind == "gain":
        return squared_mean(every @ scorer.lora_a[SHAPES[module][1]].T.double())
    if kind == "signal":
        left, right = (side[width].double() for side, width in zip((scorer._left, scorer._right), SHAPES[module],
                                                                   strict=True))
        seen = left.T @ every @ right
        rows, columns = (seen @ seen.mT).mean(0), (seen.mT @ seen).mean(0)
        sides = [power(sizes + DAMPING * sizes.trace() / len(sizes) * torch.eye(len(sizes)), -0.25)
                 for sizes in (rows, columns)]
        return squared_mean(sides[0] @ seen @ sides[1])
    if kind == "fisher":
        return every.square().mean()
    lengths = every.flatten(1).norm(dim=1).mean()
    return lengths if kind == "gradient_norm" else lengths / every[0].numel() ** 0.5


@every_kind
def test_scores_match_plain_computation(kind: Score) -> None:
    samples = draws(20)
    scorer = added(kind, samples)
    expected = torch.stack([plain(kind, scorer, samples, module) for module in range(len(SHAPES))])
    assert scorer.samples == 20
    assert deviation(scorer.scores(), expected) <= FP32
    assert deviation(scorer.scores() * (1 + PERTURBED), expected) > FP32
    assert deviation(added(kind, draws(20, seed=1)).scores(), expected) > FP32


@every_kind
def test_fold_scores_use_their_samples(kind: Score) -> None:
    samples = draws(24)
    found = added(kind, samples)
    halves = [add(make_scorer(kind, SHAPES, CPU, seed=0), samples, folds=half) for half in ((0, 1), (2, 3))]
    assert deviation(found.scores((0, 1)), halves[0].scores()) <= FP32
    assert deviation(found.scores((2, 3)), halves[1].scores()) <= FP32
    assert deviation(found.scores((0, 1)), halves[1].scores()) > FP32


@every_kind
def test_bin_scores_use_their_samples(kind: Score) -> None:
    samples = draws(24)
    found = added(kind, samples, bins=[0] * 12 + [2] * 12)
    alone = added(kind, samples[:12], bins=[0] * 12)
    if kind == "signal":  # whose moments are over all bins
        for own, all_bins in zip((*alone._moments_left, *alone._moments_right),
                                  (*found._moments_left, *found._moments_right), strict=True):
            own.copy_(all_bins / 2)
    assert deviation(found.scores(bins=(0,)), alone.scores()) <= FP32
    assert deviation(found.scores(bins=(2,)), alone.scores()) > FP32


@every_kind
def test_empty_bin_scores_zero(kind: Score) -> None:
    scorer = added(kind, draws(8), bins=[0] * 8)
    assert scorer.scores(bins=(2,)).tolist() == [0.0, 0.0, 0.0]
    assert all(score != 0 for score in scorer.scores(bins=(0,)).tolist())


@pytest.mark.parametrize("kind", ["signal", "gain"])
def test_pure_noise_scores_nothing(kind: Score) -> None:
    with_common, without = (added(kind, draws(200, common)).scores() for common in (1.0, 0.0))
    assert (without.abs() < 0.1 * with_common).all()


@pytest.mark.parametrize("kind", ["gradient_norm", "gradient_norm_per_size", "fisher"])
def test_norms_count_noise_too(kind: Score) -> None:
    with_common, without = (added(kind, draws(200, common)).scores() for common in (1.0, 0.0))
    assert (without > 0.3 * with_common).all()


def scaled(samples: list[list[Factors]], module: int, factor: float) -> list[list[Factors]]:
    """Scale the gradients of one module."""
    return [[(gradient_NO * (factor if index == module else 1), input_NI)
             for index, (gradient_NO, input_NI) in enumerate(factors)] for factors in samples]


@every_kind
def test_only_signal_ignores_gradient_scale(kind: Score) -> None:
    samples = draws(20)
    usual, other = added(kind, samples).scores(), added(kind, scaled(samples, 1, 1000.0)).scores()
    assert (deviation(other, usual) <= FP32) == (kind == "signal")


def test_signal_discounts_a_dominant_direction() -> None:
    """A shift of all positions has a large mean, but a much larger variation between samples."""
    samples = draws(100, common=0.0)
    direction = torch.ones(1, SHAPES[0][1])
    shakes = [5 * (1 + torch.randn(1, SHAPES[0][0], generator=rng.generator(number)))
              for number in range(len(samples))]
    shaken = [[(torch.cat((factors[0][0], shake)), torch.cat((factors[0][1], direction))), *factors[1:]]
              for shake, factors in zip(shakes, samples, strict=True)]
    found = {kind: added(kind, shaken).scores() / added(kind, draws(100)).scores() for kind in ("signal", "gain")}
    assert found["gain"][0] > 20 * found["signal"][0]


@every_kind
def test_zero_gradient_scores_zero(kind: Score) -> None:
    found = added(kind, scaled(draws(8), 0, 0.0)).scores()
    assert float(found[0]) == 0.0
    assert found.isfinite().all()


@every_kind
def test_restored_state_continues_bit_identically(kind: Score, tmp_path: Path) -> None:
    samples, path = draws(20), tmp_path / "state"
    write_tensors(path, added(kind, samples[:7]).state_dict())
    again = make_scorer(kind, SHAPES, CPU, seed=0)
    again.load_state_dict(read_tensors(path))
    assert again.samples == 7
    add(again, samples[7:])
    undisturbed = added(kind, samples)
    assert torch.equal(again.scores(), undisturbed.scores())
    assert torch.equal(again.counts_FK, undisturbed.counts_FK)


@every_kind
def test_state_of_another_scorer_is_refused(kind: Score) -> None:
    scorer = added(kind, draws(4))
    before = {name: tensor.clone() for name, tensor in scorer.state_dict().items()}
    others: list[dict[str, Tensor]] = [{}, make_scorer(kind, SHAPES[:2], CPU, seed=0).state_dict(),
                                       {**before, "total.1": torch.zeros(3)}]
    for saved in others:
        with pytest.raises(BadTensorFile, match="other sums"):
            scorer.load_state_dict(saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in scorer.state_dict().items())


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_gradient_is_not_counted(kind: Score, value: float) -> None:
    scorer = added(kind, draws(4))
    before = scorer.scores()
    (factors,) = scaled(draws(1, seed=1), 2, value)
    for module, (gradient_NO, input_NI) in enumerate(factors):
        scorer.observe(module, gradient_NO, input_NI)
    assert not scorer.commit(0, 0)
    assert scorer.samples == 4
    assert torch.equal(scorer.scores(), before)


def test_seed_changes_the_sketch() -> None:
    one, other = (SignalScorer(SHAPES, CPU, seed) for seed in (0, 1))
    assert not torch.equal(one._left[80], other._left[80])
    assert not torch.equal(one._left[40], one._right[40])
    for side in (one._left, one._right):
        for width, directions in side.items():
            assert directions.shape == (width, min(64, width))
            assert torch.allclose(directions.T @ directions, torch.eye(directions.shape[1]), atol=FP32)
