"""The tempo atom: found in every size of atom, and never in a file that is cut off or lies about its sizes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.audio.mp4 import tempo


def atom(name: bytes, content: bytes, *, long: bool = False) -> bytes:
    if long:
        return struct.pack(">I", 1) + name + struct.pack(">Q", 16 + len(content)) + content
    return struct.pack(">I", 8 + len(content)) + name + content


def song(number: bytes, *, long: bool = False) -> bytes:
    data = atom(b"data", struct.pack(">II", 21, 0) + number)
    tags = atom(b"ilst", atom(b"\xa9nam", atom(b"data", b"\0" * 8 + b"tmpo")) + atom(b"tmpo", data))
    index = atom(b"moov", atom(b"mvhd", b"\0" * 100) + atom(b"udta", atom(b"meta", b"\0" * 4 + tags)), long=long)
    return atom(b"ftyp", b"M4A ") + atom(b"mdat", b"\0" * 99, long=long) + index


@pytest.mark.parametrize(("number", "expected"), [
    (b"\x80", 128), (b"\0\x80", 128), (b"\0\0\0\x80", 128), (b"\x01\x2c", 300), (b"\0\0", None), (b"", None),
])  # fmt: skip
@pytest.mark.parametrize("long", [False, True])
def test_tempo_of_any_size(tmp_path: Path, number: bytes, expected: int | None, long: bool) -> None:
    (tmp_path / "a.m4a").write_bytes(song(number, long=long))
    assert tempo(tmp_path / "a.m4a") == expected


@pytest.mark.parametrize("without", [b"moov", b"udta", b"meta", b"ilst", b"data"])
def test_missing_atom_means_no_tempo(tmp_path: Path, without: bytes) -> None:
    (tmp_path / "a.m4a").write_bytes(song(b"\0\x80").replace(without, b"free"))
    assert tempo(tmp_path / "a.m4a") is None


@given(at=st.integers(0, 330), value=st.integers(0, 255), cut=st.integers(0, 330))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_damaged_files_are_harmless(tmp_path_factory: pytest.TempPathFactory, at: int, value: int,
                                    cut: int) -> None:
    content = bytearray(song(b"\0\x80"))
    content[at % len(content)] = value
    path = tmp_path_factory.mktemp("mp4") / "a.m4a"
    path.write_bytes(content)
    assert tempo(path) is None or tempo(path) > 0
    path.write_bytes(content[:cut % len(content)])
    assert tempo(path) is None


def test_number_of_atoms_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(atom(b"free", b"") * 100_000 + song(b"\0\x80"))
    assert tempo(tmp_path / "a.m4a") is None
    (tmp_path / "a.m4a").write_bytes(atom(b"free", b"") * 10_000 + song(b"\0\x80"))
    assert tempo(tmp_path / "a.m4a") == 128
