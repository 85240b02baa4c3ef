"""Copies between host and device in a training step: one wait, and the next step's batches ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._fake_cuda import CARD, adapted, card
from sidestep_core import device
from sidestep_core.adapters.algorithm import LiveAdapter
from sidestep_core.adapters.lora import LiveLora, LoraConfig, LoraLayer
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.device import send
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.training import batches
from sidestep_core.training import step as step_module
from sidestep_core.training.batches import Batch, Draw
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.optim import optimizers
from sidestep_core.training.step import Training, optimizer_step
from tests.tiny import write_dataset
from tests.training import CONFIG, prepared

LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.1)


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 51, 40, 40), tokens=(9, 5, 14, 7),
                         plain=True)


class Copies(TorchDispatchMode):
    """Copies to and from the card that wait for it, by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        self.ahead = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        named = kwargs or {}
        if function is torch.ops.aten._to_copy.default and "device" in named:
            crosses = args[0].device.type != torch.device(named["device"]).type
            self._count(str(function), crosses=crosses, free=bool(named.get("non_blocking")))
        if function is torch.ops.aten.copy_.default:
            crosses = args[0].device.type != args[1].device.type
            self._count(str(function), crosses=crosses, free=bool(args[2:] and args[2]))
        return out

    def _count(self, name: str, *, crosses: bool, free: bool) -> None:
        self.ahead += crosses and free
        if crosses and not free:
            self.waiting.append(name)


@contextmanager
def on_card(training: Training) -> Iterator[tuple[Training, Copies, list[Tensor]]]:
    """Move a training to a card without storage; what is read from the card is made up, and listed."""
    read: list[Tensor] = []

    def receive(numbers: Tensor) -> list[float]:
        read.append(numbers)
        return [1.0] * len(numbers)

    objective = training.objective
    silence_TC, config = training.objective.silence_TC, training.config
    # Files and random numbers cannot be read there.
    groups = {step: batches.groups(training.trained_on, config, step) for step in range(4)}
    held = {tuple(draw.number for draw in group): batches.read(group, silence_TC, config)
            for step in groups for group in groups[step]}
    with card(), mock.patch.object(device, "pin", lambda tensor: tensor), \
            mock.patch.object(step_module, "receive", receive), \
            mock.patch.object(batches, "groups", lambda samples, config, step, ends: groups[step]), \
            mock.patch.object(batches, "read", lambda group, *_: held[tuple(draw.number for draw in group)]):
        decoder = adapted(objective.decoder.geometry, LORA)
        layers = {name: module for name, module in decoder.named_modules() if isinstance(module, LoraLayer)}
        live: LiveAdapter = LiveLora(layers=layers, switch=objective.adapter)
        objective = replace(objective, decoder=decoder, device=CARD, dtype=torch.bfloat16,
                            null_condition_11D=objective.null_condition_11D.to(CARD, torch.bfloat16))

        def backward(_: Tensor) -> None:
            for parameter in live.parameters:
                parameter.grad = torch.ones_like(parameter)

        moved = replace(training, objective=objective, adapter=live, prefetched=batches.Prefetched(),
                        optimizer=optimizers.build(config, live.parameters))
        # The engine asks the driver for the card.
        with mock.patch.object(Tensor, "backward", backward), Copies() as copies:
            yield moved, copies, read


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, loss_weighting="min_snr", preserve=0.5, batch_size=2)],
                         ids=["plain", "weighted"])
def test_step_waits_once_for_the_device(checkpoint: Checkpoint, dataset: Dataset, config: TrainConfig) -> None:
    with on_card(prepared(checkpoint, dataset, LORA, config)) as (training, copies, read):
        optimizer_step(training, 0, by_layer=True)
        # The start of the first update, which is kept in case that memory runs out in it.
        assert (len(copies.waiting), len(read)) == (len(training.adapter.parameters), 1)
        copies.waiting.clear()
        optimizer_step(training, 1, by_layer=True)
        assert (copies.waiting, len(read)) == ([], 2)
        assert copies.ahead > 0


def test_any_other_wait_is_found(checkpoint: Checkpoint, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: copies that wait are counted, and reading a number of the card fails."""
    with on_card(prepared(checkpoint, dataset, LORA, CONFIG)) as (training, copies, _):
        optimizer_step(training, 0)
        copies.waiting.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Batch, "to", lambda batch, place, dtype: replace(
                batch, x0_BTC=batch.x0_BTC.to(place), condition_1ND=batch.condition_1ND.to(place, dtype),
                context_BTC=batch.context_BTC.to(place, dtype)))
            optimizer_step(training, 1)
        assert len(copies.waiting) >= 3
        summed = training.adapter.parameters[0].detach().sum()
        monkeypatch.setattr(step_module, "learning_rate", lambda *_: float(summed))
        with pytest.raises(DataDependentOutputException):
            optimizer_step(training, 2)


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List the draws that are read, in their order."""
    seen: list[int] = []
    read = batches.read

    def watched(group: Sequence[Draw], *others: Any) -> Batch:
        seen.extend(draw.number for draw in group)
        return read(group, *others)

    monkeypatch.setattr(batches, "read", watched)
    return seen


def test_fetched_batches_train_the_same(checkpoint: Checkpoint, dataset: Dataset,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a step are read once, while the step before is computed."""
    plain, ahead = (prepared(checkpoint, dataset, LORA, CONFIG) for _ in range(2))
    expected = [optimizer_step(plain, step) for step in range(3)]
    read = watch_reads(monkeypatch)
    monkeypatch.setattr(step_module, "PREFETCHES_ON", ("cpu",))
    found = [optimizer_step(ahead, 0)]
    assert read == [0, 1, 2, 3]
    found += [optimizer_step(ahead, step) for step in (1, 2)]
    assert read == [*range(8)]
    assert found == expected
    assert all(map(torch.equal, ahead.adapter.parameters, plain.adapter.parameters))
    # A step that is taken again, as after running out of memory, has its own batches.
    assert optimizer_step(ahead, 2).samples[0][0] == expected[2].samples[0][0]
    assert optimizer_step(ahead, 3).samples[0][0] != expected[2].samples[0][0]


def test_last_step_fetches_nothing(checkpoint: Checkpoint, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    training = prepared(checkpoint, dataset, LORA, replace(CONFIG, max_steps=2))
    monkeypatch.setattr(step_module, "PREFETCHES_ON", ("cpu",))
    read = watch_reads(monkeypatch)
    for step in range(2):
        optimizer_step(training, step)
    assert read == [0, 1, 2, 3]


def test_send_stays_on_the_cpu() -> None:
    tensor = torch.ones(3)
    assert send(tensor, torch.device("cpu")) is tensor
    assert send(tensor, torch.device("cpu"), torch.bfloat16).dtype == torch.bfloat16
