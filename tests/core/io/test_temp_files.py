"""Temporary files are removed once their process has ended, not before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from sidestep_core.io import atomic, temp_files
from sidestep_core.io.tensors import write_tensors

NOW_AND_THEN = temp_files.ABANDONED_SECONDS + 60


@pytest.fixture
def ended() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def of(process: int, host: str = "") -> str:
    own = temp_files.temp_path(Path("x")).name
    return own.replace(own[1:5], host or own[1:5]).replace(str(os.getpid()), str(process))


def made(folder: Path, *names: str, age: float = 0.0) -> None:
    for name in names:
        (folder / name).write_bytes(b"half")
        written = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (written, written))


def left(folder: Path) -> set[str]:
    temp_files.sweep.cache_clear()
    temp_files.sweep(folder)
    return {path.name for path in folder.iterdir()}


def test_files_of_ended_processes_are_swept(tmp_path: Path, ended: int) -> None:
    made(tmp_path, of(ended), "song.wav")
    assert left(tmp_path) == {"song.wav"}


def test_folders_of_ended_processes_are_swept(tmp_path: Path, ended: int) -> None:
    (tmp_path / of(ended) / "inside").mkdir(parents=True)
    assert left(tmp_path) == set()


def test_files_that_may_be_written_stay(tmp_path: Path, ended: int) -> None:
    """Files of this process, of a running one, and of another computer."""
    names = {of(os.getpid()), of(os.getppid()), of(ended, host="ffff")}
    made(tmp_path, *names)
    assert left(tmp_path) == names


def test_old_foreign_files_are_swept(tmp_path: Path, ended: int) -> None:
    made(tmp_path, of(os.getppid()), of(ended, host="ffff"), age=NOW_AND_THEN)
    assert left(tmp_path) == set()


def test_other_names_are_never_swept(tmp_path: Path, ended: int) -> None:
    names = {"a.json", ".tmp", ".tmp12", "x.tmp", ".hidden", "tmpabcdef", ".tmpH7N5uQ", f"{of(ended)}.json",
             f"x{of(ended)}"}
    made(tmp_path, *names, age=NOW_AND_THEN)
    assert left(tmp_path) == names


def test_every_write_sweeps_its_folder(tmp_path: Path, ended: int) -> None:
    made(tmp_path, of(ended))
    atomic.write_text(tmp_path / "a.txt", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt"}


def test_tensors_use_our_temporary_names(tmp_path: Path) -> None:
    """safetensors uses its own temporary names, which do not identify the process."""
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.update(path.name for path in tmp_path.iterdir())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(10):
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1_000_000)})
    stop.set()
    watcher.join()
    begun = {name for name in seen if name != "a.safetensors"}
    assert begun
    assert all(re.fullmatch(r"\.[0-9a-f]{4}-\d+-[0-9a-f]{6}\.tmp", name) for name in begun)
