"""Requests to a run in progress: met after a step, once, and without a trace in the adapter."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core.adapters.file import Adapter, facts_of
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress, Report
from sidestep_core.training import metrics, publish, run_checkpoint, train
from sidestep_core.training.config import Optimizer
from sidestep_core.training.controls import Controls, GaveWay, Refused, Request
from tests.tiny import write_dataset
from tests.training import CONFIG, LORA, same_tensors, trained

EVERYTHING = replace(CONFIG, max_steps=7, ema_decay=0.9, chunk_duration=1.6, cfg_ratio=0.3, publish="best",
                     save_every=3, heldout_every=3)
PUBLISHED = ("final/adapter.safetensors", "final/ema.safetensors", "best/adapter.safetensors", metrics.FILE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (60, 71, 60), windows=(40,))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, dataset: Dataset) -> Adapter:
    return trained(checkpoint, dataset, tmp_path_factory.mktemp("undisturbed"))


def asking(controls: Controls, requests: dict[int, list[Request]]) -> Report:
    """Make a report that requests these after the steps, once each, and ends every pause at once."""
    left = {step: list(names) for step, names in requests.items()}

    def report(progress: Progress) -> None:
        if progress.stage == "pause":
            controls.withdraw("pause")
        elif "loss" in progress.metrics:
            for request in left.pop(progress.step, []):
                controls.ask(request)

    return report


def steps_with(folder: Path, key: str) -> list[int]:
    return [row["step"] for row in metrics.read(folder / "run" / metrics.FILE) if key in row]


def kept(folder: Path) -> list[int]:
    return [run_checkpoint.step_of(path) for path in run_checkpoint.checkpoints(folder / "run")]


def ended(folder: Path) -> str:
    found: str = json.loads((folder / "run" / "finished.json").read_text(encoding="utf-8"))["ended"]
    return found


def random_requests(seed: str, steps: int) -> dict[int, list[Request]]:
    chance = random.Random(seed)
    names: tuple[Request, ...] = ("save", "preview", "pause")
    return {step: chance.sample(names, chance.randrange(4)) for step in range(1, steps - 1)}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "prodigy"])
def test_requests_change_no_bit(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, optimizer: Optimizer) -> None:
    config, adapter = replace(EVERYTHING, optimizer=optimizer), replace(LORA, rank=64)

    def run(name: str, requests: dict[int, list[Request]], previewed: list[int]) -> Adapter:
        controls = Controls()
        return trained(checkpoint, dataset, tmp_path / name, adapter, config, controls=controls,
                       preview=lambda file, step: draw(previewed, step), report=asking(controls, requests))

    def draw(previewed: list[int], step: int) -> None:
        torch.rand(3)
        previewed.append(step)

    expected = run("undisturbed", {}, [])
    requests = random_requests(optimizer, config.max_steps)
    previewed: list[int] = []
    assert run("disturbed", requests, previewed).path.read_bytes() == expected.path.read_bytes(), requests
    assert previewed == [step for step, names in requests.items() if "preview" in names]
    for name in PUBLISHED:
        ours, theirs = (tmp_path / folder / "run" / name for folder in ("disturbed", "undisturbed"))
        assert ours.read_bytes() == theirs.read_bytes(), (name, requests)
    saved = {int(path.stem.rpartition("-")[2]) for path in (tmp_path / "disturbed").glob("a-step-*")}
    assert saved == {step for step, names in requests.items() if "save" in names}


def test_threads_may_request_anytime(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                     tmp_path: Path) -> None:
    controls, over = Controls(), threading.Event()

    def click() -> None:
        chance = random.Random(1)
        while not over.wait(chance.random() / 50):
            controls.withdraw("pause")
            with contextlib.suppress(Refused):
                controls.ask(chance.choice(("save", "pause")))
        controls.withdraw("pause")

    def report(progress: Progress) -> None:
        if progress.step == CONFIG.max_steps - 1 and progress.metrics:
            over.set()

    clicks = threading.Thread(target=click)
    clicks.start()
    found = trained(checkpoint, dataset, tmp_path, controls=controls, report=report)
    clicks.join()
    assert same_tensors(found.path, undisturbed.path)
    assert steps_with(tmp_path, "loss") == [1, 2, 3, 4, 5, 6]


def test_pause_frees_model_and_optimizer(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    prepare, controls, paused = train.prepare, Controls(), []

    def watched(*arguments: Any) -> Any:
        training = prepare(*arguments)
        alive.extend(map(weakref.ref, (training.objective.decoder, training.optimizer, *training.adapter.parameters)))
        return training

    def report(progress: Progress) -> None:
        asked(progress)
        if progress.stage == "pause":
            paused.append(progress.message)
            assert [found for found in alive if found() is not None] == []
            assert controls.is_paused

    asked = asking(controls, {3: ["pause", "pause"]})
    monkeypatch.setattr(train, "prepare", watched)
    trained(checkpoint, dataset, tmp_path, controls=controls, report=report)
    assert paused == ["Paused at step 3. The card is free."]
    assert not controls.is_paused


def test_stop_ends_a_pause(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter, tmp_path: Path) -> None:
    controls = Controls()

    def report(progress: Progress) -> None:
        if progress.stage == "pause":
            raise Cancelled
        if progress.step == 4 and progress.metrics:
            controls.ask("pause")

    with pytest.raises(Cancelled, match=r"Stopped after step 4 of 6.*a-step-4\.safetensors.*continue"):
        trained(checkpoint, dataset, tmp_path, controls=controls, report=report)
    assert (tmp_path / "a-step-4.safetensors").is_file()
    assert not controls.is_paused
    assert trained(checkpoint, dataset, tmp_path).path.read_bytes() == undisturbed.path.read_bytes()


def test_withdrawn_pause_is_no_pause(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    controls, stages = Controls(), set()

    def report(progress: Progress) -> None:
        stages.add(progress.stage)
        controls.ask("pause")
        controls.withdraw("pause")

    trained(checkpoint, dataset, tmp_path, controls=controls, report=report)
    assert "pause" not in stages


def test_parked_run_loads_nothing(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    controls, stages = Controls(), []
    controls.ask("pause")

    def report(progress: Progress) -> None:
        stages.append(progress.stage)
        controls.withdraw("pause")

    trained(checkpoint, dataset, tmp_path, controls=controls, report=report)
    assert stages[:2] == ["pause", "load"]


def finished_after(step: int, checkpoint: Checkpoint, dataset: Dataset, folder: Path, **more: Any) -> Adapter:
    """Train, and request the end after `step`."""
    controls = Controls()
    return trained(checkpoint, dataset, folder, controls=controls, report=asking(controls, {step: ["finish"]}), **more)


@pytest.mark.parametrize("step", [3, 4])
def test_finish_publishes_present_step(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, step: int) -> None:
    adapter = finished_after(step, checkpoint, dataset, tmp_path)
    assert (adapter.path.name, adapter.steps) == ("a.safetensors", step)
    assert adapter.proof is not None
    assert adapter.proof.matched == adapter.proof.total == 16
    assert ended(tmp_path) == facts_of(adapter.path)["ended"] == f"Finished by hand after step {step} of 6."
    assert steps_with(tmp_path, "heldout")[-1] == step
    assert same_tensors(tmp_path / "run" / f"checkpoint-step-{step}" / "adapter.safetensors", adapter.path)
    assert trained(checkpoint, dataset, tmp_path) == adapter


def test_finish_measures_before_choosing(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, publish="best", heldout_every=100)
    assert finished_after(2, checkpoint, dataset, tmp_path, config=config).steps == 2


@pytest.mark.parametrize("publish_which", ["last", "best"])
def test_reopened_run_equals_undisturbed(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                         publish_which: Any) -> None:
    config = replace(EVERYTHING, publish=publish_which)
    whole = trained(checkpoint, dataset, tmp_path / "undisturbed", config=config)
    finished_after(4, checkpoint, dataset, tmp_path / "reopened", config=config)
    run_checkpoint.reopen(tmp_path / "reopened" / "run")
    longer = trained(checkpoint, dataset, tmp_path / "reopened", config=config)
    assert longer.path.name == "a-2.safetensors"
    assert longer.path.read_bytes() == whole.path.read_bytes()
    for name in PUBLISHED:
        ours, theirs = (tmp_path / folder / "run" / name for folder in ("reopened", "undisturbed"))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_lost_file_is_published_again(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    adapter = finished_after(3, checkpoint, dataset, tmp_path)
    content = adapter.path.read_bytes()
    adapter.path.unlink()
    again = trained(checkpoint, dataset, tmp_path)
    assert (again.path.read_bytes(), steps_with(tmp_path, "loss")) == (content, [1, 2, 3])
    assert ended(tmp_path) == "Finished by hand after step 3 of 6."


def test_lost_checkpoints_are_trained_again(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                            tmp_path: Path) -> None:
    finished_after(3, checkpoint, dataset, tmp_path).path.unlink()
    for saved in run_checkpoint.checkpoints(tmp_path / "run"):
        shutil.rmtree(saved)
    assert trained(checkpoint, dataset, tmp_path).path.read_bytes() == undisturbed.path.read_bytes()


def test_finish_acts_after_preview(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    controls, done = Controls(), []

    def preview(file: Path | None, step: int) -> None:
        controls.ask("finish")
        done.append(step)

    config = replace(CONFIG, preview_every=2)
    adapter = trained(checkpoint, dataset, tmp_path, config=config, controls=controls, preview=preview)
    assert done == [0]
    assert adapter.steps == 1
    # Requested before the first step, it acts after that: there is nothing to publish earlier.


def test_finish_ends_a_pause(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    controls = Controls()

    def report(progress: Progress) -> None:
        if progress.stage == "pause":
            controls.ask("finish")
        elif progress.step == 3 and progress.metrics and not controls.pending:
            controls.ask("pause")

    assert trained(checkpoint, dataset, tmp_path, controls=controls, report=report).steps == 3


def test_requested_save_prunes_checkpoints(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    controls = Controls()
    config = replace(CONFIG, save_every=100, keep_checkpoints=2)
    reports: list[Progress] = []
    asked = asking(controls, {step: ["save", "save"] for step in (1, 3, 5)})

    def report(progress: Progress) -> None:
        reports.append(progress)
        asked(progress)

    trained(checkpoint, dataset, tmp_path, config=config, controls=controls, report=report)
    assert kept(tmp_path) == [5, 6]
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "a-step-1.safetensors", "a-step-3.safetensors", "a-step-5.safetensors", "a.safetensors"]
    assert [report.notice for report in reports if report.stage == "save" and report.notice] == [
        f"a-step-{step}.safetensors is in your LoRA list." for step in (1, 3, 5)]


def test_giving_way_resumes_exactly(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter,
                                    tmp_path: Path) -> None:
    controls = Controls()
    with pytest.raises(GaveWay, match="Stopped after step 3 of 6 for other work"):
        trained(checkpoint, dataset, tmp_path, controls=controls, report=asking(controls, {3: ["give_way"]}))
    assert kept(tmp_path)[-1] == 3
    assert list(tmp_path.glob("*.safetensors")) == []
    assert trained(checkpoint, dataset, tmp_path).path.read_bytes() == undisturbed.path.read_bytes()


def test_paused_run_gives_way(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    controls = Controls()

    def report(progress: Progress) -> None:
        if progress.stage == "pause":
            controls.ask("give_way")
        elif progress.step == 2 and progress.metrics:
            controls.ask("pause")

    with pytest.raises(GaveWay, match="Stopped after step 2 of 6 for other work"):
        trained(checkpoint, dataset, tmp_path, controls=controls, report=report)


@pytest.mark.parametrize("request_name", ["save", "pause", "give_way"])
def test_failing_request_ends_nothing(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Adapter, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch, request_name: Request) -> None:
    controls, notices = Controls(), []
    save: Callable[..., Path] = publish.save_checkpoint

    def full(training: Any, run: Any, state: Any, **more: Any) -> Path:
        if state.step == 3:
            raise OSError("no room")
        return save(training, run, state, **more)

    monkeypatch.setattr(publish, "save_checkpoint", full)
    asked = asking(controls, {3: [request_name]})

    def report(progress: Progress) -> None:
        notices.append(progress.notice)
        asked(progress)

    found = trained(checkpoint, dataset, tmp_path, controls=controls, report=report)
    assert found.path.read_bytes() == undisturbed.path.read_bytes()
    assert [notice for notice in notices if "no room" in notice]
    assert controls.pending == ()


def test_pause_waits_for_unwritten_numbers(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at step 3 alone."""
    controls, append, paused = Controls(), metrics.Metrics._append, []

    def full(rows: metrics.Metrics, row: metrics.Row) -> metrics.Row:
        if row["step"] == 3 and "pause" not in controls.pending:
            controls.ask("pause")
            raise OSError("no room")
        return append(rows, row)

    def report(progress: Progress) -> None:
        if progress.stage == "pause":
            paused.append(progress.step)
            controls.withdraw("pause")

    monkeypatch.setattr(metrics.Metrics, "_append", full)
    trained(checkpoint, dataset, tmp_path, controls=controls, report=report)
    assert (paused, steps_with(tmp_path, "loss")) == ([3], [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("request_name", ["save", "preview", "pause"])
def test_finishing_run_refuses_others(request_name: Request) -> None:
    controls = Controls()
    controls.ask("pause")
    controls.ask("finish")
    controls.ask("finish")
    assert controls.pending == ("finish",)
    with pytest.raises(Refused, match="about to finish"):
        controls.ask(request_name)


def test_request_of_the_last_moment_is_met(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    """Made during the last preview, after the run has looked for requests: met, as the run has not ended yet."""
    controls, seen = Controls(), list[int]()

    def preview(adapter: Path | None, step: int) -> None:
        seen.append(step)
        if seen == [0, 4]:
            controls.ask("preview")
            controls.ask("save")

    config = replace(CONFIG, max_steps=4, preview_every=4)
    trained(checkpoint, dataset, tmp_path, config=config, controls=controls, preview=preview)
    assert seen == [0, 4, 4]
    assert controls.pending == ()
    with pytest.raises(Refused, match="about to finish"):
        controls.ask("preview")


def test_paused_run_refuses_saving() -> None:
    controls, refused = Controls(), []

    def report(progress: Progress) -> None:
        assert controls.is_paused
        for request in ("save", "preview"):
            with pytest.raises(Refused, match="paused. Continue it first"):
                controls.ask(request)
            refused.append(request)
        controls.ask("pause")
        controls.withdraw("pause")

    controls.ask("pause")
    controls.wait(report, Progress(stage="pause", step=1, total=2))
    assert refused == ["save", "preview"]
    controls.withdraw("pause")
    assert controls.pending == ()


def test_requests_have_an_order() -> None:
    controls = Controls()
    for request in ("pause", "give_way", "preview", "save"):
        controls.ask(request)
    assert controls.drain() == ("save", "preview", "give_way", "pause")
    assert controls.drain() == ("give_way", "pause")
