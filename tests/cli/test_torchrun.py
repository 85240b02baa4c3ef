"""Trainings under torchrun itself: the file of one process, and a restart after a rank was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sidestep_core.training import metrics

from .conftest import Run, World

ROOT = Path(__file__).parents[2]
SECONDS = 400.0
KIND = ("--adapter-type", "loha", "--gradient-accumulation", "4", "--save-every-steps", "2")
"""LoHA needs no package that takes seconds to import."""


def torchrun(out: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start torchrun with two processes; what they print goes to `out`-log.txt."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "--max-restarts", "1", "-m", "sidestep_cli", *words, "--yes", "--plain"]
    with log_of(out).open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def log_of(out: Path) -> Path:
    return out.with_name(f"{out.name}-log.txt")


def steps(out: Path) -> list[int]:
    """Steps of the run so far."""
    return [row["step"] for path in out.glob("runs/*/metrics.jsonl") for row in metrics.read(path) if "loss" in row]


def rank_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("RANK", "")
    except psutil.Error:
        return ""


def kill_rank(agent: subprocess.Popen[bytes], rank: int) -> None:
    """Kill one of torchrun's processes."""
    [found] = [child for child in psutil.Process(agent.pid).children(recursive=True) if rank_of(child) == str(rank)]
    found.kill()


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of one process of its own, for 40 steps."""
    out = tmp_path_factory.mktemp("alone") / "mine"
    ended = subprocess.run([sys.executable, "-m", "sidestep_cli", *world.training(out, *KIND, "--max-steps", "40"),
                            "--plain"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                           capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_restart_continues_after_a_kill(alone: Path, world: World, tmp_path: Path, killed: int) -> None:
    """torchrun starts both ranks again, which go on at the last checkpoint, to the file of one process."""
    out = tmp_path / "mine"
    with torchrun(out, *world.training(out, *KIND, "--max-steps", "40")) as agent:
        ends = time.monotonic() + SECONDS
        while len(steps(out)) < 5 and agent.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
        kill_rank(agent, killed)
        before = len(steps(out))
        assert agent.wait(SECONDS) == 0, log_of(out).read_text(encoding="utf-8")[-3000:]
    assert 5 <= before < 40
    [log] = (out / "runs").glob("*/side-step.log")
    said = log.read_text(encoding="utf-8")
    resumed = int(said.partition("Continuing from ")[2].partition("checkpoint-step-")[2].partition(".")[0])
    assert 4 <= resumed <= before + 2
    assert (out / "mine.safetensors").read_bytes() == (alone / "mine.safetensors").read_bytes()
    assert steps(out) == list(range(1, 41))


@pytest.mark.slow
def test_errors_of_torchrun_are_shown_once(run: Run, world: World, tmp_path: Path) -> None:
    """A wrong setting ends all processes with the sentence that one process says."""
    words = [*world.training(tmp_path / "mine"), "--cfg-ratio", "7"]
    with torchrun(tmp_path / "mine", *words) as agent:
        assert agent.wait(SECONDS) == 1
    said = log_of(tmp_path / "mine").read_text(encoding="utf-8")
    expected = run(*words).err.strip()
    assert "cfg_ratio" in expected
    assert expected in said
