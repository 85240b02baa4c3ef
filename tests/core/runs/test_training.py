"""Records that trainings leave, as their summaries show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import TrainingFailed
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled
from sidestep_core.runs import curve, files, songs, summary
from sidestep_core.runs.record import Origin
from sidestep_core.runs.summary import RunSummary
from tests.tiny import write_dataset
from tests.training import CONFIG, stop_at, trained


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 51, 40))


def read(folder: Path) -> RunSummary:
    return summary.read(folder / "run", curve.read(folder / "run" / files.METRICS))


def test_training_that_stops_and_goes_on(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    origin = Origin(node_id="5", workflow_id="w", workflow='{"id": "w"}')
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path, origin=origin, report=stop_at(3, Cancelled("Stopped.")))
    found = read(tmp_path)
    assert (found.status, found.step, found.total) == ("stopped", 3, CONFIG.max_steps)
    assert found.message == ("Stopped after step 3 of 6. The adapter so far: a-step-3.safetensors. Train again to "
                             "continue from here.")
    assert (found.name, found.songs, found.minutes) == ("a", 3, pytest.approx(dataset.seconds / 60))
    assert (found.node_id, found.workflow_id, found.has_workflow) == ("5", "w", True)
    assert found.settings["train"]["heldout_songs"] == 1
    assert [song.name for song in songs.read(tmp_path / "run")] == [sample.name for sample in dataset.samples]
    assert {song.problems for song in songs.read(tmp_path / "run")} == {("It is only 2.0 s long.",),
                                                                       ("It is only 1.6 s long.",)}
    trained(checkpoint, dataset, tmp_path)
    found = read(tmp_path)
    assert (found.status, found.step, found.message) == ("finished", 6, "All 6 steps are done.")
    assert found.files == ("a-step-3.safetensors", "a.safetensors")
    assert (found.loss, found.best, found.measured_on) != (None, None, "")


def test_training_that_fails(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed):
        trained(checkpoint, dataset, tmp_path, report=stop_at(3, ValueError("The disk is gone.")))
    found = read(tmp_path)
    assert (found.status, found.step) == ("failed", 3)
    assert found.message.startswith("The training failed in step 4: The disk is gone. Step 3 is kept")
