"""TensorBoard shows a run as metrics.jsonl has it, and once, however often it was stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sidestep_core.adapters.file import Adapter
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import MissingDependency, TrainingFailed
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress
from sidestep_core.training import run_checkpoint
from sidestep_core.training.metrics import FILE, read
from sidestep_core.training.tensorboard import board, is_heavy
from tests.tiny import write_dataset
from tests.tolerance import FP32
from tests.training import CONFIG, same_tensors, settled, trained


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 51, 40))


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return trained(checkpoint, dataset, tmp_path_factory.mktemp("undisturbed"))


def test_resumed_run_is_shown_once(checkpoint: Checkpoint, dataset: Dataset,
                                   undisturbed: Adapter, tmp_path: Path) -> None:
    config = replace(CONFIG, tensorboard=True, log_every=1, log_heavy_every=2)

    def fail(progress: Progress) -> None:
        if progress.step == 5 and progress.metrics:
            raise OSError("disk full")

    with pytest.raises(TrainingFailed, match="disk full"):
        trained(checkpoint, dataset, tmp_path, config=config, report=fail)
    adapter = trained(checkpoint, dataset, tmp_path, config=config)
    assert same_tensors(adapter.path, undisturbed.path)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    rows = read(tmp_path / "run" / FILE)
    for tag, key in (("train/loss", "loss"), ("train/lr", "lr"), ("heldout/heldout", "heldout")):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == [(row["step"], pytest.approx(row[key], rel=FP32)) for row in rows if key in row]
    assert [event.step for event in events.Scalars("gradients/layer_1")] == [2, 4, 6]
    histogram = events.Histograms("train/timestep_distribution")
    assert [event.step for event in histogram] == [2, 4, 6]
    assert histogram[-1].histogram_value.num == CONFIG.samples_per_step, "since the run was continued, at step 5"


def test_measured_songs_name_the_curve(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, tensorboard=True, heldout_songs=0, max_steps=2)
    reports: list[Progress] = []
    adapter = trained(checkpoint, dataset, tmp_path, config=config, report=reports.append)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"trained_songs/trained_songs", "trained_songs/trained_songs_t0.5"} <= set(tags)
    assert [tag for tag in tags if "heldout" in tag] == []
    assert adapter.measured_on == "trained"
    assert run_checkpoint.finished(tmp_path / "run") == adapter
    assert [report.message for report in reports if "held-out" in report.message] == []


def test_disabled_tensorboard_writes_nothing(undisturbed: Adapter) -> None:
    assert not (undisturbed.path.parent / "run" / "tensorboard").exists()


@pytest.mark.parametrize(("step", "heavy"), [(1, False), (49, False), (50, True), (100, True)])
def test_heavy_entries_follow_their_interval(step: int, heavy: bool) -> None:
    assert is_heavy(settled(tensorboard=True), step) == heavy
    assert not is_heavy(settled(), step)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in [loaded for loaded in sys.modules if loaded.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with (pytest.raises(MissingDependency, match=r"needs the package tensorboard.*pip install --upgrade tensorboard"),
          board(tmp_path, settled(tensorboard=True), 0)):
        pass
    with board(tmp_path, settled(), 0) as shown:
        assert shown is None
