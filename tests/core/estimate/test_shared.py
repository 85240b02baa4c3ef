"""Processes that share the samples of an estimate write the file of one."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.estimate import estimate
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress, Report, ignore
from sidestep_core.training.parallel.ranks import joined
from tests import processes
from tests.tiny import TinySource, write_dataset

CONFIG = EstimateConfig(estimate_batches=13, chunk_duration=0, device="cpu")
"""Neither two nor three processes divide the samples."""
SECONDS = 300.0
STOPS_AT = 5


@dataclass(frozen=True)
class Ends:
    """Report of the leader that stops it, or lets it die, after so many samples."""

    dies: bool

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "estimate" and progress.step == STOPS_AT:
            if self.dies:
                os._exit(9)
            raise Cancelled("Stopped.")


def measure(checkpoint: Checkpoint, root: Path, name: str, config: EstimateConfig, report: Report) -> None:
    """Estimate into the folder `name`, in one of the processes."""
    with joined(torch.device("cpu")) as ranks:
        found = estimate(TinySource(Path(), []), checkpoint, open_dataset(root / "dataset"), config, root / name,
                         report=report, ranks=ranks)
    (root / f"{name}-{ranks.rank}.txt").write_text(str(found.batches), encoding="utf-8")


@pytest.fixture(scope="module")
def root(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the dataset and of all estimates."""
    root = tmp_path_factory.mktemp("estimates")
    write_dataset(root / "dataset", checkpoint, (40,) * 6)
    assert ran(1, checkpoint, root, "alone") == [0]
    return root


def ran(count: int, checkpoint: Checkpoint, root: Path, name: str, config: EstimateConfig = CONFIG,
        report: Report = ignore) -> list[int | None]:
    started = processes.start(count, root / f"{name}-rank", measure, checkpoint, root, name, config, report)
    return processes.finish(started, SECONDS)


def file_of(root: Path, name: str) -> bytes:
    [path] = (root / name).iterdir()
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_shared_samples_make_the_same_file(checkpoint: Checkpoint, root: Path, count: int) -> None:
    name = f"by {count}"
    assert ran(count, checkpoint, root, name) == [0] * count
    assert file_of(root, name) == file_of(root, "alone")
    assert {(root / f"{name}-{rank}.txt").read_text(encoding="utf-8") for rank in range(count)} == {"13"}


@pytest.mark.slow
def test_other_samples_make_another_file(checkpoint: Checkpoint, root: Path) -> None:
    assert ran(1, checkpoint, root, "other", replace(CONFIG, estimate_batches=12)) == [0]
    assert file_of(root, "other") != file_of(root, "alone")


@pytest.mark.slow
def test_stop_and_death_are_continued(checkpoint: Checkpoint, root: Path) -> None:
    """Two are stopped, which keeps five samples; then the leader of two dies, and three finish."""
    assert ran(2, checkpoint, root, "ended", report=Ends(dies=False)) == [1, 1]
    [kept] = (root / "ended").iterdir()
    assert kept.suffix == ".part"
    assert f"Stopped after {STOPS_AT} of at most 13" in processes.printed(root / "ended-rank", 0)
    assert ran(2, checkpoint, root, "ended") == [0, 0]
    assert file_of(root, "ended") == file_of(root, "alone")
    assert ran(2, checkpoint, root, "dead", report=Ends(dies=True)) == [9, 1]
    assert ran(3, checkpoint, root, "dead") == [0, 0, 0]
    assert file_of(root, "dead") == file_of(root, "alone")
