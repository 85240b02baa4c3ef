"""Training as a whole: it learns, it resumes exactly, it keeps what it has, it never pretends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters import formats
from sidestep_core.adapters.file import METADATA_KEY, Adapter
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import AdapterError, ConfigError, DatasetError, TrainingDiverged, TrainingFailed
from sidestep_core.io import strict_json
from sidestep_core.io.tensors import read_metadata, read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.training import run_checkpoint
from sidestep_core.training.metrics import FILE, MEASURED_ON, VALUES, read, time_bin
from sidestep_core.training.publish import usable
from sidestep_core.training.run_checkpoint import ADAPTER_FILE, AVERAGE_FILE
from sidestep_core.training.train import train
from tests.adapters import fresh
from tests.tiny import TinySource, tiny_checkpoint, write_dataset
from tests.tolerance import FP32, deviation
from tests.training import CONFIG, LORA, same_tensors, stop_at, trained


class Interrupt(BaseException):
    """Stop of the host's kind: not an Exception."""


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 51, 40))


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    folder = tmp_path_factory.mktemp("undisturbed")
    return trained(checkpoint, dataset, folder)


def test_training_learns_and_proves(undisturbed: Adapter) -> None:
    assert undisturbed.path.is_file()
    assert undisturbed.steps == CONFIG.max_steps
    assert undisturbed.heldout_last < undisturbed.heldout_first
    assert undisturbed.proof is not None
    assert undisturbed.proof.matched == undisturbed.proof.total == 16


def test_metrics_are_complete(undisturbed: Adapter) -> None:
    rows = read(undisturbed.path.parent / "run" / FILE)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "heldout" in row] == [0, 2, 4, 6]
    assert {row[MEASURED_ON] for row in rows if "heldout" in row} == {"held_out"}
    assert all(isinstance(value, (int, float)) for row in rows for key, value in row.items()
               if key not in (MEASURED_ON, VALUES))
    described = json.loads((undisturbed.path.parent / "run" / "heldout.json").read_text(encoding="utf-8"))
    for row in rows:
        if "heldout" in row:
            assert len(row[VALUES]) == len(described)
            assert row["heldout"] == pytest.approx(sum(row[VALUES]) / len(described), rel=FP32)
            assert row[f"heldout_{time_bin(described[0]['time'])}"] == row[VALUES][0]


def test_finished_run_is_returned(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter) -> None:
    reports: list[Progress] = []
    folder = undisturbed.path.parent
    again = trained(checkpoint, dataset, folder, report=reports.append)
    assert again == undisturbed
    assert reports == []


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize("signal", [Cancelled(), Interrupt()], ids=["cancelled", "host interrupt"])
def test_resumed_training_is_bit_identical(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                           tmp_path: Path, step: int, signal: BaseException) -> None:
    target = tmp_path / "a.safetensors"
    with pytest.raises(type(signal)):
        trained(checkpoint, dataset, tmp_path, report=stop_at(step, signal))
    kept = tmp_path / f"a-step-{step}.safetensors"
    assert kept.is_file()
    assert not target.exists()
    finished = trained(checkpoint, dataset, tmp_path)
    assert same_tensors(finished.path, undisturbed.path)
    assert not same_tensors(kept, undisturbed.path)
    assert (finished.heldout_first, finished.heldout_last) == (undisturbed.heldout_first, undisturbed.heldout_last)
    assert read(tmp_path / "run" / FILE) == read(undisturbed.path.parent / "run" / FILE)


def test_cancel_says_where_everything_is(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Cancelled, match=r"after step 3 of 6.*a-step-3\.safetensors.*continue"):
        trained(checkpoint, dataset, tmp_path, report=stop_at(3, Cancelled()))


def test_cancel_after_last_step(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "save":
            raise Cancelled

    config = replace(CONFIG, save_every=100)
    with pytest.raises(Cancelled, match=r"after step 6 of 6.*a-step-6\.safetensors.*continue"):
        trained(checkpoint, dataset, tmp_path, config=config, report=stop)
    steps: list[Progress] = []
    finished = trained(checkpoint, dataset, tmp_path, config=config, report=steps.append)
    assert same_tensors(finished.path, undisturbed.path)
    assert not any(progress.metrics for progress in steps)


def test_cancel_before_first_step( checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path, report=stop_at(0, Cancelled()))
    assert list(tmp_path.glob("*.safetensors")) == []
    assert run_checkpoint.checkpoints(tmp_path / "run") == []


def test_unwritable_target_is_rejected(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "loras").write_text("a file where the folder should be", encoding="utf-8")
    reports: list[Progress] = []
    with pytest.raises(ConfigError, match=r"Nothing can be written into .*loras"):
        train(TinySource(Path(), []), checkpoint, dataset, LORA, CONFIG, tmp_path / "run",
              tmp_path / "loras" / "a.safetensors", report=reports.append)
    assert reports == []


def test_error_overwrites_nothing(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        if progress.step == 3:
            raise OSError("disk full")
    with pytest.raises(TrainingFailed, match="disk full. Step 3 is kept"):
        trained(checkpoint, dataset, tmp_path, report=fail)
    kept = [path.name for path in run_checkpoint.checkpoints(tmp_path / "run")]
    assert kept == ["checkpoint-step-2", "checkpoint-step-3"]
    assert list(tmp_path.glob("*.safetensors")) == []


def test_gradient_checkpointing_changes_no_bit(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                               tmp_path: Path) -> None:
    config = replace(CONFIG, gradient_checkpointing="on")
    adapter = trained(checkpoint, dataset, tmp_path, config=config)
    assert same_tensors(adapter.path, undisturbed.path)


def test_another_seed_gives_another_adapter(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                            tmp_path: Path) -> None:
    adapter = trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, seed=7))
    assert not same_tensors(adapter.path, undisturbed.path)


def test_existing_adapters_are_never_overwritten(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"someone's work")
    adapter = trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, max_steps=1))
    assert target.read_bytes() == b"someone's work"
    assert adapter.path == tmp_path / "a-2.safetensors"


def test_torch_random_state_is_restored(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, max_steps=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_other_checkpoint_is_rejected(dataset: Dataset, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(DatasetError, match="another checkpoint.*Preprocess the songs again"):
        trained(other, dataset, tmp_path)


def test_folder_of_other_run_is_rejected(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter) -> None:
    folder = undisturbed.path.parent
    with pytest.raises(ConfigError, match="adapter"):
        trained(checkpoint, dataset, folder, replace(LORA, rank=2), CONFIG)


def test_divergence_publishes_nothing(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e30, max_grad_norm=1e30, warmup_steps=0)
    with pytest.raises(TrainingDiverged, match=r"in step [23]\. Lower the learning rate|is nan"):
        trained(checkpoint, dataset, tmp_path, config=config)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_halving_loader_is_detected(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    def half_strength(path: Path):
        added = formats.delta_fn(path)
        return lambda module, weight: added(module, weight) / 2

    with pytest.raises(AdapterError, match=r"0\.500 of the trained effect"):
        trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, max_steps=1), load=half_strength)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_leftovers_are_removed(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    leftover = tmp_path / "run" / ".0a1b-1-0a1b2c.tmp"
    leftover.mkdir(parents=True)
    (leftover / "adapter.safetensors").write_bytes(b"half")
    (tmp_path / "run" / ".0a1b-1-0a1b2d.tmp").write_bytes(b"half")
    trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, max_steps=1))
    assert [path.name for path in (tmp_path / "run").glob(".*")] == []


def test_useless_settings_are_rejected(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cfg_ratio 1 hides every caption"):
        trained(checkpoint, dataset, tmp_path, replace(LORA, attention_type="cross"), replace(CONFIG, cfg_ratio=1.0))


def test_renamed_song_changes_identity(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    """The held-out choice depends on names: a resumed run would train on a held-out song, or hold out a trained one."""
    renamed = replace(dataset, samples=(replace(dataset.samples[0], name="other.wav"), *dataset.samples[1:]))
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path, report=stop_at(2, Cancelled()))
    with pytest.raises(ConfigError, match="dataset differ"):
        trained(checkpoint, renamed, tmp_path)


def test_run_resumes_with_invariant_settings(
        checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path, report=stop_at(2, Cancelled()))
    sparing = replace(CONFIG, gradient_checkpointing="on", save_every=100)
    finished = trained(checkpoint, dataset, tmp_path, config=sparing)
    assert same_tensors(finished.path, undisturbed.path)


@pytest.mark.parametrize(("file", "content"), [("finished.json", ""), ("finished.json", "{}"), ("run.json", "")])
def test_damaged_run_files_are_named(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, file: str,
                                     content: str) -> None:
    config = replace(CONFIG, max_steps=1)
    trained(checkpoint, dataset, tmp_path, config=config)
    (tmp_path / "run" / file).write_text(content, encoding="utf-8")
    with pytest.raises(AdapterError, match=rf"{file} is damaged .*Delete"):
        trained(checkpoint, dataset, tmp_path, config=config)


def test_missing_adapter_is_published_again( checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, max_steps=1)
    first = trained(checkpoint, dataset, tmp_path, config=config)
    before = read_tensors(first.path)
    before = {name: tensor.clone() for name, tensor in before.items()}
    first.path.unlink()
    steps: list[Progress] = []
    again = trained(checkpoint, dataset, tmp_path, config=config, report=steps.append)
    assert not any("loss" in progress.metrics for progress in steps)
    after = read_tensors(again.path)
    assert all(torch.equal(after[name], before[name]) for name in before)


# How long, and how it ends


def facts(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(read_metadata(path)[METADATA_KEY])
    return found


def test_epochs_draw_every_song(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    """Two songs, three epochs, four at a time: the second step has two visits left."""
    reports: list[Progress] = []
    config = replace(CONFIG, epochs=3, gradient_accumulation=4)
    adapter = trained(checkpoint, dataset, tmp_path, config=config, report=reports.append)
    assert adapter.steps == 2
    rows = [row for row in read(tmp_path / "run" / FILE) if "loss" in row]
    assert [row["epoch"] for row in rows] == [2, 3]
    assert rows[-1]["lr"] < rows[0]["lr"]
    assert {progress.total for progress in reports if progress.stage == "train"} == {2}
    assert run_checkpoint.checkpoints(tmp_path / "run")[-1].name == "checkpoint-step-2"


def test_run_stops_early(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, max_steps=60, heldout_every=1, early_stopping=2, learning_rate=20.0, schedule="constant")
    reports: list[Progress] = []
    adapter = trained(checkpoint, dataset, tmp_path, config=config, report=reports.append)
    losses = [row["heldout"] for row in read(tmp_path / "run" / FILE) if "heldout" in row]
    best = min(range(1, len(losses)), key=losses.__getitem__)
    assert adapter.steps == len(losses) - 1 == best + 2 < 60
    ended = strict_json.read(tmp_path / "run" / "finished.json")["ended"]
    assert ended == facts(adapter.path)["ended"]
    assert ended.startswith(f"early_stopping: 2 held-out losses in a row were not lower than that of step {best}")
    assert [progress.notice for progress in reports if progress.message.startswith(ended)] == [ended]
    # The same folder ends there again, from its last checkpoint, without another step.
    adapter.path.unlink()
    assert trained(checkpoint, dataset, tmp_path, config=config).steps == adapter.steps


def test_run_stops_at_target_loss(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, max_steps=60, heldout_every=1, target_loss=100.0, learning_rate=0.1, schedule="constant")
    trained(checkpoint, dataset, tmp_path, config=config)
    losses = [row["heldout"] for row in read(tmp_path / "run" / FILE) if "heldout" in row]
    assert len(losses) - 1 < 60
    assert losses[-1] >= losses[-2]
    assert all(after < before for before, after in zip(losses[:-2], losses[1:-1], strict=True))
    assert strict_json.read(tmp_path / "run" / "finished.json")["ended"].startswith("target_loss: ")


def test_best_adapter_is_published(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, max_steps=3, heldout_every=1, keep_checkpoints=0, save_every=1, learning_rate=0.1,
                     schedule="constant", publish="best")
    adapter = trained(checkpoint, dataset, tmp_path, config=config)
    losses = {row["step"]: row["heldout"] for row in read(tmp_path / "run" / FILE) if "heldout" in row}
    best = min(range(1, 4), key=losses.__getitem__)
    assert best < 3
    assert (adapter.steps, adapter.heldout_last) == (best, losses[best])
    assert adapter.proof is not None
    assert adapter.proof.matched == 16
    assert same_tensors(adapter.path, tmp_path / "run" / "best" / ADAPTER_FILE)
    assert same_tensors(adapter.path, tmp_path / "run" / f"checkpoint-step-{best}" / ADAPTER_FILE)
    assert not same_tensors(adapter.path, tmp_path / "run" / "final" / ADAPTER_FILE)


@pytest.mark.parametrize("setting", [{}, {"ema_decay": 0.9}, {"publish": "best"}], ids=["last", "average", "best"])
def test_every_folder_opens_in_peft(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                    setting: dict[str, object]) -> None:
    """final/ with what was published, each checkpoint with what was measured."""
    config = replace(CONFIG, max_steps=3, heldout_every=1, save_every=1, learning_rate=0.1, schedule="constant")
    adapter = trained(checkpoint, dataset, tmp_path, config=replace(config, **setting))
    run = tmp_path / "run"
    wanted = {run / "final": adapter.path} | {path: usable(path) for path in run_checkpoint.checkpoints(run)}
    assert len(wanted) > 1
    for folder, file in wanted.items():
        for module, delta in opened_by_peft(checkpoint, folder).items():
            assert deviation(delta, formats.read(file).modules[module].delta(torch.zeros_like(delta))) <= FP32


def opened_by_peft(checkpoint: Checkpoint, folder: Path) -> dict[str, Tensor]:
    """Delta that ACE-Step's own program would add to each module."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(fresh(checkpoint), str(folder)).base_model.model
    found = {name: layer.get_delta_weight("default").detach() for name, layer in model.named_modules()
             if hasattr(layer, "get_delta_weight")}
    assert len(found) == 16
    return found


@pytest.mark.parametrize(("setting", "named"), [({"early_stopping": 3}, "early_stopping 3 judge"),
                                                ({"publish": "best"}, "publish best judge")])
def test_judging_needs_heldout_songs(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                     setting: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"{named}.*no song is held out\. Set heldout_songs to 1"):
        trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, heldout_songs=0, **setting))
    assert read(tmp_path / "run" / FILE) == []


def test_no_best_without_heldout(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, heldout_songs=0))
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize(("keep", "kept"), [(0, [1, 2, 3, 4, 5, 6]), (1, [6]), (3, [4, 5, 6])])
def test_so_many_checkpoints_are_kept(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, keep: int,
                                      kept: list[int]) -> None:
    trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, keep_checkpoints=keep, save_every=1))
    names = [path.name for path in run_checkpoint.checkpoints(tmp_path / "run")]
    assert names == [f"checkpoint-step-{step}" for step in kept]


# The moving average


def test_average_is_published(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter, tmp_path: Path) -> None:
    config = replace(CONFIG, ema_decay=0.9, keep_checkpoints=0, save_every=1)
    adapter = trained(checkpoint, dataset, tmp_path, config=config)
    run = tmp_path / "run"
    final, raw_before = run / "final", undisturbed.path.parent / "run"
    assert same_tensors(final / ADAPTER_FILE, undisturbed.path)
    assert same_tensors(final / AVERAGE_FILE, adapter.path)
    assert not same_tensors(final / AVERAGE_FILE, final / ADAPTER_FILE)
    assert adapter.heldout_last != undisturbed.heldout_last
    assert adapter.heldout_first == undisturbed.heldout_first
    assert [row.get("loss") for row in read(run / FILE)] == [row.get("loss") for row in read(raw_before / FILE)]
    key = next(name for name in read_tensors(adapter.path) if name.endswith("lora_B.weight"))
    average = torch.zeros_like(read_tensors(adapter.path)[key])
    for step in range(6):
        share = min(0.9, (1 + step) / (10 + step))
        raw = read_tensors(run / f"checkpoint-step-{step + 1}" / ADAPTER_FILE)[key]
        average = share * average + (1 - share) * raw
    assert deviation(read_tensors(adapter.path)[key], average) < FP32


# Notes


def test_sampling_facts_are_recorded(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                     tmp_path: Path) -> None:
    assert facts(undisturbed.path)["inference"] == {"shift": 3.0, "steps": 8}
    config = replace(CONFIG, shift=1.5, inference_steps=27)
    adapter = trained(checkpoint, dataset, tmp_path, config=config)
    assert facts(adapter.path)["inference"] == {"shift": 1.5, "steps": 27}
    assert same_tensors(adapter.path, undisturbed.path)


def test_changed_sampling_facts_are_republished(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    first = trained(checkpoint, dataset, tmp_path)
    reports: list[Progress] = []
    again = trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, shift=2.0), report=reports.append)
    assert facts(again.path)["inference"] == {"shift": 2.0, "steps": 8}
    assert same_tensors(first.path, again.path)
    assert again.path.name == "a-2.safetensors"
    assert not any("loss" in progress.metrics for progress in reports)


def test_best_adapter_records_the_end(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, publish="best")
    adapter = trained(checkpoint, dataset, tmp_path, config=config)
    assert facts(adapter.path)["ended"] == "All 6 steps are done."
    noted = replace(config, shift=2.0)
    again = trained(checkpoint, dataset, tmp_path, config=noted)
    assert facts(again.path)["inference"] == {"shift": 2.0, "steps": 8}
    reports: list[Progress] = []
    assert trained(checkpoint, dataset, tmp_path, config=noted, report=reports.append) == again
    assert reports == []


def test_overruled_settings_are_reported(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    reports: list[Progress] = []
    config = replace(CONFIG, max_steps=12, optimizer="prodigy", warmup_steps=5)
    adapter = trained(checkpoint, dataset, tmp_path, config=config, report=reports.append)
    told = [progress.notice for progress in reports if progress.notice]
    assert told == ["prodigy finds the learning rate itself: it runs at learning_rate 1.0, not at 0.003."]
    assert facts(adapter.path)["train"] == config.to_json()
    used = facts(adapter.path)["resolved"]
    assert isinstance(used, dict)
    assert (used["learning_rate"], used["schedule"]) == (1.0, "constant")
    assert {row["lr"] for row in read(tmp_path / "run" / FILE) if "lr" in row} == {1.0}
    reports.clear()
    config = replace(CONFIG, max_steps=12, warmup_steps=5)
    trained(checkpoint, dataset, tmp_path / "adamw", config=config, report=reports.append)
    assert [progress.notice for progress in reports if progress.notice] == [
        "Warm-up takes 1 steps, not 5: at most one in 10 of the run's 12."]


# Previews


def test_previews_change_no_bit(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter, tmp_path: Path) -> None:
    made: list[tuple[int, bool]] = []

    def preview(file: Path | None, step: int) -> None:
        torch.manual_seed(0)
        torch.rand(10)
        if file is not None:
            assert same_tensors(file, tmp_path / "run" / f"checkpoint-step-{step}" / ADAPTER_FILE)
        made.append((step, file is None))

    config = replace(CONFIG, preview_every=3)
    adapter = trained(checkpoint, dataset, tmp_path, config=config, preview=preview)
    assert made == [(0, True), (3, False), (6, False)]
    assert same_tensors(adapter.path, undisturbed.path)
    trained(checkpoint, dataset, tmp_path / "none", preview=preview)
    assert len(made) == 3


def test_failed_preview_costs_nothing(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                      tmp_path: Path) -> None:
    def preview(file: Path | None, step: int) -> None:
        raise RuntimeError(f"no room at {step}")

    reports: list[Progress] = []
    adapter = trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, preview_every=4), preview=preview,
                      report=reports.append)
    assert [progress.message for progress in reports if progress.stage == "preview"] == [
        f"The preview at step {step} failed, training goes on: no room at {step}" for step in (0, 4)]
    assert [progress.notice for progress in reports if progress.stage == "preview"] == [
        f"The preview at step {step} failed, training goes on: no room at {step}" for step in (0, 4)]
    assert same_tensors(adapter.path, undisturbed.path)


@pytest.mark.parametrize("signal", [Cancelled(), Interrupt()], ids=["cancelled", "host interrupt"])
def test_a_preview_can_be_cancelled(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter, tmp_path: Path,
                                    signal: BaseException) -> None:
    def preview(file: Path | None, step: int) -> None:
        if step == 3:
            raise signal

    config = replace(CONFIG, preview_every=3)
    with pytest.raises(type(signal)):
        trained(checkpoint, dataset, tmp_path, config=config, preview=preview)
    assert (tmp_path / "a-step-3.safetensors").is_file()
    assert same_tensors(trained(checkpoint, dataset, tmp_path, config=config).path, undisturbed.path)
