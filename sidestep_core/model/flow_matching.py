"""The mathematics of flow matching as ACE-Step 1.5 uses it: pure functions, random only through a torch.Generator.

Shapes: B batch, T latent frame (25 per second), C latent channel (64).
Time t runs from 0 (the recording) to 1 (noise):  x_t = t * noise + (1 - t) * x0,  and the model predicts noise - x0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FRAMES_PER_SECOND = 25
FRAMES_PER_CODE = 5

HELDOUT_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where the held-out loss is measured: fine texture (0.1) to overall structure (0.9)."""


TIMESTEP_PRESETS = {"detail": (-0.8, 0.8), "structure": (0.0, 0.8), "wide": (-0.4, 1.4), "tight": (-0.2, 0.7)}
"""Side-Step's choices of mean and deviation for the logit-normal draws."""

DISCRETE_STEPS = 8
"""Steps of turbo's sampler, whose times are the discrete ones."""

_WEYL = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: its multiples modulo 2^64 are spread more evenly than any random numbers."""


@dataclass(frozen=True, kw_only=True)
class TimestepLaw:
    """How training times are drawn.

    continuous: the larger of two logit-normal draws, the model's own law (ace-step/ACE-Step-1.5 `sample_t_r`: two
    independent sigmoid(N(mu, sigma)), of which t is the larger; without mean flow r is set to t).  With mu -0.4 and
    sigma 1.0 the mean of t is 0.53.  logit_normal: one such draw; mean 0.42, so finer texture is trained more.
    discrete: one of the eight times at which turbo is sampled; mu and sigma mean nothing.
    """

    mode: Literal["continuous", "logit_normal", "discrete"] = "continuous"
    mu: float = -0.4
    sigma: float = 1.0
    shifts: tuple[int, ...] = (3,)
    """Of the sampler whose times are the discrete ones; of several, each draw takes one."""


def generator(*identity: int | str) -> torch.Generator:
    """A CPU generator seeded by what the draw is for, so that every draw is a pure function of its name.

    Nothing about randomness then needs saving: step 731 of a resumed run draws what step 731 always draws.
    """
    return torch.Generator().manual_seed(seed(*identity))


def seed(*identity: int | str) -> int:
    """63 bits that depend on every part of the identity and on its order."""
    digest = hashlib.sha256(repr(identity).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def sample_times(law: TimestepLaw, count: int, random: torch.Generator) -> Tensor:
    """Times, float32 [B], by the law: in (0, 1), and exactly 1 (pure noise) among the discrete ones."""
    if law.mode == "discrete":
        table = torch.tensor([discrete_times(shift) for shift in law.shifts]).flatten()
        return table[torch.randint(len(table), (count,), generator=random)]
    draws = torch.randn(2 if law.mode == "continuous" else 1, count, generator=random) * law.sigma + law.mu
    return torch.sigmoid(draws).amax(dim=0)


def discrete_times(shift: float) -> tuple[float, ...]:
    """The times of turbo's sampler from 1 downwards: eight even steps, warped towards noise by the shift."""
    even = [step / DISCRETE_STEPS for step in range(DISCRETE_STEPS, 0, -1)]
    return tuple(shift * time / (1 + (shift - 1) * time) for time in even)


def noise_like(x0_BTC: Tensor, random: torch.Generator) -> Tensor:
    """Standard normal noise of the same shape, drawn on the CPU so that every device sees the same."""
    return torch.randn(x0_BTC.shape, generator=random).to(x0_BTC.device)


def interpolate(x0_BTC: Tensor, noise_BTC: Tensor, t_B: Tensor) -> Tensor:
    """The noisy latents x_t = t * noise + (1 - t) * x0."""
    t_B11 = t_B[:, None, None]
    return t_B11 * noise_BTC + (1 - t_B11) * x0_BTC


def velocity(x0_BTC: Tensor, noise_BTC: Tensor) -> Tensor:
    """The training target: d x_t / d t = noise - x0."""
    return noise_BTC - x0_BTC


def loss_per_sample(predicted_BTC: Tensor, target_BTC: Tensor) -> Tensor:
    """Mean squared error over frames and channels in float32, [B]."""
    return (predicted_BTC.float() - target_BTC.float()).square().mean(dim=(1, 2))


def loss_weights(t_B: Tensor, weighting: Literal["none", "min_snr", "min_snr_flow"], gamma: float) -> Tensor:
    """What the loss of each time counts, float32 [B].  SNR = ((1 - t) / t)^2.

    min_snr is min(SNR, gamma) / SNR, Side-Step's formula: 1 wherever SNR is below gamma, and less the cleaner the time
    is.  So it damps low times, in which detail is learned (gamma 5: all below 0.31), and never high ones, the opposite
    of what is often said of it.  min_snr_flow is min((1 - t)^2, gamma t^2), the same idea derived for a velocity
    target: the error of the recording is t times that of the velocity, so its square weighed by min(SNR, gamma) gives
    this.  It is 0 at pure noise, where the condition is all that can be learned, and at the recording.
    """
    if weighting == "min_snr":
        return gamma / ((1 - t_B) / t_B).square().clamp(min=gamma)
    if weighting == "min_snr_flow":
        return torch.minimum((1 - t_B).square(), gamma * t_B.square())
    return torch.ones_like(t_B)


def drop_conditions(count: int, ratio: float, random: torch.Generator) -> Tensor:
    """Which samples train unconditionally (classifier-free guidance dropout): bool [B], true with chance `ratio`."""
    return torch.rand(count, generator=random) < ratio


def happens(ratio: float, *identity: int | str) -> bool:
    """Whether something with this chance happens this time; a pure function of its name."""
    return float(torch.rand((), generator=generator(*identity))) < ratio


def window_start(frames: int, window: int, visit: int, offset: int, grid: int = 1) -> int:
    """First frame, a multiple of `grid`, of the window of a song's visit number `visit`; 0 where the song fits into it.

    Successive windows spread evenly over the song (a Weyl sequence from `offset`), whenever one stops.  They are laid
    over the song extended by half a window at both ends, then pushed inside: so its first and last frames are seen at
    least half as often as the average one, and none more than half as often again.  Uniformly random windows would
    show the first frame once in as many visits as the song has frames.
    """
    if frames <= window:
        return 0
    even = (offset + visit * _WEYL) % 2**64
    start = even * frames // 2**64 - window // 2
    return min(max(start, 0), frames - window) // grid * grid


def context_latents(source_BTC: Tensor) -> Tensor:
    """What the decoder is told about the output: source latents, and a mask of ones (make all of it), [B, T, 128]."""
    return torch.cat((source_BTC, torch.ones_like(source_BTC)), dim=-1)
