"""The mathematics of flow matching as ACE-Step 1.5 uses it: pure functions, random only through a torch.Generator.

Shapes: B batch, T latent frame (25 per second), C latent channel (64).
Time t runs from 0 (the recording) to 1 (noise):  x_t = t * noise + (1 - t) * x0,  and the model predicts noise - x0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

FRAMES_PER_SECOND = 25

HELDOUT_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where the held-out loss is measured: fine texture (0.1) to overall structure (0.9)."""


@dataclass(frozen=True, kw_only=True)
class TimestepLaw:
    """How training times are drawn: the larger of two logit-normal draws.

    The model's own law (ace-step/ACE-Step-1.5 `sample_t_r`: two independent sigmoid(N(mu, sigma)), of which t is the
    larger; without mean flow r is set to t).  With mu -0.4 and sigma 1.0 the mean of t is 0.53.
    """

    mu: float = -0.4
    sigma: float = 1.0


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
    """Times in (0, 1), float32 [B], by the law."""
    draws = torch.randn(2, count, generator=random) * law.sigma + law.mu
    return torch.sigmoid(draws).amax(dim=0)


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


def drop_conditions(count: int, ratio: float, random: torch.Generator) -> Tensor:
    """Which samples train unconditionally (classifier-free guidance dropout): bool [B], true with chance `ratio`."""
    return torch.rand(count, generator=random) < ratio


def crop_start(frames: int, window: int, random: torch.Generator) -> int:
    """First frame of a uniformly random window; 0 when the song is not longer than the window."""
    if frames <= window:
        return 0
    return int(torch.randint(frames - window + 1, (), generator=random))


def context_latents(source_BTC: Tensor) -> Tensor:
    """What the decoder is told about the output: source latents, and a mask of ones (make all of it), [B, T, 128]."""
    return torch.cat((source_BTC, torch.ones_like(source_BTC)), dim=-1)
