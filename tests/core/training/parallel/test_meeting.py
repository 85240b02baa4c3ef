"""Processes that meet in a store where dead ones have left their words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from sidestep_core.training.parallel.meeting import fresh_part


def test_only_the_living_meet() -> None:
    """Three processes meet twice in one store; each time they share a part that was empty."""
    store = torch.distributed.HashStore()
    store.set("side-step/greeting/1", "dead")
    for start in ("first", "second"):
        with ThreadPoolExecutor(3) as threads:
            parts = [*threads.map(lambda rank: fresh_part(store, rank, 3), range(3))]
        assert not any(part.check(["address"]) for part in parts)
        parts[0].set("address", start)
        assert [part.get("address").decode() for part in parts] == [start] * 3
    assert store.check(["side-step/answer/dead"])
