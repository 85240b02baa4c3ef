"""An error costs no finished step, and what only shows the training never ends it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core.adapters.file import Adapter
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.device import OutOfMemory
from sidestep_core.errors import AdapterError, HalfStep, SideStepError, TrainingFailed
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.training import loop, metrics, publish, run_checkpoint, step, tensorboard
from sidestep_core.training.optim.adamw import AdamW
from tests.tiny import write_dataset
from tests.training import CONFIG, trained

RARELY = replace(CONFIG, save_every=100)
FAILS_AT = 4
"""Call that fails, counted from 1."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 50, 60))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, dataset: Dataset) -> bytes:
    return trained(checkpoint, dataset, tmp_path_factory.mktemp("undisturbed"), config=RARELY).path.read_bytes()


def failing(real: Callable[..., Any], error: BaseException, times: int = 1) -> Callable[..., Any]:
    calls = [0]

    def call(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if FAILS_AT <= calls[0] < FAILS_AT + times:
            raise error
        return real(*arguments, **named)

    return call


def tensors(file: bytes) -> bytes:
    """Content after the header, which holds result-invariant settings."""
    return file[8 + int.from_bytes(file[:8], "little"):]


def kept(folder: Path) -> list[str]:
    return [path.name for path in run_checkpoint.checkpoints(folder / "run")]


@pytest.mark.parametrize(("error", "raised"), [
    (RuntimeError("CUDA error: device-side assert triggered"), TrainingFailed), (OSError("no disk"), TrainingFailed),
    (SideStepError("our own"), SideStepError), (ZeroDivisionError("a bug"), TrainingFailed)])
def test_error_keeps_the_last_step(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch, error: Exception,
                                   raised: type[Exception]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", failing(loop.optimizer_step, error))
        with pytest.raises(raised, match=rf"{error}\. Step 3 is kept: the same run continues from there"):
            trained(checkpoint, dataset, tmp_path, config=RARELY)
    assert kept(tmp_path) == ["checkpoint-step-3"]
    assert trained(checkpoint, dataset, tmp_path, config=RARELY).path.read_bytes() == undisturbed


def test_lost_device_names_the_checkpoint_before(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes,
                                                 tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    often = replace(RARELY, save_every=2)
    lost = RuntimeError("CUDA error: unspecified launch failure")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", failing(loop.optimizer_step, lost))
        patch.setattr(run_checkpoint, "save", _second_fails(lost))
        with pytest.raises(TrainingFailed, match="unspecified launch failure. Step 2 is kept"):
            trained(checkpoint, dataset, tmp_path, config=often)
    assert tensors(trained(checkpoint, dataset, tmp_path, config=often).path.read_bytes()) == tensors(undisturbed)


def _second_fails(error: Exception) -> Callable[..., Any]:
    real, calls = run_checkpoint.save, [0]

    def save(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] > 1:
            raise error
        return real(*arguments, **named)

    return save


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, 5), (1000.0, 0), (0.0, 0)])
def test_time_saves_as_well_as_steps(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes, tmp_path: Path,
                                     minutes: float, saved: int) -> None:
    """Until step 5 of 6, where each step takes longer than that, or none does."""
    seen: list[list[str]] = []

    def report(progress: Progress) -> None:
        if "loss" in progress.metrics:
            seen.append(kept(tmp_path))

    config = replace(RARELY, save_minutes=minutes, keep_checkpoints=0)
    adapter = trained(checkpoint, dataset, tmp_path, config=config, report=report)
    assert seen[-1] == [f"checkpoint-step-{step}" for step in range(1, saved + 1)]
    assert tensors(adapter.path.read_bytes()) == tensors(undisturbed)


def test_half_an_update_is_not_kept(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "step", failing(AdamW.step, RuntimeError("half")))
        with pytest.raises(HalfStep, match="The optimizer failed in step 4: half"):
            trained(checkpoint, dataset, tmp_path, config=RARELY)
    assert kept(tmp_path) == []
    assert trained(checkpoint, dataset, tmp_path, config=RARELY).path.read_bytes() == undisturbed


def test_out_of_memory_repeats_the_same_step(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes,
                                             tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[str] = []
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr(step, "training_loss", failing(step.training_loss, full))
    adapter: Adapter = trained(checkpoint, dataset, tmp_path, config=RARELY,
                               report=lambda progress: notices.append(progress.notice))
    assert adapter.path.read_bytes() == undisturbed
    assert any("Out of memory in step" in notice and "The result is the same" in notice for notice in notices)


def test_out_of_memory_for_good_keeps_the_step(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes,
                                               tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", failing(loop.optimizer_step, full, times=99))
        with pytest.raises(OutOfMemory, match=r"Lower chunk_duration.*Step 3 is kept"):
            trained(checkpoint, dataset, tmp_path, config=RARELY)
    assert trained(checkpoint, dataset, tmp_path, config=RARELY).path.read_bytes() == undisturbed


def test_full_disk_under_metrics_is_told_and_made_good(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes,
                                                       tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[str] = []
    full = OSError(errno.ENOSPC, "No space left on device")
    real = Path.open
    calls = [0]

    def open_file(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == metrics.FILE and arguments[:1] == ("a",):
            calls[0] += 1
            if calls[0] in (3, 4):
                raise full
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", open_file)
    adapter = trained(checkpoint, dataset, tmp_path, config=RARELY,
                      report=lambda progress: notices.append(progress.notice))
    assert adapter.path.read_bytes() == undisturbed
    assert any("metrics.jsonl cannot be written (No space left on device)" in notice for notice in notices)
    assert [row["step"] for row in metrics.read(tmp_path / "run" / metrics.FILE) if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_full_disk_under_tensorboard_is_told(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes,
                                             tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(tensorboard.Board, "add_step", failing(tensorboard.Board.add_step, full))
    adapter = trained(checkpoint, dataset, tmp_path, config=replace(RARELY, tensorboard=True, log_every=1),
                      report=told.append)
    assert tensors(adapter.path.read_bytes()) == tensors(undisturbed)
    assert any("Training goes on without it" in progress.notice for progress in told)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-40] ^= 0x10
    file.write_bytes(bytes(content))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "state.json"])
def test_damaged_checkpoint_gives_way_to_the_one_before(
        checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes, tmp_path: Path, damage: Callable[[Path], None],
        file: str) -> None:
    often, notices = replace(RARELY, save_every=2, keep_checkpoints=0), []

    def stop(progress: Progress) -> None:
        if progress.step == 5 and progress.metrics:
            raise Cancelled

    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path, config=often, report=stop)
    damage(tmp_path / "run" / "checkpoint-step-5" / file)
    adapter = trained(checkpoint, dataset, tmp_path, config=often,
                      report=lambda progress: notices.append(progress.notice))
    assert tensors(adapter.path.read_bytes()) == tensors(undisturbed)
    assert any("checkpoint-step-5 is damaged" in notice and "the checkpoint before" in notice for notice in notices)
    rows = metrics.read(tmp_path / "run" / metrics.FILE)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_stop_within_a_measurement_doubles_no_row(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 4 and "heldout" in progress.metrics:
            raise Cancelled

    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path, config=RARELY, report=stop)
    trained(checkpoint, dataset, tmp_path, config=RARELY)
    rows = metrics.read(tmp_path / "run" / metrics.FILE)
    assert [row["step"] for row in rows if "heldout" in row] == [0, 2, 4, 6]


def test_unreadable_adapter_is_found_before_the_first_step(checkpoint: Checkpoint, dataset: Dataset,
                                                           tmp_path: Path) -> None:
    steps: list[Progress] = []

    def load(path: Path) -> Any:
        assert path.is_file()
        raise TypeError("got an unexpected keyword argument 'encoder_hidden_size'")

    with pytest.raises(AdapterError, match="cannot be read back here .got an unexpected.*nothing was trained"):
        trained(checkpoint, dataset, tmp_path, config=RARELY, load=load,
                report=lambda progress: steps.append(progress) if progress.metrics else None)
    assert steps == []
    assert [path.name for path in (tmp_path / "run").glob("*.safetensors")] == []


def test_interrupt_within_an_update_keeps_no_half_step(checkpoint: Checkpoint, dataset: Dataset, undisturbed: bytes,
                                                       tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = AdamW.step, [0]

    def step_and_stop(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        result = real(*arguments, **named)
        if calls[0] == FAILS_AT:
            raise KeyboardInterrupt
        return result

    often = replace(RARELY, save_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "step", step_and_stop)
        with pytest.raises(KeyboardInterrupt):
            trained(checkpoint, dataset, tmp_path, config=often)
    assert kept(tmp_path) == ["checkpoint-step-2"]
    assert tensors(trained(checkpoint, dataset, tmp_path, config=often).path.read_bytes()) == tensors(undisturbed)


def test_metrics_row_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = metrics.Metrics(tmp_path / metrics.FILE, after_step=0)
    rows.add_step(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(metrics.Metrics, "_append", failing_at_once)
        rows.add_step(2, {"loss": 2.0})
        assert "No space left" in rows.failure
    rows.add_step(3, {"loss": 3.0})
    assert rows.failure == ""
    assert [row["step"] for row in metrics.read(tmp_path / metrics.FILE)] == [1, 2, 3]


def failing_at_once(rows: metrics.Metrics, row: metrics.Row) -> metrics.Row:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_failed_publishing_of_a_stop_stays_a_stop(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 3 and progress.metrics:
            raise Cancelled

    def full(*arguments: Any, **named: Any) -> Adapter:
        raise SideStepError("no room")

    monkeypatch.setattr(publish, "publish", full)
    with pytest.raises(Cancelled, match=r"could not be kept .no room.\. Step 3 is kept"):
        trained(checkpoint, dataset, tmp_path, config=RARELY, report=stop)
