"""Running out of memory costs no step and changes no number, unless fewer bits are allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from sidestep_core.dataset.manifest import Dataset
from sidestep_core.device import OutOfMemory
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import DecoderLayer
from sidestep_core.model.frozen import FrozenLinear
from sidestep_core.progress import Progress
from sidestep_core.training import run_checkpoint
from sidestep_core.training.footprint import step_down
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
          mock.patch.object(step_down, "OFFLOADS_ON", ("cpu",))):
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
    with mock.patch.object(step_down, "OFFLOADS_ON", ("cpu",)):
        while (down := step_down.next_step_down(training)) is not None:
            down(1)
            layer = decoder.get_submodule("layers.0.mlp.up_proj")
            assert decoder.holding is not None
            made.append((decoder.recomputed_layers > 0, isinstance(layer, FrozenLinear), decoder.holding.precision))
    assert made == [(True, False, "as_file"), (True, True, "as_file"), (True, True, "int8"), (True, True, "nf4")]
