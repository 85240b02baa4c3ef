"""Tolerances of the tests, by name.  Exact results are compared with torch.equal."""

from __future__ import annotations

from torch import Tensor

FP32 = 1e-5
"""Two float32 computations of the same thing in a different order; relative to the largest value."""
FP64 = 1e-12
"""Two float64 computations of the same thing; relative to the largest value."""
EFFECT = 1e-3
"""Largest deviation of the effect of strength 1.0 from 1."""
PERTURBED = 10 * FP32
"""Change of a value that the twin of a tolerance test must detect."""
BF16 = 2e-2
"""A few bfloat16 operations against float32 ones; relative to the largest value."""
SAMPLED = 0.01
"""A share or a quantile of 20,000 random draws, five standard errors or more."""
COVERED = 3
"""Draws by which a frame may miss its expected share."""
GOLDEN = 1e-6
"""A loss of the golden curve, relative.  Processors sum in different orders, which moves the last bits only."""
MEMORY = 1.2
"""Planned memory against kept memory, as a factor either way."""
SAME_LOSS = 1e-4
"""Two held-out losses of the same weights, in memory and read from a file; relative."""


def deviation(found: Tensor, expected: Tensor) -> float:
    """Compute the largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape
    exact = expected.detach().double()
    return float((found.detach().double() - exact).abs().max() / exact.abs().max())
