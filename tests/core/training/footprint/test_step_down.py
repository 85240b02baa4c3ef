"""Running out of memory costs no step and changes no number, unless fewer bits are allowed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from sidestep_core.dataset.manifest import Dataset
from sidestep_core.device import OutOfMemory
from sidestep_core.errors import HalfStep
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import DecoderLayer
from sidestep_core.model.frozen import FrozenLinear
from sidestep_core.progress import Progress
from sidestep_core.training import run_checkpoint
from sidestep_core.training.config import Optimizer
from sidestep_core.training.footprint import step_down
from sidestep_core.training.optim import optimizers
from sidestep_core.training.planning import host_memory
from tests.tiny import write_dataset
from tests.training import CONFIG, prepared, same_tensors, trained

SECOND = 4
"""Calls of the two layers before the second step; each step has two passes."""
ON_DEMAND = replace(CONFIG, max_steps=4, save_every=100, heldout_every=100)
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 50, 60))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, dataset: Dataset) -> Path:
    return trained(checkpoint, dataset, tmp_path_factory.mktemp("undisturbed"), config=ON_DEMAND).path


@contextmanager
def running_out(*calls: int, error: type[RuntimeError] = torch.OutOfMemoryError,
                measuring: bool = False) -> Iterator[None]:
    """Raise in these of the calls of a decoder's layers, counted over all steps or all measurements; offload on a CPU
    too.
    """
    real, count = DecoderLayer.forward, 0

    def forward(layer: nn.Module, *inputs: object) -> object:
        nonlocal count
        count += torch.is_grad_enabled() != measuring
        if count in calls and torch.is_grad_enabled() != measuring:
            raise error(FULL)
        return real(layer, *inputs)

    with (mock.patch.object(DecoderLayer, "forward", forward),
          mock.patch.object(host_memory, "OFFLOADS_ON", ("cpu",))):
        yield


def notices(checkpoint: Checkpoint, dataset: Dataset, folder: Path, *calls: int, measuring: bool = False,
            **settings: object) -> list[str]:
    found: list[str] = []
    with running_out(*calls, measuring=measuring):
        trained(checkpoint, dataset, folder, config=replace(ON_DEMAND, **settings),
                report=lambda progress: found.append(progress.notice))
    return [notice for notice in found if notice.startswith("Out of memory")]


def test_steps_down_change_no_number(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path,
                                     tmp_path: Path) -> None:
    recomputed, offloaded = notices(checkpoint, dataset, tmp_path, SECOND + 2, SECOND + 4)
    assert recomputed.startswith("Out of memory in step 2: from here on every layer is recomputed")
    assert "wait in the computer's memory" in offloaded
    assert all(notice.endswith("The result is the same.") for notice in (recomputed, offloaded))
    assert same_tensors(tmp_path / "a.safetensors", undisturbed)


def test_measuring_steps_down_too(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    assert len(notices(checkpoint, dataset, tmp_path, 2, 3, measuring=True)) == 2
    assert same_tensors(tmp_path / "a.safetensors", undisturbed)


def test_apple_gpus_error_counts(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    class Full(RuntimeError):
        def __init__(self, _: str) -> None:
            super().__init__("MPS backend out of memory (MPS allocated: 9.06 GB)")

    with running_out(SECOND + 4, error=Full):
        trained(checkpoint, dataset, tmp_path, config=ON_DEMAND)
    assert same_tensors(tmp_path / "a.safetensors", undisturbed)


@contextmanager
def failing_update(*updates: int) -> Iterator[list[Tensor]]:
    """Raise after these of the optimizers' updates, when all weights and states have changed; yield those weights."""
    build, count = optimizers.build, itertools.count(1)
    changed: list[Tensor] = []

    def built(*arguments: Any) -> torch.optim.Optimizer:
        optimizer = build(*arguments)
        step = optimizer.step

        def stepped() -> None:
            step()
            if next(count) in updates:
                changed.extend(parameter.detach().clone() for parameter in optimizer.param_groups[0]["params"])
                raise torch.OutOfMemoryError(FULL)

        optimizer.step = stepped
        return optimizer

    with mock.patch.object(optimizers, "build", built):
        yield changed


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "prodigy"])
def test_first_update_steps_down_too(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                     optimizer: Optimizer) -> None:
    """The optimizer makes its state there; twice in a row it finds no memory."""
    config = replace(ON_DEMAND, optimizer=optimizer, ema_decay=0.9)
    expected = trained(checkpoint, dataset, tmp_path / "undisturbed", config=config).path
    found: list[str] = []
    with failing_update(1, 2) as changed, running_out():
        trained(checkpoint, dataset, tmp_path, config=config,
                report=lambda progress: found.append(progress.notice))
    assert sum(notice.startswith("Out of memory in step 1") for notice in found) == 2
    assert any(bool(tensor.any()) for tensor in changed)
    assert same_tensors(tmp_path / "a.safetensors", expected)


def test_later_update_keeps_whole_steps(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path,
                                        tmp_path: Path) -> None:
    """Its weights may be half of a step, so they are never saved: the run continues from a finished one."""
    config = replace(ON_DEMAND, save_every=1)
    with failing_update(3), running_out(), pytest.raises(HalfStep, match=r"failed in step 3: .*Step 2 is kept"):
        trained(checkpoint, dataset, tmp_path, config=config)
    assert same_tensors(trained(checkpoint, dataset, tmp_path, config=config).path, undisturbed)


def test_offload_needs_host_memory(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two layers fits; the setting `on` wants both."""
    layer = prepared(checkpoint, dataset, config=ON_DEMAND).need.layer_weights
    monkeypatch.setattr(host_memory, "free_memory", lambda _: 2 * layer)
    with pytest.raises(OutOfMemory, match=r"2 layers of the model need .* which has room for 1 of them"):
        trained(checkpoint, dataset, tmp_path / "on", config=replace(ON_DEMAND, offload="on"))
    training = prepared(checkpoint, dataset, config=replace(ON_DEMAND, gradient_checkpointing="on"))
    with running_out():
        down = step_down.next_step_down(training)
        assert down is not None
        down(1)
        assert training.objective.decoder.holding is not None
        assert training.objective.decoder.holding.offloaded == 1
        assert step_down.next_step_down(training) is None


def test_fewer_bits_need_consent(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    with running_out(*range(SECOND + 1, SECOND + 4)), pytest.raises(OutOfMemory, match="base_precision int8"):
        trained(checkpoint, dataset, tmp_path, config=ON_DEMAND)


def test_forbidden_offload_is_left_out(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path,
                                       tmp_path: Path) -> None:
    """The next training, with the error still there, is not touched by it."""
    with running_out(SECOND + 1, SECOND + 2), pytest.raises(OutOfMemory) as failed:
        trained(checkpoint, dataset, tmp_path / "failed", config=replace(ON_DEMAND, offload="off"))
    assert same_tensors(trained(checkpoint, dataset, tmp_path, config=ON_DEMAND).path, undisturbed)
    assert "Step 1 is kept" in str(failed.value)


def test_fewer_bits_are_kept_by_a_resumed_run(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path,
                                              tmp_path: Path) -> None:
    """A run continues with the bits that it was brought to, as if it had never stopped."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    found = notices(checkpoint, dataset, whole, *range(SECOND + 1, SECOND + 4), allow_fewer_bits=True)
    assert found[2].startswith("Out of memory in step 2: from here on the model is held in int8, as allow_fewer_bits")
    assert not same_tensors(whole / "a.safetensors", undisturbed)

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 3 and not progress.metrics:
            raise Stop

    with running_out(*range(SECOND + 1, SECOND + 4)), pytest.raises(Exception, match="Step 3 is kept"):
        trained(checkpoint, dataset, part, config=replace(ON_DEMAND, allow_fewer_bits=True), report=stop)
    (saved,) = run_checkpoint.checkpoints(part / "run")
    assert run_checkpoint.read(saved).state.lowered == "int8"
    trained(checkpoint, dataset, part, config=replace(ON_DEMAND, allow_fewer_bits=True))
    assert same_tensors(part / "a.safetensors", whole / "a.safetensors")


def test_order_is_by_cost(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = prepared(checkpoint, dataset, config=replace(CONFIG, allow_fewer_bits=True))
    decoder = training.objective.decoder
    made = []
    with mock.patch.object(host_memory, "OFFLOADS_ON", ("cpu",)):
        while (down := step_down.next_step_down(training)) is not None:
            down(1)
            layer = decoder.get_submodule("layers.0.mlp.up_proj")
            assert decoder.holding is not None
            made.append((decoder.recomputed_layers > 0, isinstance(layer, FrozenLinear), decoder.holding.precision))
    assert made == [(True, False, "as_file"), (True, True, "as_file"), (True, True, "int8"), (True, True, "nf4")]
