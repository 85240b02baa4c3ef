"""Two and four processes train the adapter of one, bit for bit, and the death of one loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from sidestep_core.dataset import tensor_file
from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress, Report, ignore
from sidestep_core.training import metrics, run_checkpoint
from sidestep_core.training.parallel.gradients import OrderedSum
from sidestep_core.training.parallel.ranks import ALONE, Order, RankLost, Ranks, joined, own_device
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from tests import processes
from tests.tiny import write_dataset
from tests.training import CONFIG, LORA, same_tensors, trained

DIES_AFTER = 2
SECONDS = 300.0
FOUR_PASSES = replace(CONFIG, gradient_accumulation=4, device="cpu")


@dataclass(frozen=True)
class Dies:
    """Report that ends rank 1 at once in the step after `step`."""

    step: int

    def __call__(self, progress: Progress) -> None:
        if os.environ["RANK"] == "1" and progress.step >= self.step:
            os._exit(9)


@dataclass
class RunsOut:
    """Report that fails, once, as if rank 1 ran out of memory in its second pass of the step after `step`."""

    step: int
    passes: int = 0

    def __call__(self, progress: Progress) -> None:
        self.passes += progress.stage == "train" and progress.step == self.step and not progress.metrics
        if os.environ["RANK"] == "1" and self.passes == 2:
            self.passes += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")


def train(checkpoint: Checkpoint, folder: Path, report: Report = ignore) -> None:
    """Train in one of the processes, and note the songs that it has read."""
    with joined(torch.device("cpu")) as ranks, songs_read() as songs:
        trained(checkpoint, open_dataset(folder / "dataset"), folder, config=FOUR_PASSES, report=report, ranks=ranks)
    (folder / f"songs-{ranks.rank}.txt").write_text("\n".join(songs), encoding="utf-8")


@contextmanager
def songs_read() -> Iterator[list[str]]:
    """Collect the song of every read of latents."""
    songs: list[str] = []
    usual = tensor_file.StoredRows.__getitem__

    def noting(self: tensor_file.StoredRows, rows: slice) -> torch.Tensor:
        if self.kind == "latents":
            songs.append(self.song)
        return usual(self, rows)

    tensor_file.StoredRows.__getitem__ = noting
    try:
        yield songs
    finally:
        tensor_file.StoredRows.__getitem__ = usual


def losses(folder: Path) -> list[float]:
    """Loss of every step: that of another song, crop, time or noise is another."""
    return [row["loss"] for row in metrics.read(folder / "run" / metrics.FILE) if "loss" in row]


@pytest.fixture(scope="module")
def alone(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the training in one process."""
    return ran(1, checkpoint, tmp_path_factory.mktemp("one"))


def ran(count: int, checkpoint: Checkpoint, folder: Path, report: Report = ignore) -> Path:
    write_dataset(folder / "dataset", checkpoint, (20, 31, 20), windows=())
    codes = processes.finish(processes.start(count, folder / "rank", train, checkpoint, folder, report), SECONDS)
    assert codes == [0] * count, processes.printed(folder / "rank", 0)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4])
def test_ranks_equal_one_process(alone: Path, checkpoint: Checkpoint, tmp_path: Path, count: int) -> None:
    """Four passes a step are dealt evenly to two and four, and unevenly to three."""
    shared = ran(count, checkpoint, tmp_path)
    assert (shared / "a.safetensors").read_bytes() == (alone / "a.safetensors").read_bytes()
    assert losses(shared) == losses(alone)
    assert not same_tensors(alone / "a.safetensors", alone / "run" / "checkpoint-step-4" / "adapter.safetensors")


@pytest.mark.slow
def test_each_reads_its_own(alone: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Two ranks read as many crops for training as one process, and only the leader those of the held-out song."""
    shared = ran(2, checkpoint, tmp_path)
    whole, *parts = [(folder / f"songs-{rank}.txt").read_text(encoding="utf-8").splitlines()
                     for folder, rank in ((alone, 0), (shared, 0), (shared, 1))]
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    assert len(parts[1]) == FOUR_PASSES.gradient_accumulation // 2 * (FOUR_PASSES.max_steps or 0)


@pytest.mark.slow
def test_a_dead_rank_loses_nothing(alone: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Rank 1 of two dies in the step after two; one process continues, and the result is that of one alone."""
    write_dataset(tmp_path / "dataset", checkpoint, (20, 31, 20), windows=())
    both = processes.start(2, tmp_path / "rank", train, checkpoint, tmp_path, Dies(DIES_AFTER))
    assert processes.finish(both, SECONDS) == [1, 9]
    said = processes.printed(tmp_path / "rank", 0)
    assert "RankLost: Another process of this training has ended" in said
    assert f"Step {DIES_AFTER} is kept" in said
    assert run_checkpoint.newest_step(tmp_path / "run") == DIES_AFTER
    ran(1, checkpoint, tmp_path)
    assert (tmp_path / "a.safetensors").read_bytes() == (alone / "a.safetensors").read_bytes()
    assert losses(tmp_path) == losses(alone)


@pytest.mark.slow
def test_pass_is_repeated_in_less_memory(alone: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The others wait for a rank that repeats its second pass, whose first one is already under way to them."""
    shared = ran(2, checkpoint, tmp_path, RunsOut(2))
    assert "Out of memory in step 3" in processes.printed(tmp_path / "rank", 1)
    assert (shared / "a.safetensors").read_bytes() == (alone / "a.safetensors").read_bytes()


def add_rounds(folder: Path, gradients: torch.Tensor) -> None:
    """Add rows of gradients, one of each rank in turn, and write the sum."""
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(gradients.shape[1] - 6))]
    with joined(torch.device("cpu")) as ranks:
        total = OrderedSum(ranks, parameters)
        for first in range(0, len(gradients), ranks.count):
            passes = gradients[first:first + ranks.count]
            if ranks.rank < len(passes):
                row = passes[ranks.rank]
                parameters[0].grad, parameters[1].grad = row[:6].view(2, 3).clone(), row[6:].clone()
            total.add(len(passes))
        total.finish()
        torch.save([parameter.grad for parameter in parameters], folder / f"{ranks.rank}.pt")


@pytest.mark.slow
def test_sum_has_one_order(tmp_path: Path) -> None:
    """Seven passes on three ranks, and numbers that no rank's share divides, are added one after the other."""
    gradients = torch.randn(7, 101, generator=torch.Generator().manual_seed(1))
    gradients[:, 0] = -0.0
    assert processes.finish(processes.start(3, tmp_path / "rank", add_rounds, tmp_path, gradients), SECONDS) == [0] * 3
    one_by_one = gradients[0].clone()
    for row in gradients[1:]:
        one_by_one += row
    for rank in range(3):
        found = torch.cat([part.flatten() for part in torch.load(tmp_path / f"{rank}.pt", weights_only=True)])
        assert torch.equal(found.view(torch.int32), one_by_one.view(torch.int32))
    in_threes = sum(gradients[first:first + 3].sum(0) for first in range(0, 7, 3))
    assert not torch.equal(in_threes, one_by_one)


def test_passes_are_dealt_once() -> None:
    for count in (1, 2, 3):
        ranks = [Ranks(rank, count) for rank in range(count)]
        assert [sum(rank.takes(number) for rank in ranks) for number in range(7)] == [1] * 7


def test_alone_waits_for_nobody() -> None:
    tensor = torch.ones(2)
    ALONE.add([tensor])
    ALONE.give(Order(step=1))
    with ALONE.leader_first(), joined(torch.device("cpu")) as ranks:
        assert ranks is ALONE
    assert tensor.tolist() == [1, 1]
    assert issubclass(RankLost, Exception)


def test_each_process_has_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda", 0)
    assert own_device(card) == card
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(card) == torch.device("cuda", 3)
    assert own_device(torch.device("cpu")) == torch.device("cpu")


def test_travelling_gradients_are_planned(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Two gradients for the other ranks are on the device during a pass, none if they go through host memory."""
    dataset = write_dataset(tmp_path / "dataset", checkpoint, (20, 31, 20), windows=())
    settings = resolve(CONFIG, checkpoint, dataset)
    needs = [prepare(checkpoint, dataset, LORA, settings, ranks).need
             for ranks in (ALONE, Ranks(0, 2), Ranks(0, 2, torch.device("cpu")))]
    parameters = needs[0].adapter // 4
    assert [need.trained - needs[0].trained for need in needs] == [0, 8 * parameters, 0]
    assert parameters > 0
