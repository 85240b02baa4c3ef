"""Fingerprints are stable, and differ between values."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidestep_core.errors import AdapterError
from sidestep_core.io.hashing import fingerprint, verify_checksums, write_checksums


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


def test_checksums_can_be_written_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    write_checksums(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    with pytest.raises(AdapterError, match="a is not what was written"):
        verify_checksums(tmp_path)
    write_checksums(tmp_path)
    verify_checksums(tmp_path)
