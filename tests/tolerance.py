"""Every tolerance of the tests, by name.  Exactness is tested with torch.equal and needs none."""

from __future__ import annotations

from torch import Tensor

FP32 = 1e-5
"""Two float32 computations of the same thing in a different order; relative to the largest value."""
FP64 = 1e-12
"""Two float64 computations of the same thing; relative to the largest value."""
EFFECT = 1e-3
"""How far the effect of strength 1.0 may be from 1."""
PERTURBED = 10 * FP32
"""What the twin of a tolerance test changes a value by, and must notice."""
BF16 = 2e-2
"""A few bfloat16 operations against float32 ones; relative to the largest value."""
SAMPLED = 0.01
"""A share or a quantile of 20,000 random draws, five standard errors or more."""
COVERED = 3
"""Visits by which a frame may miss the share that its place in the song promises."""
GOLDEN = 1e-6
"""A loss of the golden curve, relative.  Processors sum in different orders, which moves the last bits only."""
MEMORY = 1.2
"""A plan of memory against what is really kept, either way."""
SAME_LOSS = 1e-4
"""Relative; two held-out losses of the same weights, once as trained and once as read from a file of them."""


def deviation(found: Tensor, expected: Tensor) -> float:
    """The largest difference anywhere, relative to the largest expected value."""
    assert found.shape == expected.shape
    exact = expected.detach().double()
    return float((found.detach().double() - exact).abs().max() / exact.abs().max())
