"""A run continues exactly where it stopped, even when it was killed while it saved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sidestep_core.adapters.file import Adapter
from sidestep_core.adapters.proof import Proof
from sidestep_core.errors import AdapterError, ConfigError
from sidestep_core.io import atomic, hashing, strict_json
from sidestep_core.io.tensors import write_tensors
from sidestep_core.training import run_checkpoint
from sidestep_core.training.run_checkpoint import RunState

IDENTITY = {"checkpoint": "abc", "dataset": "def", "adapter": {"rank": 4}, "train": {"seed": 42, "mu": None}}


def optimizer_after(steps: int) -> torch.optim.Optimizer:
    """AdamW that made so many steps; its state tells how many."""
    parameters = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5))]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for step in range(steps):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, step + 1.0)
        optimizer.step()
    return optimizer


def same_state(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    first, second = one.state_dict()["state"], other.state_dict()["state"]
    return first.keys() == second.keys() and all(
        first[index].keys() == second[index].keys()
        and all(torch.equal(first[index][name], second[index][name]) for name in first[index]) for index in first)


def save(folder: Path, step: int, keep: int = 2) -> Path:
    """A checkpoint whose every part shows its step."""
    def write_adapter(path: Path) -> None:
        write_tensors(path, {"x": torch.full((4,), float(step))})

    return run_checkpoint.save(folder, RunState(step=step, heldout_step=0, heldout_first=1.5), optimizer_after(step),
                               dict.fromkeys((run_checkpoint.ADAPTER_FILE, run_checkpoint.AVERAGE_FILE), write_adapter),
                               keep)


def check_whole(path: Path) -> int:
    """The step that a checkpoint is of, after making sure that all of its parts are."""
    optimizer = optimizer_after(0)
    saved = run_checkpoint.read(path)
    run_checkpoint.restore_optimizer(saved, optimizer)
    step = saved.state.step
    assert path.name == f"checkpoint-step-{step}"
    assert same_state(optimizer, optimizer_after(step))
    assert saved.average is not None
    for tensors in (saved.adapter, saved.average):
        assert torch.equal(tensors["x"], torch.full((4,), float(step)))
    return step


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    assert check_whole(save(tmp_path, 3)) == 3
    state = run_checkpoint.read(tmp_path / "checkpoint-step-3").state
    assert state == RunState(step=3, heldout_step=0, heldout_first=1.5)


def test_restored_optimizer_is_bit_identical(tmp_path: Path) -> None:
    save(tmp_path, 3)
    undisturbed, continued = optimizer_after(3), optimizer_after(0)
    run_checkpoint.restore_optimizer(run_checkpoint.read(tmp_path / "checkpoint-step-3"), continued)
    for optimizer, other in ((undisturbed, continued), (continued, undisturbed)):
        for group, other_group in zip(optimizer.param_groups, other.param_groups, strict=True):
            assert len(group["params"]) == len(other_group["params"])
            for parameter in group["params"]:
                parameter.data.zero_()
                parameter.grad = torch.full_like(parameter, 9.0)
    undisturbed.step()
    continued.step()
    for one, other in zip(undisturbed.param_groups[0]["params"], continued.param_groups[0]["params"], strict=True):
        assert torch.equal(one, other)
    assert same_state(undisturbed, continued)


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    for step in (1, 9, 10, 100):
        save(tmp_path, step)
    assert [path.name for path in run_checkpoint.checkpoints(tmp_path)] == ["checkpoint-step-10", "checkpoint-step-100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-step-10", "checkpoint-step-100"]


def test_keep_checkpoints_is_followed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep=0)
    assert len(run_checkpoint.checkpoints(tmp_path)) == 3
    save(tmp_path, 4, keep=1)
    assert [path.name for path in run_checkpoint.checkpoints(tmp_path)] == ["checkpoint-step-4"]


def test_busy_checkpoint_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_use(path: Path) -> None:
        raise PermissionError(f"{path} is open in another program")

    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "remove_folder", in_use)
        assert check_whole(save(tmp_path, 2, keep=1)) == 2
    assert len(run_checkpoint.checkpoints(tmp_path)) == 2
    save(tmp_path, 3, keep=1)
    assert [path.name for path in run_checkpoint.checkpoints(tmp_path)] == ["checkpoint-step-3"]


def test_lock_removes_leftovers(tmp_path: Path) -> None:
    run_checkpoint.lock(tmp_path, IDENTITY)
    for name in (".0a1b-1-00000a.tmp/adapter.safetensors", ".0a1b-1-00000b.tmp", "best/.0a1b-1-00000c.tmp",
                 "best/adapter.safetensors"):
        atomic.write_text(tmp_path / name, "half")
    run_checkpoint.lock(tmp_path, IDENTITY)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["best/adapter.safetensors", "run.json"]


def test_saving_twice_keeps_the_first(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert save(tmp_path, 3) == path
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_failing_write_leaves_no_checkpoint(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half", encoding="utf-8")
        raise OSError("disk full")

    save(tmp_path, 1)
    with pytest.raises(OSError, match="disk full"):
        run_checkpoint.save(tmp_path, RunState(step=2), optimizer_after(2), {run_checkpoint.ADAPTER_FILE: fail}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-step-1"]


def test_other_folders_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-step-", "checkpoint-step-3.old", ".checkpoint-step-3.abc.tmp", "checkpoint-step-x"):
        (tmp_path / name).mkdir()
    assert run_checkpoint.checkpoints(tmp_path) == []


@pytest.mark.parametrize(("file", "damage"), [
    ("adapter.safetensors", "missing"), ("optimizer.safetensors", "missing"), ("state.json", "missing"),
    ("adapter.safetensors", "empty"), ("optimizer.safetensors", "empty"), ("state.json", "empty"),
    ("adapter.safetensors", "cut"), ("optimizer.safetensors", "cut"), ("state.json", "cut"),
    ("ema.safetensors", "empty"), ("ema.safetensors", "cut"),
])  # fmt: skip
def test_damaged_checkpoint_is_named(tmp_path: Path, file: str, damage: str) -> None:
    path = save(tmp_path, 3) / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-20])
    with pytest.raises(AdapterError, match=r"checkpoint-step-3 is damaged"):
        run_checkpoint.read(tmp_path / "checkpoint-step-3")


def test_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    state = strict_json.read(path / "state.json")
    del state["reference_losses"]
    atomic.write_json(path / "state.json", state)
    hashing.write_checksums(path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(ConfigError, match=r"another version.*has no reference_losses\. Use another run name"):
        run_checkpoint.read(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_other_optimizer_is_rejected(tmp_path: Path) -> None:
    saved = run_checkpoint.read(save(tmp_path, 3))
    other = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(2))]}, {"params": [nn.Parameter(torch.zeros(1))]}])
    with pytest.raises(AdapterError, match="does not fit this optimizer"):
        run_checkpoint.restore_optimizer(saved, other)


def test_folder_is_locked_to_its_run(tmp_path: Path) -> None:
    run_checkpoint.lock(tmp_path, IDENTITY)
    run_checkpoint.lock(tmp_path, json.loads(json.dumps(IDENTITY)))
    assert strict_json.read(tmp_path / "run.json") == IDENTITY


@pytest.mark.parametrize(("changed", "named"), [
    ({**IDENTITY, "dataset": "other"}, "dataset"),
    ({**IDENTITY, "adapter": {"rank": 8}, "train": {}}, "adapter, train"),
    ({key: value for key, value in IDENTITY.items() if key != "train"}, "train"),
    ({**IDENTITY, "more": 1}, "more"),
])  # fmt: skip
def test_lock_names_the_differences(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    run_checkpoint.lock(tmp_path, IDENTITY)
    with pytest.raises(ConfigError, match=rf"holds another run; {named} differ.*Use another run name"):
        run_checkpoint.lock(tmp_path, changed)
    assert strict_json.read(tmp_path / "run.json") == IDENTITY


def test_finished_run_returns_its_adapter(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.touch()
    adapter = Adapter(path=path, steps=3, proof=Proof(matched=1, total=1, effect=1.0, error=0.0))
    assert run_checkpoint.finished(tmp_path) is None
    run_checkpoint.finish(tmp_path, adapter, "All 3 steps are done.")
    assert run_checkpoint.finished(tmp_path) == adapter
    content = strict_json.read(tmp_path / "finished.json")
    assert content["ended"] == "All 3 steps are done."
    content["adapter"]["tag"] = content["adapter"].pop("trigger_word")  # as the first runs call it
    atomic.write_json(tmp_path / "finished.json", content)
    assert run_checkpoint.finished(tmp_path) == adapter
    path.unlink()
    assert run_checkpoint.finished(tmp_path) is None


def test_the_first_measurement_is_kept() -> None:
    state = RunState().with_heldout(2.0)
    later = replace(state, step=5).with_heldout(1.0)
    assert (later.heldout_first, later.heldout_last, later.heldout_before, later.heldout_step) == (2.0, 1.0, 2.0, 5)


def test_best_measurement_is_remembered() -> None:
    state = RunState().with_heldout(0.1)
    assert (state.best_step, state.best_loss, state.stale) == (0, None, 0)
    found = []
    for step, loss in ((2, 3.0), (4, 2.0), (6, 2.0), (8, 2.5), (10, 1.0)):
        state = replace(state, step=step).with_heldout(loss)
        found.append((state.best_step, state.best_loss, state.stale))
    assert found == [(2, 3.0, 0), (4, 2.0, 0), (4, 2.0, 1), (4, 2.0, 2), (10, 1.0, 0)]


def measured(state: RunState, step: int, *losses: float) -> RunState:
    return replace(state, step=step).with_heldout(sum(losses) / len(losses), losses)


def test_reference_needs_more_than_its_error() -> None:
    """The falls 0.5 and 0 have the mean 0.25 and the standard error 0.25."""
    first = measured(measured(RunState(), 0, 3.0, 2.0), 2, 2.0, 2.0)
    assert (first.reference_step, first.heldout_error, first.reference_losses) == (2, 0.5, (2.0, 2.0))
    equal = measured(first, 4, 1.5, 2.0)
    assert (equal.reference_step, equal.heldout_error, equal.stale, equal.heldout_last) == (2, 0.25, 1, 1.75)
    lower = measured(equal, 6, 1.5, 1.99)
    assert (lower.reference_step, lower.reference_losses, lower.stale) == (6, (1.5, 1.99), 0)
    assert lower.heldout_error == pytest.approx(0.245)


def test_best_is_the_lowest_mean() -> None:
    first = measured(measured(RunState(), 0, 3.0, 2.0), 2, 2.0, 2.0)
    unsure = measured(first, 4, 1.5, 2.0)
    assert (unsure.best_step, unsure.best_loss, unsure.best_losses) == (4, 1.75, (1.5, 2.0))
    # Surely lower than the reference, and yet no new best.
    surer = measured(unsure, 6, 1.75, 1.875)
    assert (surer.best_step, surer.reference_step, surer.reference_loss, surer.stale) == (4, 6, 1.8125, 0)
    assert measured(surer, 8, 1.75, 1.75).best_step == 4


def test_other_passes_compare_by_what_they_share() -> None:
    first = measured(measured(RunState(), 0, 9.0), 2, 2.0, 2.0, 7.0)
    assert (first.best_step, first.heldout_error) == (2, None)
    for losses, step in (((1.9, 1.8), 4), ((1.9, 1.8, 6.9, 99.0), 4), ((1.9, 2.2), 2)):
        later = measured(first, 4, *losses)
        assert (later.best_step, later.reference_step) == (step, step)


# Killed while saving

DISK = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}
"""Python's audit events of every operation that changes what is on the disk."""


def die_at(number: int) -> None:
    """Kill this process just before it changes the disk for the time of this number."""
    left = number

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in DISK:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def kill_at_every_operation(folder: Path) -> list[list[bool]]:
    """Save the third checkpoint in processes that are killed, each one operation later, until one gets through.

    For each that was killed: whether each listed checkpoint is whole, oldest first, and whether the next save works.
    """
    for step in (1, 2):
        save(folder / "before", step)
    found: list[list[bool]] = []
    while True:
        run = folder / f"run{len(found)}"
        shutil.copytree(folder / "before", run)
        child = os.fork()
        if child == 0:
            die_at(len(found))
            save(run, 3)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return found
        found.append([*map(is_whole, run_checkpoint.checkpoints(run)), is_whole(save(run, 3))])


def is_whole(path: Path) -> bool:
    try:
        check_whole(path)
    except AdapterError:
        return False
    return True


if sys.platform != "win32":  # which cannot fork; its renames follow the same rules
    @pytest.fixture(scope="module")
    def killed(tmp_path_factory: pytest.TempPathFactory) -> list[list[bool]]:
        root = Path(atomic.__file__).parents[2]
        env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, tmp_path_factory.mktemp("killed")]
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        found: list[list[bool]] = json.loads(run.stdout)
        assert len(found) > 20
        return found

    def test_killed_at_any_point_of_a_save_the_newest_checkpoint_is_whole(killed: list[list[bool]]) -> None:
        assert [listed[-2] for listed in killed] == [True] * len(killed)

    def test_killed_at_any_point_of_a_save_the_next_save_works(killed: list[list[bool]]) -> None:
        assert [listed[-1] for listed in killed] == [True] * len(killed)

    def test_killed_at_any_point_of_a_save_only_whole_checkpoints_are_listed(killed: list[list[bool]]) -> None:
        """Else the advice about a damaged one, to go on from the one before, leads to another damaged one."""
        assert [number for number, listed in enumerate(killed) if not all(listed)] == []


if __name__ == "__main__":
    sys.stdout.write(json.dumps(kill_at_every_operation(Path(sys.argv[1]))))
