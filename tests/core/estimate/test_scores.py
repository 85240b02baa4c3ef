"""What is added up over gradients, and every score of it, against the same written out plainly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.estimate.result import Score
from sidestep_core.estimate.scores import DAMPING, EVERY_QUARTER, GradientSums, Signals, sums_of
from sidestep_core.io.tensors import BadTensorFile, read_tensors, write_tensors
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
SHAPES = ((24, 40), (80, 40), (40, 96))
"""Also wider than what a gradient is projected to."""
KINDS: tuple[Score, ...] = ("signal", "gain", "gradient_norm", "gradient_norm_per_size", "fisher")
every_kind = pytest.mark.parametrize("kind", KINDS)

Factors = tuple[Tensor, Tensor]
"""Of a gradient [out, in]: that of the output [N, out] and the input [N, in]."""


def draws(samples: int, common: float = 0.5, seed: int = 0) -> list[list[Factors]]:
    """Random factors for every module of each sample; `common` is in every sample's gradient."""
    random = rng.generator("gradients", seed)
    shared = [(torch.randn(2, out, generator=random), torch.randn(2, into, generator=random)) for out, into in SHAPES]
    return [[(torch.cat((torch.randn(5, out, generator=random), common * one)),
              torch.cat((torch.randn(5, into, generator=random), other)))
             for (out, into), (one, other) in zip(SHAPES, shared, strict=True)] for _ in range(samples)]


def add(sums: GradientSums, samples: list[list[Factors]], spans: list[int] | None = None,
        quarters: Sequence[int] = EVERY_QUARTER) -> GradientSums:
    """Go on counting, by turns in each quarter, and leave out those of other quarters than these."""
    for step, factors in enumerate(samples, sums.samples):
        if step % 4 in quarters:
            for module, (gradient_NO, input_NI) in enumerate(factors):
                sums.listen(module, gradient_NO, input_NI)
            assert sums.commit(step % 4, spans[step] if spans else step % 3)
    return sums


def added(kind: Score, samples: list[list[Factors]], spans: list[int] | None = None) -> GradientSums:
    return add(sums_of(kind, SHAPES, CPU, seed=0), samples, spans)


def gradients(samples: list[list[Factors]], module: int) -> Tensor:
    """[sample, out, in], float64."""
    return torch.stack([(factors[module][0].T.double() @ factors[module][1].double()) for factors in samples])


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0) ** exponent) @ vectors.T


def agreed(matrices: Tensor) -> Tensor:
    """Mean product of the means of two quarters, of matrices that go by turns into four."""
    means = [matrices[quarter::4].mean(0) for quarter in range(4)]
    return torch.stack([(one * other).sum() for one, other in combinations(means, 2)]).mean()


def plain(kind: Score, sums: GradientSums, samples: list[list[Factors]], module: int) -> Tensor:
    """The score, from the whole gradients."""
    every = gradients(samples, module)
    if kind == "gain":
        return agreed(every @ sums.down[SHAPES[module][1]].T.double())
    if kind == "signal":
        left, right = (side[width].double() for side, width in zip((sums._left, sums._right), SHAPES[module],
                                                                   strict=True))
        seen = left.T @ every @ right
        rows, columns = (seen @ seen.mT).mean(0), (seen.mT @ seen).mean(0)
        sides = [power(sizes + DAMPING * sizes.trace() / len(sizes) * torch.eye(len(sizes)), -0.25)
                 for sizes in (rows, columns)]
        return agreed(sides[0] @ seen @ sides[1])
    if kind == "fisher":
        return every.square().mean()
    lengths = every.flatten(1).norm(dim=1).mean()
    return lengths if kind == "gradient_norm" else lengths / every[0].numel() ** 0.5


@every_kind
def test_every_score_is_what_it_says(kind: Score) -> None:
    samples = draws(20)
    sums = added(kind, samples)
    expected = torch.stack([plain(kind, sums, samples, module) for module in range(len(SHAPES))])
    assert sums.samples == 20
    assert deviation(sums.scores(), expected) <= FP32
    assert deviation(sums.scores() * (1 + PERTURBED), expected) > FP32
    assert deviation(added(kind, draws(20, seed=1)).scores(), expected) > FP32


@every_kind
def test_the_scores_of_two_quarters_are_those_of_their_samples(kind: Score) -> None:
    samples = draws(24)
    found = added(kind, samples)
    halves = [add(sums_of(kind, SHAPES, CPU, seed=0), samples, quarters=half) for half in ((0, 1), (2, 3))]
    assert deviation(found.scores((0, 1)), halves[0].scores()) <= FP32
    assert deviation(found.scores((2, 3)), halves[1].scores()) <= FP32
    assert deviation(found.scores((0, 1)), halves[1].scores()) > FP32


@every_kind
def test_the_score_of_a_span_is_that_of_its_samples(kind: Score) -> None:
    samples = draws(24)
    found = added(kind, samples, spans=[0] * 12 + [2] * 12)
    alone = added(kind, samples[:12], spans=[0] * 12)
    if kind == "signal":  # which measures by what samples of every span vary
        for own, all_spans in zip((*alone._sizes_left, *alone._sizes_right),
                                  (*found._sizes_left, *found._sizes_right), strict=True):
            own.copy_(all_spans / 2)
    assert deviation(found.scores(spans=(0,)), alone.scores()) <= FP32
    assert deviation(found.scores(spans=(2,)), alone.scores()) > FP32


@every_kind
def test_a_span_without_samples_has_score_zero(kind: Score) -> None:
    sums = added(kind, draws(8), spans=[0] * 8)
    assert sums.scores(spans=(2,)).tolist() == [0.0, 0.0, 0.0]
    assert all(score != 0 for score in sums.scores(spans=(0,)).tolist())


@pytest.mark.parametrize("kind", ["signal", "gain"])
def test_gradients_that_agree_on_nothing_have_no_score_however_large(kind: Score) -> None:
    with_common, without = (added(kind, draws(200, common)).scores() for common in (1.0, 0.0))
    assert (without.abs() < 0.1 * with_common).all()


@pytest.mark.parametrize("kind", ["gradient_norm", "gradient_norm_per_size", "fisher"])
def test_lengths_do_not_know_noise_from_signal(kind: Score) -> None:
    with_common, without = (added(kind, draws(200, common)).scores() for common in (1.0, 0.0))
    assert (without > 0.3 * with_common).all()


def louder(samples: list[list[Factors]], module: int, factor: float) -> list[list[Factors]]:
    """The same with larger gradients in one module."""
    return [[(gradient_NO * (factor if index == module else 1), input_NI)
             for index, (gradient_NO, input_NI) in enumerate(factors)] for factors in samples]


@every_kind
def test_only_signal_takes_no_notice_of_how_large_a_modules_gradients_are(kind: Score) -> None:
    samples = draws(20)
    usual, other = added(kind, samples).scores(), added(kind, louder(samples, 1, 1000.0)).scores()
    assert (deviation(other, usual) <= FP32) == (kind == "signal")


def test_signal_takes_little_notice_of_one_direction_in_which_everything_varies() -> None:
    """Such as a shift of all positions: much of it is agreed on, but much less than single samples have of it."""
    samples = draws(100, common=0.0)
    direction = torch.ones(1, SHAPES[0][1])
    shakes = [5 * (1 + torch.randn(1, SHAPES[0][0], generator=rng.generator(number)))
              for number in range(len(samples))]
    shaken = [[(torch.cat((factors[0][0], shake)), torch.cat((factors[0][1], direction))), *factors[1:]]
              for shake, factors in zip(shakes, samples, strict=True)]
    found = {kind: added(kind, shaken).scores() / added(kind, draws(100)).scores() for kind in ("signal", "gain")}
    assert found["gain"][0] > 20 * found["signal"][0]


@every_kind
def test_a_module_without_gradient_has_score_zero(kind: Score) -> None:
    found = added(kind, louder(draws(8), 0, 0.0)).scores()
    assert float(found[0]) == 0.0
    assert found.isfinite().all()


@every_kind
def test_what_is_saved_goes_on_to_the_bit(kind: Score, tmp_path: Path) -> None:
    samples, path = draws(20), tmp_path / "sums"
    write_tensors(path, added(kind, samples[:7]).tensors())
    again = sums_of(kind, SHAPES, CPU, seed=0)
    again.load(read_tensors(path))
    assert again.samples == 7
    add(again, samples[7:])
    undisturbed = added(kind, samples)
    assert torch.equal(again.scores(), undisturbed.scores())
    assert torch.equal(again.counts_QK, undisturbed.counts_QK)


@every_kind
def test_other_sums_are_refused_before_anything_changes(kind: Score) -> None:
    sums = added(kind, draws(4))
    before = {name: tensor.clone() for name, tensor in sums.tensors().items()}
    others: list[dict[str, Tensor]] = [{}, sums_of(kind, SHAPES[:2], CPU, seed=0).tensors(),
                                       {**before, "total.1": torch.zeros(3)}]
    for saved in others:
        with pytest.raises(BadTensorFile, match="other sums"):
            sums.load(saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in sums.tensors().items())


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_counted(kind: Score, value: float) -> None:
    sums = added(kind, draws(4))
    before = sums.scores()
    (factors,) = louder(draws(1, seed=1), 2, value)
    for module, (gradient_NO, input_NI) in enumerate(factors):
        sums.listen(module, gradient_NO, input_NI)
    assert not sums.commit(0, 0)
    assert sums.samples == 4
    assert torch.equal(sums.scores(), before)


def test_another_seed_looks_in_other_directions() -> None:
    one, other = (Signals(SHAPES, CPU, seed) for seed in (0, 1))
    assert not torch.equal(one._left[80], other._left[80])
    assert not torch.equal(one._left[40], one._right[40])
    for side in (one._left, one._right):
        for width, directions in side.items():
            assert directions.shape == (width, min(64, width))
            assert torch.allclose(directions.T @ directions, torch.eye(directions.shape[1]), atol=FP32)
