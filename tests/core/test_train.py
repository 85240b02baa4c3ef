"""Training as a whole: it learns, it resumes exactly, it keeps what it has, it never pretends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidestep_core import run_state, storage
from sidestep_core.adapter import Adapter, read_deltas
from sidestep_core.checkpoint import Checkpoint
from sidestep_core.config import LoraConfig, TrainConfig
from sidestep_core.dataset import Dataset
from sidestep_core.errors import AdapterError, ConfigError, DatasetError, TrainingDiverged
from sidestep_core.metrics import FILE, read
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.train import train
from tests.tiny import tiny_checkpoint, write_dataset

LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.1)
CONFIG = TrainConfig(max_steps=6, learning_rate=3e-3, gradient_accumulation=2, warmup_steps=2, heldout_songs=1,
                     heldout_every=2, save_every=2, device="cpu", gradient_checkpointing=False)


class Interrupt(BaseException):
    """As the host's: not an Exception."""


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 51, 40))


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(checkpoint, dataset, LORA, CONFIG, folder / "run", folder / "a.safetensors")


def stop_at(step: int, signal: BaseException):
    """A report that stops the run in the middle of the step after `step`."""
    def report(progress: Progress) -> None:
        if progress.stage == "train" and progress.step >= step and not progress.metrics:
            raise signal
    return report


def same_tensors(one: Path, other: Path) -> bool:
    first, second = storage.read_tensors(one), storage.read_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_and_proves_what_it_wrote(undisturbed: Adapter) -> None:
    assert undisturbed.path.is_file()
    assert undisturbed.steps == CONFIG.max_steps
    assert undisturbed.heldout_last < undisturbed.heldout_first
    assert undisturbed.proof is not None
    assert undisturbed.proof.matched == undisturbed.proof.total == 16


def test_metrics_hold_every_step_and_measurement(undisturbed: Adapter) -> None:
    rows = read(undisturbed.path.parent / "run" / FILE)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "heldout" in row] == [0, 2, 4, 6]


def test_a_finished_run_is_returned_without_training(checkpoint: Checkpoint, dataset: Dataset,
                                                     undisturbed: Adapter) -> None:
    reports: list[Progress] = []
    folder = undisturbed.path.parent
    again = train(checkpoint, dataset, LORA, CONFIG, folder / "run", folder / "a.safetensors", report=reports.append)
    assert again == undisturbed
    assert reports == []


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize("signal", [Cancelled(), Interrupt()], ids=["cancelled", "host interrupt"])
def test_stopped_and_continued_equals_never_stopped(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                                    tmp_path: Path, step: int, signal: BaseException) -> None:
    target = tmp_path / "a.safetensors"
    with pytest.raises(type(signal)):
        train(checkpoint, dataset, LORA, CONFIG, tmp_path / "run", target, report=stop_at(step, signal))
    kept = tmp_path / f"a-step-{step}.safetensors"
    assert kept.is_file()
    assert not target.exists()
    finished = train(checkpoint, dataset, LORA, CONFIG, tmp_path / "run", target)
    assert same_tensors(finished.path, undisturbed.path)
    assert not same_tensors(kept, undisturbed.path)
    assert (finished.heldout_first, finished.heldout_last) == (undisturbed.heldout_first, undisturbed.heldout_last)
    assert read(tmp_path / "run" / FILE) == read(undisturbed.path.parent / "run" / FILE)


def test_cancel_says_where_everything_is(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Cancelled, match=r"after step 3 of 6.*a-step-3\.safetensors.*continue"):
        train(checkpoint, dataset, LORA, CONFIG, tmp_path / "run", tmp_path / "a.safetensors",
              report=stop_at(3, Cancelled()))


def test_cancel_before_the_first_step_leaves_nothing_behind_that_is_no_adapter(
        checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        train(checkpoint, dataset, LORA, CONFIG, tmp_path / "run", tmp_path / "a.safetensors",
              report=stop_at(0, Cancelled()))
    assert list(tmp_path.glob("*.safetensors")) == []
    assert run_state.checkpoints(tmp_path / "run") == []


def test_an_error_saves_nothing_over_good_files(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        if progress.step == 3:
            raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        train(checkpoint, dataset, LORA, CONFIG, tmp_path / "run", tmp_path / "a.safetensors", report=fail)
    assert [path.name for path in run_state.checkpoints(tmp_path / "run")] == ["checkpoint-step-2"]
    assert list(tmp_path.glob("*.safetensors")) == []


def test_checkpointing_of_gradients_changes_no_bit(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                                   tmp_path: Path) -> None:
    config = replace(CONFIG, gradient_checkpointing=True)
    adapter = train(checkpoint, dataset, LORA, config, tmp_path / "run", tmp_path / "a.safetensors")
    assert same_tensors(adapter.path, undisturbed.path)


def test_another_seed_gives_another_adapter(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                            tmp_path: Path) -> None:
    adapter = train(checkpoint, dataset, LORA, replace(CONFIG, seed=7), tmp_path / "run", tmp_path / "a.safetensors")
    assert not same_tensors(adapter.path, undisturbed.path)


def test_existing_adapters_are_never_overwritten(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"someone's work")
    adapter = train(checkpoint, dataset, LORA, replace(CONFIG, max_steps=1), tmp_path / "run", target)
    assert target.read_bytes() == b"someone's work"
    assert adapter.path == tmp_path / "a-2.safetensors"


def test_torch_random_state_is_left_alone(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(checkpoint, dataset, LORA, replace(CONFIG, max_steps=1), tmp_path / "run", tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dataset_of_another_checkpoint_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(DatasetError, match="another checkpoint.*PreprocessAudioFolder"):
        train(other, dataset, LORA, CONFIG, tmp_path / "run", tmp_path / "a.safetensors")


def test_a_folder_of_another_run_is_refused(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter) -> None:
    folder = undisturbed.path.parent
    with pytest.raises(ConfigError, match="adapter"):
        train(checkpoint, dataset, replace(LORA, rank=2), CONFIG, folder / "run", folder / "b.safetensors")


def test_divergence_publishes_nothing(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e30, max_grad_norm=1e30, warmup_steps=0)
    with pytest.raises(TrainingDiverged, match=r"in step [23]\. Lower the learning rate|is nan"):
        train(checkpoint, dataset, LORA, config, tmp_path / "run", tmp_path / "a.safetensors")
    assert list(tmp_path.glob("*.safetensors")) == []


def test_what_a_loader_halves_is_not_published(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    def half_strength(path: Path):
        added = read_deltas(path)
        return lambda module, shape: added(module, shape) / 2

    with pytest.raises(AdapterError, match=r"0\.500 of the trained effect"):
        train(checkpoint, dataset, LORA, replace(CONFIG, max_steps=1), tmp_path / "run", tmp_path / "a.safetensors",
              load=half_strength)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_what_a_killed_save_left_behind_is_removed(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    leftover = tmp_path / "run" / ".checkpoint-step-2.0a1b2c3d.tmp"
    leftover.mkdir(parents=True)
    (leftover / "adapter.safetensors").write_bytes(b"half")
    (tmp_path / "run" / ".run.json.0a1b2c3d.tmp").write_bytes(b"half")
    train(checkpoint, dataset, LORA, replace(CONFIG, max_steps=1), tmp_path / "run", tmp_path / "a.safetensors")
    assert list((tmp_path / "run").glob(".*")) == []


def test_what_could_learn_nothing_is_refused(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cfg_ratio 1 hides every caption"):
        train(checkpoint, dataset, replace(LORA, attention="cross"), replace(CONFIG, cfg_ratio=1.0), tmp_path / "run",
              tmp_path / "a.safetensors")


def test_a_renamed_song_is_another_dataset(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    """Which song is held out depends on its name: a run that went on would train on it, or hold out a trained one."""
    renamed = replace(dataset, samples=(replace(dataset.samples[0], name="other.wav"), *dataset.samples[1:]))
    with pytest.raises(Cancelled):
        train(checkpoint, dataset, LORA, CONFIG, tmp_path / "run", tmp_path / "a.safetensors",
              report=stop_at(2, Cancelled()))
    with pytest.raises(ConfigError, match="dataset differ"):
        train(checkpoint, renamed, LORA, CONFIG, tmp_path / "run", tmp_path / "a.safetensors")


def test_a_stopped_run_continues_with_settings_that_change_only_speed(
        checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        train(checkpoint, dataset, LORA, CONFIG, tmp_path / "run", tmp_path / "a.safetensors",
              report=stop_at(2, Cancelled()))
    sparing = replace(CONFIG, gradient_checkpointing=True, save_every=100)
    finished = train(checkpoint, dataset, LORA, sparing, tmp_path / "run", tmp_path / "a.safetensors")
    assert same_tensors(finished.path, undisturbed.path)


@pytest.mark.parametrize(("file", "content"), [("finished.json", ""), ("finished.json", "{}"), ("run.json", "")])
def test_damaged_files_of_a_run_are_named(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, file: str,
                                          content: str) -> None:
    config = replace(CONFIG, max_steps=1)
    train(checkpoint, dataset, LORA, config, tmp_path / "run", tmp_path / "a.safetensors")
    (tmp_path / "run" / file).write_text(content, encoding="utf-8")
    with pytest.raises(AdapterError, match=rf"{file} is damaged .*Delete"):
        train(checkpoint, dataset, LORA, config, tmp_path / "run", tmp_path / "a.safetensors")


def test_a_finished_run_whose_adapter_is_gone_puts_it_back_without_training(
        checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, max_steps=1)
    first = train(checkpoint, dataset, LORA, config, tmp_path / "run", tmp_path / "a.safetensors")
    before = storage.read_tensors(first.path)
    before = {name: tensor.clone() for name, tensor in before.items()}
    first.path.unlink()
    steps: list[Progress] = []
    again = train(checkpoint, dataset, LORA, config, tmp_path / "run", tmp_path / "a.safetensors", report=steps.append)
    assert not any("loss" in progress.metrics for progress in steps)
    after = storage.read_tensors(again.path)
    assert all(torch.equal(after[name], before[name]) for name in before)
