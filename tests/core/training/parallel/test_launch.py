"""A training that starts a process on each further device: two on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sidestep_core.adapters.file import Adapter
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.device import devices_like
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress, Report, ignore
from sidestep_core.training import run_checkpoint
from sidestep_core.training.parallel import launch
from sidestep_core.training.parallel.job import Job
from sidestep_core.training.parallel.launch import followed, train_on_devices
from sidestep_core.training.parallel.ranks import RankLost
from tests.tiny import TinySource, write_dataset
from tests.training import CONFIG, same_tensors, stop_at

LOHA = LohaConfig(rank=4, alpha=8.0, dropout=0.1)
ALL = replace(CONFIG, devices="all")
Train = Callable[..., Adapter]


@pytest.fixture(autouse=True)
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDESTEP_CPU_DEVICES", "2")
    # The same sums in the other process, which takes as many threads as it may.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("songs") / "dataset", checkpoint, (20, 31, 20), windows=())


@pytest.fixture
def train(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> Train:
    """Train in a folder of this name, on both devices."""
    def run(name: str, report: Report = ignore, **changes: Any) -> Adapter:
        return train_on_devices(TinySource(Path(), []), checkpoint, dataset, LOHA, replace(ALL, **changes),
                                tmp_path / name / "run", tmp_path / name / "a.safetensors", report=report)

    return run


def followers() -> list[psutil.Process]:
    """Processes of further devices among this one's children; other tests' have other command lines."""
    return [child for child in psutil.Process().children() if launch._CODE in words(child)]


def words(process: psutil.Process) -> list[str]:
    """Command line of a process; empty if it has ended, as others of this process's children may have."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


@pytest.mark.slow
def test_all_devices_equal_one(train: Train, tmp_path: Path) -> None:
    """The leader reports its own passes, half of all, and its messages; nobody is left afterwards."""
    seen: list[Progress] = []
    one, both = train("one", devices="one"), train("all", seen.append)
    assert same_tensors(one.path, both.path)
    assert not same_tensors(one.path, tmp_path / "one" / "run" / "checkpoint-step-4" / "adapter.safetensors")
    assert seen[0].message == "Starting the training on 2 devices"
    assert sum(p.stage == "train" and not (p.metrics or p.message or p.saved) for p in seen) >= CONFIG.max_steps
    assert followers() == []
    assert train("all", seen.append) == both  # finished: no process is started for it
    assert sum(p.message == "Starting the training on 2 devices" for p in seen[1:]) < len(seen)


@pytest.mark.slow
def test_dead_process_is_named_and_continued(train: Train, tmp_path: Path) -> None:
    def kill(progress: Progress) -> None:
        if progress.stage == "train" and progress.step == 3 and not progress.metrics:
            [other] = followers()
            other.kill()

    with pytest.raises(RankLost, match="The process on cpu has ended with code .*Step 3 is kept"):
        train("all", kill)
    assert followers() == []
    assert run_checkpoint.newest_step(tmp_path / "all" / "run") == 3
    assert same_tensors(train("all", devices="one").path, train("one", devices="one").path)


@pytest.mark.slow
def test_stop_keeps_and_ends_all(train: Train, tmp_path: Path) -> None:
    with pytest.raises(Cancelled, match="Stopped after step 2 of 6"):
        train("all", stop_at(2, Cancelled("Stopped.")))
    assert followers() == []
    assert run_checkpoint.newest_step(tmp_path / "all" / "run") == 2
    assert same_tensors(train("all").path, train("one", devices="one").path)


@pytest.mark.slow
def test_failed_start_has_its_own_words(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    job = Job(checkpoint=checkpoint, dataset=dataset.folder, adapter=LOHA, config=ALL, folder=tmp_path,
              start_from=None)
    devices = torch.device("cpu"), torch.device("cuda", 99)
    with pytest.raises(RankLost, match="The process on cuda:99 has failed: device 'cuda:99' is not available here"), \
            followed(job, devices, ignore):
        pytest.fail("No process has joined.")


def test_job_file_is_lossless(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    for start_from in (None, tmp_path / "a.safetensors"):
        job = Job(checkpoint=checkpoint, dataset=dataset.folder, adapter=LOHA, config=ALL, folder=tmp_path,
                  start_from=start_from)
        job.write(tmp_path / "job.json")
        assert Job.read(tmp_path / "job.json") == job


def test_one_card_is_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    names = [str(device) for device in devices_like(torch.device("cuda", 1))]
    assert names == ["cuda:1", "cuda:0", "cuda:2"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices_like(torch.device("cuda")) == (torch.device("cuda", 0),)
    monkeypatch.delenv("SIDESTEP_CPU_DEVICES")
    assert devices_like(torch.device("cpu")) == (torch.device("cpu"),)
