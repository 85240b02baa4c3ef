"""Agreement of rankings and of selections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import ConfigError
from .result import Estimate


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, -1 to 1; ties share the mean of their ranks.

    0 if all values of a list are equal.
    """
    one, other = _ranks(first), _ranks(second)
    mean = (len(one) - 1) / 2
    product = sum((a - mean) * (b - mean) for a, b in zip(one, other, strict=True))
    spread = sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in other)
    return product / spread**0.5 if spread > 0 else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for index in order[start:stop]:
            ranks[index] = (start + stop - 1) / 2
        start = stop
    return ranks


def jaccard(first: Iterable[str], second: Iterable[str]) -> float:
    """Return the size of the intersection over that of the union, 0 to 1; 1 if both are empty."""
    one, other = set(first), set(second)
    return len(one & other) / len(one | other) if one | other else 1.0


def agreement(first: Estimate, second: Estimate) -> float:
    """Return the rank correlation over the modules of both; ConfigError if they share fewer than two."""
    other = {score.module: score.mean for score in second.scores}
    shared = [(score.mean, other[score.module]) for score in first.scores if score.module in other]
    if len(shared) < 2:
        raise ConfigError(f"The estimates share {len(shared)} module(s), too few to compare. Were they made for "
                          "models of one size?")
    return spearman(*zip(*shared, strict=True))
