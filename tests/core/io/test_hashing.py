"""Fingerprints are stable, and differ between values."""

from __future__ import annotations

import pytest

from sidestep_core.io.hashing import fingerprint


def test_fingerprints_mean_the_same_for_ever() -> None:
    """Datasets and runs on people's disks are found by them."""
    assert fingerprint("a", 1, [2.5, None], {"b": True}) == "423960f9b84848b0"


def test_fingerprints_change_with_every_part() -> None:
    values = [(), ("",), ("a",), ("a", "b"), ("ab",), (["a", "b"],), (1,), (1.0,), ("1",), (None,), ({"a": 1},)]
    assert len({fingerprint(*parts) for parts in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_a_fingerprint_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(float("nan"))
