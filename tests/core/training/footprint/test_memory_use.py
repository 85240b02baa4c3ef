"""The page learns the memory of the steps where the device reports it."""

from __future__ import annotations

import pytest
import torch

from sidestep_core.training.footprint import memory_use
from sidestep_core.training.footprint.memory_use import MemoryUse

CPU = torch.device("cpu")


def test_unknown_memory_has_no_numbers() -> None:
    use = MemoryUse(CPU, 100)
    with use.watched():
        torch.ones(10)
    assert use.numbers() == {}


def test_largest_peak_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card's counters, which this machine may not have."""
    peaks = iter([70, 50])
    monkeypatch.setattr(memory_use, "total_memory", lambda device: 200)
    monkeypatch.setattr(memory_use, "peak_memory", lambda device: next(peaks))
    use = MemoryUse(CPU, 100)
    assert use.numbers() == {}
    for _ in range(2):
        with use.watched():
            pass
    assert use.numbers() == {"memory_used": 70, "memory_predicted": 100, "memory_total": 200}
