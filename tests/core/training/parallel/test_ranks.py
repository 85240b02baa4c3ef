"""Two processes train the adapter of one, and the death of one loses nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.training import metrics, run_checkpoint
from sidestep_core.training.parallel.ranks import ALONE, Order, RankLost, Ranks, joined, own_device
from tests.tiny import write_dataset
from tests.training import trained

ROOT = Path(__file__).parents[4]
DIES_AFTER = 2
FP32_SUM = 1e-5
"""Largest difference, relative to the largest weight, by sums of gradients in another order."""

WORKER = """
import os, sys
from dataclasses import replace
from pathlib import Path
import torch
from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.model.checkpoint import open_checkpoint
from sidestep_core.training.parallel.ranks import joined
from tests.training import CONFIG, trained

torch.set_num_threads(1)
folder, model, text_encoder, vae, dies = sys.argv[1:]

def report(progress):
    if os.environ["RANK"] == "1" and progress.step >= int(dies):
        os._exit(9)

with joined(torch.device("cpu")) as ranks:
    trained(open_checkpoint(Path(model), text_encoder=Path(text_encoder), vae=Path(vae)),
            open_dataset(Path(folder) / "dataset"), Path(folder), report=report, ranks=ranks)
"""


def start(folder: Path, checkpoint: Checkpoint, dies: int) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [str(path) for path in (folder, checkpoint.model[0], checkpoint.text_encoder[0], checkpoint.vae)]
    return [subprocess.Popen(
        [sys.executable, "-c", WORKER, *files, str(dies)], cwd=ROOT, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}) for rank in range(2)]


def difference(one: Path, other: Path) -> float:
    first, second = read_tensors(one), read_tensors(other)
    return max(float((first[name] - second[name]).abs().max()) / float(first[name].abs().max()) for name in first)


@pytest.mark.slow
def test_a_dead_rank_loses_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Rank 1 of two dies in the step after two; one process continues, and the result is that of one alone."""
    for name in ("one", "two"):
        dataset = write_dataset(tmp_path / name / "dataset", checkpoint, (20, 31, 20), windows=())
    alone = trained(checkpoint, dataset, tmp_path / "one")
    leader, follower = start(tmp_path / "two", checkpoint, DIES_AFTER)
    assert follower.wait(200) == 9
    _, said = leader.communicate(timeout=200)
    assert leader.returncode == 1
    assert "RankLost: Another process of this training has ended" in said
    assert f"Step {DIES_AFTER} is kept" in said
    assert run_checkpoint.newest_step(tmp_path / "two" / "run") == DIES_AFTER
    continued = trained(checkpoint, dataset, tmp_path / "two")
    assert difference(alone.path, continued.path) <= FP32_SUM
    assert difference(alone.path, tmp_path / "one" / "run" / "checkpoint-step-4" / "adapter.safetensors") > FP32_SUM
    rows = [metrics.read(tmp_path / name / "run" / metrics.FILE) for name in ("one", "two")]
    losses = [[row["loss"] for row in side if "loss" in row] for side in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx([loss * 1.001 for loss in losses[1]], rel=1e-4)


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
