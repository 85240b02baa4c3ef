"""A run that was stopped, in whatever way, and continued ends with the very file of one that was never stopped."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core import rng
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import AdapterError
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.training import loop, run_checkpoint
from sidestep_core.training.config import Optimizer
from sidestep_core.training.heldout import passes
from sidestep_core.training.heldout.passes import Pass
from sidestep_core.training.loss import HeldoutLoss, Objective
from sidestep_core.training.metrics import FILE, read
from sidestep_core.training.resolve import resolve
from tests.tiny import tiny_checkpoint, write_conditions, write_dataset
from tests.training import CONFIG, LORA, stop_at, trained

ADAPTERS: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=64, alpha=64.0, dropout=0.2, rank_dropout=0.2),
    "lokr": LokrConfig(linear_dim=4, alpha=8.0, factor=4, use_scalar=True, dropout=0.2, rank_dropout=0.2),
}
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "adamw8bit", "adafactor", "prodigy", "adamw_schedulefree")
"""All of them run on the processor; adamw8bit keeps bytes there of the LoRA's matrices, which have 4096 numbers."""
EVERYTHING = replace(CONFIG, max_steps=5, ema_decay=0.9, chunk_duration=1.6, cfg_ratio=0.3, genre_ratio=0.3,
                     context_mode="mixed", loss_weighting="min_snr_flow", publish="best",
                     timestep_sampling="stratified", preserve=0.3, guidance=2.0, schedule="cosine",
                     crop_lyrics="timed", lyrics_dropout=0.3, caption_dropout=0.3)


def songs_in(folder: Path, checkpoint: Checkpoint) -> Dataset:
    dataset = write_dataset(folder, checkpoint, (60, 71, 60), genre="genre", codes=True, captions=("slow", "bright"),
                            lyrics="[00:00.20]one\n[00:01.00]two\n[00:02.00]three")
    write_conditions(dataset, resolve(EVERYTHING, checkpoint, dataset).config)
    return dataset


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return songs_in(tmp_path_factory.mktemp("dataset"), checkpoint)


@pytest.mark.parametrize(("adapter", "optimizer"), [
    *itertools.product(ADAPTERS.values(), OPTIMIZERS),
    (replace(LORA, dora=True), "adamw"), (LohaConfig(rank=2, alpha=4.0, weight_decompose=True), "adamw"),
], ids=lambda value: value if isinstance(value, str) else value.kind)  # fmt: skip
def test_resume_is_bit_identical(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                 adapter: AdapterConfig, optimizer: Optimizer) -> None:
    config = replace(EVERYTHING, optimizer=optimizer)
    if optimizer == "adamw_schedulefree":
        config = replace(config, ema_decay=0.0, schedule="auto")
    if optimizer != "prodigy" and adapter.kind == "lora":
        config = replace(config, lora_plus_ratio=16.0)
    undisturbed = trained(checkpoint, dataset, tmp_path / "undisturbed", adapter, config)
    step = random.Random(f"{adapter.kind} {optimizer}").randrange(1, 5)
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path / "stopped", adapter, config, report=stop_at(step, Cancelled()))
    continued = trained(checkpoint, dataset, tmp_path / "stopped", adapter, config)
    assert continued.path.read_bytes() == undisturbed.path.read_bytes(), f"stopped at {step}"
    for name in ("final/adapter.safetensors", "final/ema.safetensors", "best/adapter.safetensors", FILE):
        ours, theirs = (tmp_path / folder / "run" / name for folder in ("stopped", "undisturbed"))
        assert ours.read_bytes() == theirs.read_bytes(), f"{name}, stopped at {step}"


def test_fp16_continues_at_its_scale(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(EVERYTHING, precision="fp16")
    undisturbed = trained(checkpoint, dataset, tmp_path / "undisturbed", config=config)
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path / "stopped", config=config, report=stop_at(3, Cancelled()))
    scale = run_checkpoint.read(run_checkpoint.checkpoints(tmp_path / "stopped" / "run")[-1]).state.scale
    continued = trained(checkpoint, dataset, tmp_path / "stopped", config=config)
    assert continued.path.read_bytes() == undisturbed.path.read_bytes()
    rows = {row["step"]: row for row in read(tmp_path / "stopped" / "run" / FILE) if "scale" in row}
    assert rows[3]["scale"] == scale
    assert [row.get("scale") for row in rows.values()] == [
        row["scale"] for row in read(tmp_path / "undisturbed" / "run" / FILE) if "scale" in row]


def test_early_stopping_survives_a_stop(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BUDGET", 1.5)
    config = replace(CONFIG, max_steps=60, heldout_every=1, early_stopping=3, learning_rate=20.0, schedule="constant")
    undisturbed = trained(checkpoint, dataset, tmp_path / "undisturbed", config=config)
    assert 3 < undisturbed.steps < 60
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path / "stopped", config=config,
                report=stop_at(undisturbed.steps - 1, Cancelled()))
    continued = trained(checkpoint, dataset, tmp_path / "stopped", config=config)
    assert continued.path.read_bytes() == undisturbed.path.read_bytes()
    rows = [row for row in read(tmp_path / "stopped" / "run" / FILE) if "heldout_error" in row]
    assert len(rows[-1]["heldout_values"]) > 1


LOSSES = {0: (3.0, 3.0), 1: (2.0, 2.0), 2: (1.5, 2.0), 3: (2.0, 2.5), 4: (1.75, 1.875), 5: (2.0, 2.0),
          6: (2.0, 2.0), 7: (2.0, 2.0)}
"""Losses of two passes after each step: those of step 2 have the lowest mean, those of step 4 are surely lower than
those of step 1."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run measures LOSSES."""
    def losses(objective: Objective, chosen: Sequence[Pass], progress: Progress, *_: Any, **named: Any) -> HeldoutLoss:
        values = LOSSES[progress.step][:len(chosen)]
        return HeldoutLoss(mean=sum(values) / len(values), losses=values)

    monkeypatch.setattr(passes, "BUDGET", 10.0)
    monkeypatch.setattr(passes, "MOST_PASSES", 2)
    monkeypatch.setattr(loop, "heldout_loss", losses)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("at", [2, 3, 4])
def test_best_and_reference_survive_a_stop(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, at: int) -> None:
    config = replace(CONFIG, max_steps=9, heldout_every=1, early_stopping=3, publish="best")
    undisturbed = trained(checkpoint, dataset, tmp_path / "undisturbed", config=config)
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path / "stopped", config=config, report=stop_at(at, Cancelled()))
    continued = trained(checkpoint, dataset, tmp_path / "stopped", config=config)
    states = [run_checkpoint.read(run_checkpoint.checkpoints(tmp_path / folder / "run")[-1]).state
              for folder in ("undisturbed", "stopped")]
    assert states[0] == states[1]
    assert (states[0].best_step, states[0].reference_step, states[0].step) == (2, 4, 7)
    assert continued.path.read_bytes() == undisturbed.path.read_bytes()
    assert (tmp_path / "stopped" / "run" / FILE).read_bytes() == (tmp_path / "undisturbed" / "run" / FILE).read_bytes()


@pytest.mark.usefixtures("measured")
def test_measured_trained_songs_survive_a_stop(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, heldout_songs=0, heldout_every=1)
    trained(checkpoint, dataset, tmp_path / "undisturbed", config=config)
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path / "stopped", config=config, report=stop_at(3, Cancelled()))
    trained(checkpoint, dataset, tmp_path / "stopped", config=config)
    assert (tmp_path / "stopped" / "run" / FILE).read_bytes() == (tmp_path / "undisturbed" / "run" / FILE).read_bytes()


# Killed


KILLS = 4


def kill_often(root: Path) -> Iterator[dict[str, Any]]:
    """Runs in processes of their own, forked from this one, each ended once and then continued in another."""
    torch.set_num_threads(1)
    checkpoint = tiny_checkpoint(root / "checkpoint")
    dataset = songs_in(root / "dataset", checkpoint)
    config = replace(EVERYTHING, max_steps=6, save_every=1, heldout_every=1)
    trained(checkpoint, dataset, root / "first", config=config)
    # Only the second one is as fast as its forks will be: everything is imported.
    begun = time.monotonic()
    undisturbed = trained(checkpoint, dataset, root / "undisturbed", config=config).path.read_bytes()
    seconds = time.monotonic() - begun

    def in_a_process(folder: Path, asked_at: int = -1) -> int:
        """Its id; asked to end, as by a shutdown, after the step `asked_at`."""
        child = os.fork()
        if child:
            return child
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

        def report(progress: Progress) -> None:
            if progress.step == asked_at and not asked:
                os.kill(os.getpid(), signal.SIGTERM)
            if asked:
                raise Cancelled

        try:
            trained(checkpoint, dataset, folder, config=config, report=report)
        except Cancelled:
            os._exit(3)
        except BaseException:  # noqa: BLE001 (the process ends here, and its code tells)
            os._exit(1)
        os._exit(0)

    for number in range(KILLS + 1):
        folder = root / str(number)
        kill = number < KILLS
        child = in_a_process(folder, -1 if kill else 3)
        if kill:
            # At moments spread from before the first step to the last save.
            time.sleep(seconds * (number + rng.seed("kill", number) / 2**63) / KILLS)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        saved = run_checkpoint.checkpoints(folder / "run")
        whole = all(is_whole(path) for path in saved)
        again = os.waitstatus_to_exitcode(os.waitpid(in_a_process(folder), 0)[1])
        file = folder / "a.safetensors"
        yield {"kill": kill, "status": status, "saved": [path.name for path in saved], "whole": whole, "again": again,
               "same": file.is_file() and file.read_bytes() == undisturbed}


def is_whole(path: Path) -> bool:
    try:
        run_checkpoint.read(path)
    except AdapterError:
        return False
    return True


if sys.platform != "win32":  # which cannot fork; `run.py bench resume` kills there too
    @pytest.fixture(scope="module")
    def killed() -> list[dict[str, Any]]:
        root = Path(__file__).parents[3]
        env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        run = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True, check=True)
        found: list[dict[str, Any]] = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
        assert len(found) == KILLS + 1
        return found

    def test_whatever_ends_a_process_its_checkpoints_are_whole(killed: list[dict[str, Any]]) -> None:
        assert [run for run in killed if not run["whole"]] == []
        assert any(run["status"] == -signal.SIGKILL and run["saved"] for run in killed)

    def test_whatever_ends_a_process_another_ends_with_the_same_file(killed: list[dict[str, Any]]) -> None:
        assert [run for run in killed if run["again"] != 0 or not run["same"]] == []

    def test_a_process_asked_to_end_keeps_its_work(killed: list[dict[str, Any]]) -> None:
        asked = killed[-1]
        assert (asked["status"], asked["saved"][-1]) == (3, "checkpoint-step-3")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for result in kill_often(Path(place)):
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
