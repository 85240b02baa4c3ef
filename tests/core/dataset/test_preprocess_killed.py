"""Preprocessing that is killed, or that the disk stops: the next run finishes, and nothing shows that anything was.

Each process preprocesses the same songs, and is killed from outside, as the system kills; half of the kills wait until
a file is being written.  The processes are forked off one that has loaded torch, which else takes most of the time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.dataset.preprocess import Preprocessed, preprocess
from sidestep_core.errors import DatasetError
from sidestep_core.io import atomic
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.songs.scan import find_songs
from tests.core.dataset.test_preprocess import contents, write_song
from tests.tiny import TinySource

KILLS, TIMES = 20, 4
"""In all, and of each folder before it is finished."""
SONGS = 8
CONFIG = PreprocessConfig(trigger_word="zxq", tile_seconds=1.0)
NURSERY = """
import json, os, sys
from pathlib import Path
import torch
import transformers.models.qwen2.tokenization_qwen2
torch.set_num_threads(1)
from tests.core.dataset.test_preprocess_killed import preprocess_in, open_parts
songs, parts, tokenizer = map(Path, json.loads(sys.argv[1]))
checkpoint = open_parts(parts)
for line in sys.stdin:
    child = os.fork()
    if not child:
        preprocess_in(songs, checkpoint, tokenizer, Path(line.strip()))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


def open_parts(folder: Path) -> Checkpoint:
    """The tiny checkpoint that the fixture wrote there."""
    return open_checkpoint(folder / "acestep_v1.5_tiny_turbo.safetensors",
                           text_encoder=folder / "qwen_tiny_ace15.safetensors",
                           vae=folder / "ace_1.5_tiny_vae.safetensors")


def preprocess_in(songs: Path, checkpoint: Checkpoint, tokenizer: Path, dataset: Path) -> Preprocessed:
    return preprocess(TinySource(tokenizer, []), checkpoint, find_songs(songs).songs, dataset, CONFIG, device="cpu")


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    folder.mkdir()
    for number in range(SONGS):
        write_song(folder / f"{number}.wav", 1.2 + number / 4, pitch=300.0 + number)
        (folder / f"{number}.txt").write_text(f"caption: song {number}\ngenre: jazz\n", encoding="utf-8")
    return folder


class Nursery:
    """A process that makes processes which preprocess."""

    def __init__(self, songs: Path, checkpoint: Checkpoint, tokenizer: Path) -> None:
        places = json.dumps([str(songs), str(checkpoint.model[0].parent), str(tokenizer)])
        self.process = subprocess.Popen([sys.executable, "-c", NURSERY, places], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])

    def begin(self, dataset: Path) -> int:
        """Id of a process that has begun to preprocess into this folder."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{dataset}\n")
        self.process.stdin.flush()
        return int(self.line())

    def kill(self, child: int) -> None:
        """It has ended by itself at the latest when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        assert self.line() == "ended\n"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        self.process.communicate()


def wait_for_a_write(folder: Path, patience: float) -> bool:
    """Return True if a file is being written within that time."""
    ends = time.monotonic() + patience
    while time.monotonic() < ends:
        if folder.is_dir() and any(path.suffix == ".tmp" for path in folder.iterdir()):
            return True
    return False


def test_killed_preprocessing_resumes(songs: Path, checkpoint: Checkpoint, tokenizer_folder: Path,
                                      tmp_path: Path) -> None:
    for folder in ("first", "undisturbed"):
        begun = time.monotonic()
        preprocess_in(songs, checkpoint, tokenizer_folder, tmp_path / folder)
        whole = time.monotonic() - begun
    undisturbed = contents(tmp_path / "undisturbed")
    chance = random.Random(4)
    unfinished = in_writes = 0
    nursery = Nursery(songs, checkpoint, tokenizer_folder)
    for number in range(KILLS):
        dataset = tmp_path / f"killed{number // TIMES}"
        child = nursery.begin(dataset)
        time.sleep(chance.uniform(0, whole / 3))
        if number % 2:
            wait_for_a_write(dataset, whole)
        nursery.kill(child)
        leftovers = list(dataset.glob(".*.tmp"))
        in_writes += bool(leftovers)
        unfinished += not (dataset / "manifest.json").is_file()
        if number % TIMES == TIMES - 1:
            preprocess_in(songs, checkpoint, tokenizer_folder, dataset)
            assert contents(dataset) == undisturbed, f"after kill {number}, which left {leftovers}"
    nursery.close()
    assert unfinished > KILLS // 2, "hardly a process was at work when it was killed"
    assert in_writes > 0, "no process was killed while it wrote"


def full_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full from the write after so many."""
    real, done = atomic._flush_to_disk, [0]

    def flush(path: Path) -> None:
        done[0] += 1
        if done[0] > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(atomic, "_flush_to_disk", flush)


def test_full_disk_keeps_finished_files(songs: Path, checkpoint: Checkpoint, tokenizer_folder: Path,
                                        tmp_path: Path) -> None:
    preprocess_in(songs, checkpoint, tokenizer_folder, tmp_path / "undisturbed")
    undisturbed = contents(tmp_path / "undisturbed")
    for writes in (0, 1, SONGS, SONGS + 3, len(undisturbed) - 2, len(undisturbed) - 1):
        dataset = tmp_path / f"full{writes}"
        with pytest.MonkeyPatch.context() as patch:
            full_after(writes, patch)
            with pytest.raises(DatasetError, match=r"could not be written \(No space left on device\).*is kept\. Prep"):
                preprocess_in(songs, checkpoint, tokenizer_folder, dataset)
        written = contents(dataset) if dataset.exists() else {}
        assert written.items() <= undisturbed.items()
        assert len(written) == writes
        preprocess_in(songs, checkpoint, tokenizer_folder, dataset)
        assert contents(dataset) == undisturbed


def test_full_disk_keeps_the_old_dataset(songs: Path, checkpoint: Checkpoint, tokenizer_folder: Path,
                                         tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = preprocess_in(songs, checkpoint, tokenizer_folder, tmp_path / "dataset").dataset
    write_song(songs / "new.wav", 1.5, pitch=999.0)
    full_after(1, monkeypatch)
    with pytest.raises(DatasetError, match="No space left"):
        preprocess_in(songs, checkpoint, tokenizer_folder, tmp_path / "dataset")
    assert open_dataset(tmp_path / "dataset") == before
    assert before.is_whole()
