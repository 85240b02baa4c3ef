"""Reading ahead: whole files while the block works, and nothing after it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sidestep_core.io import read_ahead


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(2500))
    return [tmp_path / "a", tmp_path / "b"]


@pytest.fixture
def read(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every block that is read, once the files are there."""
    assert len(paths) == 2
    blocks: list[int] = []
    opened = Path.open

    class File:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def readinto(self, buffer: bytearray) -> int:
            count: int = self.file.readinto(buffer)
            blocks.append(count)
            time.sleep(0.01)
            return count

    monkeypatch.setattr(read_ahead, "BLOCK", 1000)
    monkeypatch.setattr(Path, "open", lambda path, *args, **more: File(opened(path, *args, **more)))
    return blocks


def wait_for(blocks: list[int], count: int) -> None:
    deadline = time.monotonic() + 20
    while len(blocks) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def test_files_are_read_beside_the_block(paths: list[Path], read: list[int]) -> None:
    with read_ahead.reading(paths, 10**6):
        wait_for(read, 8)
    assert read == [1000, 1000, 500, 0, 1000, 1000, 500, 0]


def test_memory_bounds_what_is_read(paths: list[Path], read: list[int]) -> None:
    with read_ahead.reading(paths, 3000):
        wait_for(read, 2)
        time.sleep(0.1)
    assert read == [1000, 1000]
    read.clear()
    with read_ahead.reading(paths, None):
        time.sleep(0.05)
    assert read == []


def test_leaving_the_block_ends_it(paths: list[Path], read: list[int]) -> None:
    with read_ahead.reading(paths * 100, 10**6):
        wait_for(read, 1)
    assert len(read) < 100
    assert "read-ahead" not in {thread.name for thread in threading.enumerate()}


def test_missing_file_is_left_to_its_reader(tmp_path: Path) -> None:
    with read_ahead.reading([tmp_path / "nowhere"], 10**6):
        pass
