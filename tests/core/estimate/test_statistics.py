"""Agreement of rankings and of selections."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sidestep_core import rng
from sidestep_core.errors import ConfigError
from sidestep_core.estimate.result import Estimate, ModuleScore
from sidestep_core.estimate.statistics import agreement, jaccard, spearman
from tests.tolerance import FP64

ESTIMATE = Estimate(scores=(ModuleScore(module="layers.3.self_attn.q_proj", mean=0.5),
                            ModuleScore(module="layers.0.mlp.up_proj", mean=0.25)), score="signal")


def plain_spearman(first: list[float], second: list[float]) -> float:
    """Compute Pearson's correlation of the ranks, ties sharing their mean."""
    def ranks(values: list[float]) -> torch.Tensor:
        each = torch.tensor(values, dtype=torch.float64)
        return (each[:, None] > each).double().sum(1) + (each[:, None] == each).double().sum(1) / 2

    return float(torch.corrcoef(torch.stack((ranks(first), ranks(second))))[0, 1])


@pytest.mark.parametrize("values", [3, 1000])
@pytest.mark.parametrize("length", [2, 7, 192])
def test_spearman_correlates_the_ranks(length: int, values: int) -> None:
    """Three values give many ties."""
    random = rng.generator("spearman", length, values)
    one, other = (torch.randint(values, (length,), generator=random) for _ in range(2))
    one[0], other[0] = values, values  # never all equal
    first, second = one.double().tolist(), (other + one / 2).double().tolist()
    assert spearman(first, second) == pytest.approx(plain_spearman(first, second), abs=FP64)
    assert spearman(first, first) == pytest.approx(1.0, abs=FP64)
    assert spearman(first, [-value for value in first]) == pytest.approx(-1.0, abs=FP64)


def test_spearman_uses_only_the_order() -> None:
    assert spearman([1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 1e6, 1e300]) == 1.0
    assert spearman([1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 1e300, 1e6]) == pytest.approx(0.8)


def test_constant_list_has_no_correlation() -> None:
    assert spearman([1.0, 1.0], [1.0, 2.0]) == 0.0
    assert spearman([], []) == 0.0


def test_jaccard_is_intersection_over_union() -> None:
    assert jaccard("abc", "bcd") == 0.5
    assert jaccard("ab", "ba") == 1.0
    assert jaccard("a", "b") == 0.0
    assert jaccard("", "") == 1.0


def test_agreement_uses_shared_modules() -> None:
    more = replace(ESTIMATE, scores=(*reversed(ESTIMATE.scores), ModuleScore(module="layers.9.mlp.up_proj", mean=5.0)))
    assert agreement(ESTIMATE, more) == 1.0
    with pytest.raises(ConfigError, match="share 1 module"):
        agreement(ESTIMATE, replace(ESTIMATE, scores=ESTIMATE.scores[:1]))
