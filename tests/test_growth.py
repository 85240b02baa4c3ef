"""The judge of growth tells work in proportion to its size from work by the square of it."""

from __future__ import annotations

from tests.growth import MOST, growth


def linear(size: int) -> None:
    sum(range(size * 100))


def quadratic(size: int) -> None:
    sum(range(size * size))


def test_proportional_work_passes() -> None:
    assert growth(linear, 1000) < MOST


def test_work_by_the_square_fails() -> None:
    assert growth(quadratic, 600) > MOST
