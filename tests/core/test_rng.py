"""Random numbers are a pure function of their name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core import rng
from tests.tolerance import SAMPLED

DRAWS = 5000

names = st.lists(st.integers(-5, 5) | st.text("abc ,'", max_size=3), max_size=4).map(tuple)


@given(one=names, other=names)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_seed_depends_on_every_part(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert (rng.seed(*one) == rng.seed(*other)) == (one == other)
    assert 0 <= rng.seed(*one) < 2**63


@pytest.mark.parametrize("other", [(43, "visit", 7), (42, "crop", 7), (42, "visit", 8), (42, 7, "visit"), (42, "visit"),
                                   (42, "visit", "7"), (42, "visit", 7, 0), (42, "visit7")])
def test_other_names_draw_differently(other: tuple[int | str, ...]) -> None:
    same = torch.randn(8, generator=rng.generator(42, "visit", 7))
    assert torch.equal(same, torch.randn(8, generator=rng.generator(42, "visit", 7)))
    assert not torch.equal(same, torch.randn(8, generator=rng.generator(*other)))


def test_seed_is_stable() -> None:
    """A run that was stopped under another version of Python or of this package continues with the same draws."""
    assert rng.seed(42, "visit", 7) == 5967694887128465440


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.5, 1.0])
def test_bernoulli_has_its_probability(ratio: float) -> None:
    happened = torch.tensor([rng.bernoulli(ratio, "genre", visit) for visit in range(DRAWS)])
    assert abs(float(happened.float().mean()) - ratio) < (2 * SAMPLED if 0 < ratio < 1 else 1e-12)
    if 0 < ratio < 1:
        assert abs(float(happened.float().mean()) - ratio - 0.1) > 2 * SAMPLED
        others = torch.tensor([rng.bernoulli(ratio, "codes", visit) for visit in range(DRAWS)])
        both = float((happened & others).float().mean())
        assert abs(both - ratio**2) < 2 * SAMPLED
