"""Flow matching in ACE-Step 1.5: pure functions, random only through a torch.Generator.

Shapes: B batch, T latent frame (25 per second), C latent channel (64).
Time t runs from 0 (the recording) to 1 (noise):  x_t = t * noise + (1 - t) * x0,  and the model predicts noise - x0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..device import send

FRAMES_PER_SECOND = 25
FRAMES_PER_CODE = 5

HELDOUT_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Times of the held-out loss, from fine texture (0.1) to overall structure (0.9)."""


TIMESTEP_PRESETS = {"detail": (-0.8, 0.8), "structure": (0.0, 0.8), "wide": (-0.4, 1.4), "tight": (-0.2, 0.7)}
"""Mean and deviation of the logit-normal draws, as Side-Step names them."""

_BISECTIONS = 32
"""Halvings after which a time is as exact as float32."""
DISCRETE_STEPS = 8
"""Steps of turbo's sampler, whose times are the discrete ones."""

_WEYL = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: its multiples modulo 2^64 are spread more evenly than any random numbers."""


@dataclass(frozen=True, kw_only=True)
class TimestepDistribution:
    """Distribution of the training times.

    continuous: the larger of two logit-normal draws, the model's own distribution (ace-step/ACE-Step-1.5 `sample_t_r`:
    two independent sigmoid(N(mu, sigma)), of which t is the larger; without mean flow r is set to t).  With mu -0.4 and
    sigma 1.0 the mean of t is 0.53.  logit_normal: one such draw; mean 0.42, so finer texture is trained more.
    discrete: one of the eight times of turbo's sampler.  sampler: anywhere between, as dense as the steps of a sampler
    of many steps.  Both leave mu and sigma unused.
    """

    mode: Literal["continuous", "logit_normal", "discrete", "sampler"] = "continuous"
    mu: float = -0.4
    sigma: float = 1.0
    shifts: tuple[int, ...] = (3,)
    """Shifts of the sampler whose times are trained; each draw takes one."""


def sample_times(distribution: TimestepDistribution, count: int, random: torch.Generator) -> Tensor:
    """Draw times, float32 [B]: in (0, 1), and exactly 1 (pure noise) among the discrete ones."""
    if distribution.mode == "discrete":
        table = torch.tensor([discrete_times(shift) for shift in distribution.shifts]).flatten()
        return table[torch.randint(len(table), (count,), generator=random)]
    if distribution.mode == "sampler":
        return times_at(distribution, torch.rand(count, generator=random, dtype=torch.float64))
    draws = torch.randn(2 if distribution.mode == "continuous" else 1, count, generator=random)
    return torch.sigmoid(draws * distribution.sigma + distribution.mu).amax(dim=0)


def times_at(distribution: TimestepDistribution, share_B: Tensor) -> Tensor:
    """Return the quantiles of the distribution at shares in (0, 1), float32 [B]: evenly spread shares give times of the
    same distribution as `sample_times`."""
    share = share_B.double()
    if distribution.mode == "discrete":
        table = torch.tensor([discrete_times(shift) for shift in distribution.shifts]).flatten().sort().values
        return table[(share * len(table)).long().clamp(max=len(table) - 1)]
    if distribution.mode == "sampler":
        return _shifted_at(distribution.shifts, share).float()
    # Of two independent draws the larger is below t with the square of the probability of one.
    of_one = share.sqrt() if distribution.mode == "continuous" else share
    return torch.sigmoid(torch.special.ndtri(of_one) * distribution.sigma + distribution.mu).float()


def _shifted_at(shifts: tuple[int, ...], share: Tensor) -> Tensor:
    """Return quantiles of the even mixture of even steps warped by each of the shifts; of several by bisection."""
    if len(shifts) == 1:
        return shifts[0] * share / (1 + (shifts[0] - 1) * share)
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        # A step warped to t was even at t / (shift - (shift - 1) t).
        below = torch.stack([middle / (shift - (shift - 1) * middle) for shift in shifts]).mean(0) < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def discrete_times(shift: float) -> tuple[float, ...]:
    """Return the times of turbo's sampler from 1 downwards: eight even steps, warped towards noise by the shift."""
    even = [step / DISCRETE_STEPS for step in range(DISCRETE_STEPS, 0, -1)]
    return tuple(shift * time / (1 + (shift - 1) * time) for time in even)


def noise_like(x0_BTC: Tensor, random: torch.Generator) -> Tensor:
    """Draw standard normal noise of the shape of x0, on the CPU, so that it is equal on every device."""
    return send(torch.randn(x0_BTC.shape, generator=random), x0_BTC.device)


def interpolate(x0_BTC: Tensor, noise_BTC: Tensor, t_B: Tensor) -> Tensor:
    """Return the noisy latents x_t = t * noise + (1 - t) * x0."""
    t_B11 = t_B[:, None, None]
    return t_B11 * noise_BTC + (1 - t_B11) * x0_BTC


def velocity(x0_BTC: Tensor, noise_BTC: Tensor) -> Tensor:
    """Return the training target: d x_t / d t = noise - x0."""
    return noise_BTC - x0_BTC


def loss_per_sample(predicted_BTC: Tensor, target_BTC: Tensor) -> Tensor:
    """Return the mean squared error over frames and channels in float32, [B]."""
    return (predicted_BTC.float() - target_BTC.float()).square().mean(dim=(1, 2))


def loss_weights(t_B: Tensor, weighting: Literal["none", "min_snr", "min_snr_flow"], gamma: float) -> Tensor:
    """Return the weight of the loss at each time, float32 [B].  SNR = ((1 - t) / t)^2.

    min_snr is min(SNR, gamma) / SNR, Side-Step's formula: 1 wherever SNR is below gamma, and lower the cleaner the
    time.  So it damps low times, in which detail is learned (gamma 5: all below 0.31), and never high ones, the
    opposite of its common description.  min_snr_flow is min((1 - t)^2, gamma t^2), the same idea derived for a velocity
    target: the error of the recording is t times that of the velocity, so its square weighted by min(SNR, gamma) gives
    this.  It is 0 at pure noise, where the condition is all that can be learned, and at the recording.
    """
    if weighting == "min_snr":
        return gamma / ((1 - t_B) / t_B).square().clamp(min=gamma)
    if weighting == "min_snr_flow":
        return torch.minimum((1 - t_B).square(), gamma * t_B.square())
    return torch.ones_like(t_B)


def drop_conditions(count: int, ratio: float, random: torch.Generator) -> Tensor:
    """Draw the samples that train unconditionally (classifier-free guidance dropout): bool [B], true with probability
    `ratio`."""
    return torch.rand(count, generator=random) < ratio


def crop_start(frames: int, crop: int, draw: int, offset: int, grid: int = 1) -> int:
    """Return the first frame, a multiple of `grid`, of a song's crop number `draw`; 0 if the song fits into the crop.

    Successive crops spread evenly over the song (a Weyl sequence from `offset`), however many are drawn.  They cover
    the song extended by half a crop at both ends, and are then pushed inside: so the first and last frames are drawn
    at least half as often as the average one, and none more than half as often again.  Uniformly random crops would
    draw the first frame once in as many draws as the song has frames.
    """
    if frames <= crop:
        return 0
    even = (offset + draw * _WEYL) % 2**64
    start = even * frames // 2**64 - crop // 2
    return min(max(start, 0), frames - crop) // grid * grid


def context_latents(source_BTC: Tensor) -> Tensor:
    """Return the decoder's context: source latents, and a mask of ones (generate every frame), [B, T, 128]."""
    return torch.cat((source_BTC, torch.ones_like(source_BTC)), dim=-1)
