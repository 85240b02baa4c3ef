"""Start of a run at a checkpoint of this or another run, or at weights; nothing is touched that does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sidestep_core.adapters import file as adapter_file
from sidestep_core.adapters.file import Adapter
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import AdapterError, ConfigError
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress
from sidestep_core.training import resume, run_checkpoint
from sidestep_core.training.metrics import FILE, read
from sidestep_core.training.run_checkpoint import ADAPTER_FILE
from sidestep_core.training.train import identity
from tests.adapters import KINDS, attached, taught
from tests.tiny import write_dataset
from tests.tolerance import FP32, PERTURBED, deviation
from tests.training import CONFIG, LORA, same_tensors, trained

KEPT = replace(CONFIG, keep_checkpoints=0, ema_decay=0.5)


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 51, 40))


@pytest.fixture(scope="module")
def finished(checkpoint: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return trained(checkpoint, dataset, tmp_path_factory.mktemp("finished"), config=KEPT)


@pytest.fixture
def folder(finished: Adapter, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    shutil.copytree(finished.path.parent, tmp_path / "old")
    return tmp_path / "old"


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def names(run: Path) -> list[str]:
    return [path.name for path in run_checkpoint.checkpoints(run)]


def test_other_run_resumes_exactly(checkpoint: Checkpoint, dataset: Dataset,
                                   finished: Adapter, folder: Path,
                                   tmp_path: Path) -> None:
    before = contents(folder)
    chosen = folder / "run" / "checkpoint-step-4"
    steps: list[Progress] = []
    adapter = trained(checkpoint, dataset, tmp_path / "new", config=KEPT, resume_from=chosen, report=steps.append)
    assert same_tensors(adapter.path, finished.path)
    assert names(tmp_path / "new" / "run") == ["checkpoint-step-4", "checkpoint-step-6"]
    assert read(tmp_path / "new" / "run" / FILE) == read(folder / "run" / FILE)
    assert [progress.step for progress in steps if "loss" in progress.metrics] == [5, 6]
    assert contents(folder) == before
    again = trained(checkpoint, dataset, tmp_path / "new", config=KEPT, resume_from=chosen)
    assert again == adapter


def test_longer_run_resumes_from_checkpoint(checkpoint: Checkpoint, dataset: Dataset, folder: Path,
                                            tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = replace(KEPT, max_steps=8, learning_rate=1e-3, schedule="constant")
    adapter = trained(checkpoint, dataset, tmp_path / "new", config=config,
                      resume_from=folder / "run" / "checkpoint-step-6")
    assert adapter.steps == 8
    rows = [row for row in read(tmp_path / "new" / "run" / FILE) if "lr" in row]
    assert [row["lr"] for row in rows[-2:]] == [1e-3, 1e-3]
    for setting in ("train.max_steps: 8, before 6", "train.learning_rate: 0.001, before 0.003",
                    "train.schedule: 'constant', before 'cosine'"):
        assert any(setting in message for message in caplog.messages)


def test_checkpoint_beyond_end_is_rejected(checkpoint: Checkpoint, dataset: Dataset, folder: Path,
                                           tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint-step-6 is at step 6, but this run has only 5 steps"):
        trained(checkpoint, dataset, tmp_path / "new", config=replace(KEPT, max_steps=5),
                resume_from=folder / "run" / "checkpoint-step-6")
    assert not (tmp_path / "new" / "run").exists()


def test_run_rewinds_to_its_checkpoint(checkpoint: Checkpoint, dataset: Dataset, finished: Adapter,
                                       folder: Path) -> None:
    chosen = folder / "run" / "checkpoint-step-2"
    steps: list[Progress] = []
    shutil.rmtree(folder / "run" / "best")
    adapter = trained(checkpoint, dataset, folder, config=KEPT, resume_from=chosen, report=steps.append)
    assert [progress.step for progress in steps if "loss" in progress.metrics] == [3, 4, 5, 6]
    assert same_tensors(adapter.path, finished.path)
    assert same_tensors(folder / "run" / "best" / ADAPTER_FILE, finished.path.parent / "run" / "best" / ADAPTER_FILE)
    assert read(folder / "run" / FILE) == read(finished.path.parent / "run" / FILE)


def test_rewound_run_accepts_other_settings(checkpoint: Checkpoint, dataset: Dataset, folder: Path) -> None:
    config = replace(KEPT, max_steps=5)
    adapter = trained(checkpoint, dataset, folder, config=config, resume_from=folder / "run" / "checkpoint-step-2")
    assert adapter.steps == 5
    assert names(folder / "run") == ["checkpoint-step-2", "checkpoint-step-4", "checkpoint-step-5"]
    assert trained(checkpoint, dataset, folder, config=config) == adapter


@pytest.mark.parametrize(("change", "named"), [
    (lambda: {"adapter": replace(LORA, rank=8)}, r"adapter\.rank is 4 there and 8 here"),
    (lambda: {"adapter": replace(LORA, attention_type="self")}, r"adapter\.attention_type is 'both' there"),
    (lambda: {"config": replace(KEPT, optimizer="adafactor")}, r"train\.optimizer is 'adamw' there and 'adafactor'"),
    (lambda: {"config": replace(KEPT, heldout_songs=2)}, r"train\.heldout_songs is 1 there and 2 here"),
    (lambda: {"config": replace(KEPT, seed=7)}, r"train\.seed is 42 there and 7 here"),
])  # fmt: skip
def test_other_training_cannot_resume(
        checkpoint: Checkpoint, dataset: Dataset, folder: Path, tmp_path: Path,
        change: Callable[[], dict[str, object]], named: str) -> None:
    before = contents(folder)
    given = {"config": KEPT, "resume_from": folder / "run" / "checkpoint-step-4", **change()}
    for place in (tmp_path / "new", folder):
        with pytest.raises(ConfigError, match=rf"checkpoint-step-4 cannot be continued here: .*{named}.*start_from"):
            trained(checkpoint, dataset, place, **given)
    assert contents(folder) == before
    assert not (tmp_path / "new" / "run").exists()


def test_other_dataset_cannot_resume(checkpoint: Checkpoint, dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    given = {"config": KEPT, "resume_from": folder / "run" / "checkpoint-step-4"}
    other = write_dataset(tmp_path / "dataset", checkpoint, (40, 51, 40, 40))
    with pytest.raises(ConfigError, match=r"dataset is '\w+' there"):
        trained(checkpoint, other, tmp_path / "new", **given)
    model = replace(checkpoint, fingerprint="other")
    with pytest.raises(ConfigError, match=r"checkpoint is '\w+' there and 'other' here"):
        trained(model, replace(dataset, checkpoint="other"), tmp_path / "new", **given)
    assert not (tmp_path / "new" / "run").exists()


@pytest.mark.parametrize("own", [True, False])
def test_damaged_checkpoint_is_rejected(checkpoint: Checkpoint, dataset: Dataset,
                                        folder: Path, tmp_path: Path, own: bool) -> None:
    (folder / "run" / "checkpoint-step-2" / "optimizer.safetensors").write_bytes(b"half")
    before = contents(folder)
    with pytest.raises(AdapterError, match=r"checkpoint-step-2 is damaged"):
        trained(checkpoint, dataset, folder if own else tmp_path / "new", config=KEPT,
                resume_from=folder / "run" / "checkpoint-step-2")
    assert contents(folder) == before
    assert not (tmp_path / "new" / "run").exists()


def test_missing_checkpoint_is_named(checkpoint: Checkpoint, dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"holds no checkpoint\. Choose a folder checkpoint-step-N.*start_from"):
        trained(checkpoint, dataset, tmp_path / "new", config=KEPT, resume_from=folder / "run")
    (folder / "run" / "run.json").unlink()
    with pytest.raises(AdapterError, match=r"run\.json is missing.*start_from"):
        trained(checkpoint, dataset, tmp_path / "new", config=KEPT, resume_from=folder / "run" / "checkpoint-step-4")


# Weights only


def test_run_starts_from_an_adapter(checkpoint: Checkpoint, dataset: Dataset, finished: Adapter,
                                    tmp_path: Path) -> None:
    config = replace(CONFIG, seed=7, heldout_songs=0, max_steps=1)
    plain = trained(checkpoint, dataset, tmp_path / "plain", config=config)
    adapter = trained(checkpoint, dataset, tmp_path / "new", config=config, start_from=finished.path)
    assert adapter.steps == 1
    assert adapter.heldout_first != plain.heldout_first
    assert not same_tensors(adapter.path, plain.path)
    first = read_tensors(finished.path)
    found = read_tensors(adapter.path)
    key = next(name for name in first if name.endswith("lora_A.weight"))
    assert 0 < float((found[key] - first[key]).abs().max()) < 2 * config.learning_rate


def test_other_shape_is_rejected(checkpoint: Checkpoint, dataset: Dataset, finished: Adapter, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="this run needs"):
        trained(checkpoint, dataset, tmp_path, adapter=replace(LORA, rank=2), start_from=finished.path)


def test_missing_start_file_is_named(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter file .*gone\.safetensors"):
        trained(checkpoint, dataset, tmp_path, start_from=tmp_path / "gone.safetensors")


# What makes a run another one


def test_start_files_change_identity(checkpoint: Checkpoint, dataset: Dataset, folder: Path) -> None:
    def of(**start: Path) -> object:
        return identity(checkpoint, dataset, LORA, KEPT, **start)

    chosen, adapter = folder / "run" / "checkpoint-step-4", folder / "a.safetensors"
    found = [of(), of(resume_from=chosen), of(resume_from=folder / "run" / "checkpoint-step-2"), of(start_from=adapter)]
    assert all(one != other for number, one in enumerate(found) for other in found[:number])
    assert of(resume_from=chosen) == found[1]
    copied = shutil.copytree(chosen, folder / "elsewhere")
    assert of(resume_from=copied) == found[1]
    adapter.write_bytes(adapter.read_bytes() + b" ")
    changed = of(start_from=adapter)
    (folder / "adapter_config.json").write_text('{"lora_alpha": 4}', encoding="utf-8")
    assert found[3] != changed != of(start_from=adapter) != found[3]


def test_invariant_settings_keep_identity(checkpoint: Checkpoint, dataset: Dataset) -> None:
    shown = replace(KEPT, shift=2.0, inference_steps=9, tensorboard=True, preview_every=5, keep_checkpoints=7,
                    save_every=3, device="auto", gradient_checkpointing="on", log_every=1)
    assert identity(checkpoint, dataset, LORA, shown) == identity(checkpoint, dataset, LORA, KEPT)
    for other in (replace(KEPT, ema_decay=0.4), replace(KEPT, optimizer="prodigy"), replace(KEPT, publish="best")):
        assert identity(checkpoint, dataset, LORA, other) != identity(checkpoint, dataset, LORA, KEPT)


def test_automatic_genre_ratio_identifies_run(checkpoint: Checkpoint, dataset: Dataset) -> None:
    told = replace(dataset, genre_ratio=0.25)
    quarter, never = replace(KEPT, genre_ratio=0.25), replace(KEPT, genre_ratio=0.0)
    assert identity(checkpoint, told, LORA, KEPT) == identity(checkpoint, dataset, LORA, quarter)
    assert identity(checkpoint, dataset, LORA, KEPT) == identity(checkpoint, told, LORA, never)
    assert identity(checkpoint, told, LORA, KEPT) != identity(checkpoint, dataset, LORA, KEPT)


# Weights of another file


@pytest.mark.parametrize("kind", KINDS)
def test_start_from_takes_every_kind(checkpoint: Checkpoint, tmp_path: Path, kind: str) -> None:
    taught_one, fresh_one = (make(checkpoint, KINDS[kind])[1] for make in (taught, attached))
    adapter_file.write(tmp_path / "a.safetensors", taught_one.state_dict(), {})
    fresh_one.load_state_dict(resume.weights_of(tmp_path / "a.safetensors", fresh_one.state_dict()))
    for expected, found in zip(taught_one.deltas(), fresh_one.deltas(), strict=True):
        assert expected.delta.abs().max() > 0
        assert deviation(found.delta, expected.delta) < FP32


@pytest.mark.parametrize("alpha", [3.0, 24.0])
def test_start_from_rescales_alpha(checkpoint: Checkpoint, tmp_path: Path, alpha: float) -> None:
    configs = {kind: KINDS[kind] for kind in ("lora", "rslora", "dora", "lokr", "loha")}
    for kind, config in configs.items():
        other = taught(checkpoint, replace(config, alpha=alpha))[1]
        path = tmp_path / f"{kind}.safetensors"
        adapter_file.write(path, other.state_dict(), {})
        live = attached(checkpoint, config)[1]
        live.load_state_dict(resume.weights_of(path, live.state_dict()))
        for expected, found in zip(other.deltas(), live.deltas(), strict=True):
            assert deviation(found.delta, expected.delta) < FP32
            assert deviation(found.delta, 2 * expected.delta) > PERTURBED


def test_unfit_start_file_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    adapter_file.write(path, taught(checkpoint, KINDS["lora"])[1].state_dict(), {})
    live = attached(checkpoint, KINDS["lora-ranks"])[1]
    with pytest.raises(AdapterError, match=r"cannot start from a.safetensors: .*Use the kind, rank and modules"):
        resume.weights_of(path, live.state_dict())
