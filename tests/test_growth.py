"""Measured growth separates linear from quadratic work."""

from __future__ import annotations

from tests.growth import MOST, growth


def linear(size: int) -> None:
    sum(range(size * 100))


def quadratic(size: int) -> None:
    sum(range(size * size))


def test_linear_work_passes() -> None:
    assert growth(linear, 1000) < MOST


def test_quadratic_work_fails() -> None:
    assert growth(quadratic, 600) > MOST
