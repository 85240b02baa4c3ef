"""Fingerprints are stable, and differ between values."""

from __future__ import annotations

import pytest

from sidestep_core.io.hashing import fingerprint


def test_fingerprint_is_stable() -> None:
    """Datasets and runs on disk are found by it."""
    assert fingerprint("a", 1, [2.5, None], {"b": True}) == "423960f9b84848b0"


def test_fingerprint_depends_on_every_part() -> None:
    values = [(), ("",), ("a",), ("a", "b"), ("ab",), (["a", "b"],), (1,), (1.0,), ("1",), (None,), ({"a": 1},)]
    assert len({fingerprint(*parts) for parts in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_fingerprint_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(float("nan"))
