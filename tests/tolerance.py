"""Every tolerance of the tests, by name.  Exactness is tested with torch.equal and needs none."""

FP32 = 1e-5
"""Two float32 computations of the same thing in a different order; relative to the largest value."""
EFFECT = 1e-3
"""How far the effect of strength 1.0 may be from 1."""
PERTURBED = 10 * FP32
"""What the twin of a tolerance test changes a value by, and must notice."""
