"""Schedule-free AdamW: its average is that of its authors' reference, and looking at it changes no bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from schedulefree import AdamWScheduleFreeReference
from torch import nn

from sidestep_core import rng
from sidestep_core.errors import ConfigError
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.training import run_checkpoint
from sidestep_core.training.optim import optimizers
from sidestep_core.training.optim.schedule_free import ScheduleFreeAverage
from sidestep_core.training.run_checkpoint import ADAPTER_FILE, AVERAGE_FILE
from tests.tiny import write_dataset
from tests.tolerance import FP32, PERTURBED, deviation
from tests.training import CONFIG, prepared, same_tensors, settled, trained

FREE = settled(optimizer="adamw_schedulefree", learning_rate=0.02, weight_decay=0.1)
RATES = (0.004, 0.012, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02)
"""With warm-up, in which steps count less in the average."""


def parameters() -> list[nn.Parameter]:
    shapes = ((64, 128), (128, 4))
    return [nn.Parameter(torch.randn(shape, generator=rng.generator("start", *shape))) for shape in shapes]


def make_step(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], number: int) -> None:
    """Step along gradients that depend on the place at which they are taken."""
    optimizers.set_rate(optimizer, RATES[number])
    for parameter in trained:
        noise = torch.randn(parameter.shape, generator=rng.generator("noise", number, *parameter.shape))
        parameter.grad = parameter.detach() + noise
    optimizer.step()


def built(trained: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, ScheduleFreeAverage]:
    optimizer = optimizers.build(FREE, trained)
    return optimizer, ScheduleFreeAverage(trained, optimizer)  # type: ignore[arg-type]  # torch's annotation


def test_average_is_that_of_the_reference() -> None:
    ours, theirs = parameters(), parameters()
    optimizer, average = built(ours)
    reference = AdamWScheduleFreeReference(theirs, lr=0.02, weight_decay=0.1)
    reference.train()
    for number in range(len(RATES)):
        make_step(optimizer, ours, number)
        make_step(reference, theirs, number)
    assert all(deviation(one, other) < FP32 for one, other in zip(ours, theirs, strict=True))
    between = [parameter.detach().clone() for parameter in ours]
    reference.eval()
    with average.applied():
        assert all(deviation(one, other) < 5 * FP32 for one, other in zip(ours, theirs, strict=True))
        assert all(deviation(one, other) > PERTURBED for one, other in zip(ours, between, strict=True))


def test_looking_changes_no_bit() -> None:
    undisturbed, looked_at, switched = parameters(), parameters(), parameters()
    first, _ = built(undisturbed)
    second, average = built(looked_at)
    third, _ = built(switched)
    for number in range(len(RATES)):
        make_step(first, undisturbed, number)
        make_step(second, looked_at, number)
        with average.applied(), average.applied():
            pass
        make_step(third, switched, number)
        third.eval()  # type: ignore[attr-defined]  # torch's annotation
        third.train()  # type: ignore[attr-defined]  # torch's annotation
    assert all(map(torch.equal, looked_at, undisturbed))
    assert not all(map(torch.equal, switched, undisturbed)), "the package alone rounds, which is why copies are turned"


def test_parameters_return_after_an_error() -> None:
    trained = parameters()
    optimizer, average = built(trained)
    make_step(optimizer, trained, 0)
    before = [parameter.detach().clone() for parameter in trained]
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert all(map(torch.equal, trained, before))
    make_step(optimizer, trained, 1)


def test_published_adapter_is_the_average(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", checkpoint, (40, 51, 40))
    config = replace(CONFIG, optimizer="adamw_schedulefree", schedule="cosine")
    notices: list[str] = []
    adapter = trained(checkpoint, dataset, tmp_path, config=config, report=lambda at: notices.append(at.notice))
    assert ("adamw_schedulefree averages the weights in place of a schedule: it runs at constant_with_warmup, not at "
            "cosine.") in notices
    last = run_checkpoint.checkpoints(tmp_path / "run")[-1]
    for folder in (last, tmp_path / "run" / "final"):
        assert same_tensors(folder / AVERAGE_FILE, adapter.path)
        assert not same_tensors(folder / ADAPTER_FILE, adapter.path)
    # The average of the steps so far is what the optimizer's own state says.
    saved = run_checkpoint.read(last)
    training = prepared(checkpoint, dataset, config=config)
    training.adapter.load_state_dict(saved.adapter)
    run_checkpoint.restore_optimizer(saved, training.optimizer)
    with training.averaged():
        found = training.adapter.state_dict()
    expected = read_tensors(adapter.path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_average_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (40, 40))
    with pytest.raises(ConfigError, match=r"ema_decay is 0\.9, but adamw_schedulefree averages the weights itself"):
        prepared(checkpoint, dataset, config=replace(CONFIG, optimizer="adamw_schedulefree", ema_decay=0.9))
