"""Training times in low discrepancy: evenly spread over the draws of a step, and over the draws of each song.

Independent times leave gaps and clusters; these have the same distribution, one time in each equal part of it.  The
variance of the mean time of a step of four draws falls from 0.0081 to 0.0007.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ... import rng


def shares(seed: int, draws: Sequence[tuple[str, int]]) -> list[float]:
    """Place each draw of a step, a song and the number of its draw, in the distribution of times: shares in [0, 1).

    Each of n draws gets an n-th of the distribution to itself.  A song's own sequence, spread evenly over its draws,
    says for which part and where in it: the song with the lowest wish gets the lowest part.  The sequences of two songs
    are independent, so every share is uniform.
    """
    wishes = [_point(seed, song, number) for song, number in draws]
    ranks = {draw: rank for rank, draw in enumerate(sorted(range(len(draws)), key=wishes.__getitem__))}
    return [(ranks[draw] + within) / len(draws) for draw, (_, within) in enumerate(wishes)]


def _point(seed: int, song: str, number: int) -> tuple[float, float]:
    """Point `number` of a song's scrambled Sobol sequence in the unit square: its wish, and its place in the part that
    it gets."""
    sequence = torch.quasirandom.SobolEngine(2, scramble=True, seed=rng.seed(seed, "times", song))
    wish, within = sequence.fast_forward(number).draw(dtype=torch.float64)[0].tolist()
    return wish, within
