"""Randomness as a pure function of the seed and of its purpose: `generator(seed, "order", epoch)`.

No random state needs saving: step 731 of a resumed run draws the same numbers as step 731 of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def seed(*name: int | str) -> int:
    """Return 63 bits that depend on every part of the name and on their order."""
    digest = hashlib.sha256(repr(name).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*name: int | str) -> torch.Generator:
    """Return a CPU generator seeded by the name."""
    return torch.Generator().manual_seed(seed(*name))


def bernoulli(probability: float, *name: int | str) -> bool:
    """Return True with this probability, decided by the name."""
    return float(torch.rand((), generator=generator(*name))) < probability


@contextlib.contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Restore torch's global generator, which adapter dropout uses, after the block; enable gradients inside it, even
    in a host's inference mode."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
        yield
