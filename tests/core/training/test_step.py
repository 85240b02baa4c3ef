"""One training step: flow matching as written down, the same numbers at any batch size, the same curve for ever."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import TrainingDiverged
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress
from sidestep_core.training import batches
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.heldout import material
from sidestep_core.training.heldout.passes import Pass
from sidestep_core.training.loss import HeldoutLoss, training_loss
from sidestep_core.training.loss import heldout_loss as heldout_loss_of
from sidestep_core.training.step import SCALE_DOUBLES_EVERY, Training, optimizer_step
from tests.tiny import tiny_checkpoint, write_dataset
from tests.tolerance import BF16, FP32, GOLDEN, PERTURBED, deviation
from tests.training import prepared, watched

CPU = torch.device("cpu")
LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.0)
CONFIG = TrainConfig(max_steps=10, learning_rate=3e-3, gradient_accumulation=2, warmup_steps=0, heldout_songs=1,
                     device="cpu", gradient_checkpointing="off", timestep_mode="continuous",
                     timestep_sampling="independent")
GOLDEN_FILE = Path(__file__).with_name("golden_loss.json")


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 51, 40, 40))


@pytest.fixture(scope="module")
def wordy(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Songs with captions of different lengths."""
    return write_dataset(tmp_path_factory.mktemp("wordy"), checkpoint, (40, 51, 40, 40), tokens=(9, 5, 14, 7))


@pytest.fixture(scope="module")
def short(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One song of ten frames, so that thousands of draws fit into one batch."""
    return write_dataset(tmp_path_factory.mktemp("short"), checkpoint, (10,), tokens=2)


def awake(training: Training) -> Training:
    """Give the adapter random output matrices, as after some steps, so that every parameter has a gradient."""
    random = rng.generator("awake")
    for parameter in training.adapter.parameters:
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=random)
    return training


def heldout_loss(training: Training, step: int) -> float:
    return heldout_of(training, step).mean


def heldout_of(training: Training, step: int) -> HeldoutLoss:
    """Held-out loss at fixed times, whatever the budget."""
    passes = [Pass(sample=sample, start=0, time=time, noise=f"{time}") for sample in training.heldout
              for time in flow_matching.HELDOUT_TIMES]
    return heldout_loss_of(training.objective, passes, Progress(stage="train", step=step, total=10))


# The step


def gradient_of(training: Training, step: int = 3) -> Tensor:
    samples = len(batches.draws_of_step(training.config, len(training.trained_on), step))
    for batch in batches.batches(training.trained_on, training.objective.silence_TC, training.config, step):
        (training_loss(training.objective, batch).weighted_B.sum() / samples).backward()
    gradients = [parameter.grad for parameter in training.adapter.parameters]
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


@pytest.mark.parametrize("adapter", [LORA, replace(LORA, dropout=0.3, rank_dropout=0.3),
                                     LokrConfig(factor=4, dropout=0.3, rank_dropout=0.3)])
def test_batch_size_changes_no_gradient(checkpoint: Checkpoint, wordy: Dataset, adapter: AdapterConfig) -> None:
    """Songs of different words in one batch, with dropout too, whose masks belong to the draws."""

    def stepped(config: TrainConfig) -> tuple[Tensor, Mapping[str, float]]:
        training = awake(prepared(checkpoint, wordy, adapter, replace(config, max_grad_norm=1e9)))
        gradients: list[Tensor] = []
        training.optimizer.register_step_pre_hook(lambda *_: gradients.extend(
            parameter.grad.flatten() for parameter in training.adapter.parameters if parameter.grad is not None))
        numbers = optimizer_step(training, 3).numbers
        return torch.cat(gradients), numbers

    gradients, numbers = zip(*(stepped(replace(CONFIG, batch_size=batch_size, gradient_accumulation=accumulation))
                               for batch_size, accumulation in ((1, 6), (6, 1), (3, 2), (2, 3))), strict=True)
    for gradient, number in zip(gradients[1:], numbers[1:], strict=True):
        assert deviation(gradient, gradients[0]) < FP32
        assert number == pytest.approx(numbers[0], rel=FP32)
    other, _ = stepped(replace(CONFIG, gradient_accumulation=6, seed=43, heldout_songs=0))
    assert deviation(other, gradients[0]) > PERTURBED


def test_step_loss_is_the_mean(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(prepared(checkpoint, dataset, LORA, replace(CONFIG, gradient_accumulation=5)))
    drawn = batches.batches(training.trained_on, training.objective.silence_TC, training.config, 0)
    losses = [float(loss) for batch in drawn for loss in training_loss(training.objective, batch).loss_B]
    assert len(losses) == 5
    assert optimizer_step(training, 0).numbers["loss"] == pytest.approx(sum(losses) / 5, rel=FP32)


def test_step_changes_the_adapter_only(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(prepared(checkpoint, dataset, LORA, CONFIG))
    decoder = training.objective.decoder
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    optimizer_step(training, 0)
    changed = {name for name, tensor in decoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".lora_" in name}
    assert all(parameter.grad is None for parameter in training.adapter.parameters)


def test_step_reports_progress(checkpoint: Checkpoint, dataset: Dataset) -> None:
    reports: list[Progress] = []
    training = prepared(checkpoint, dataset, LORA, replace(CONFIG, gradient_accumulation=3))
    optimizer_step(training, 2, reports.append)
    assert reports == [Progress(stage="train", step=2, total=10)] * 3


def test_epoch_counts_trained_draws(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = prepared(checkpoint, dataset, LORA, CONFIG)
    assert optimizer_step(training, 2).numbers["epoch"] == 3 * 2 / 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_divergence_changes_nothing(checkpoint: Checkpoint, dataset: Dataset, value: float) -> None:
    training = awake(prepared(checkpoint, dataset, LORA, CONFIG))
    training.adapter.parameters[0].data[0, 0] = value
    before = [parameter.detach().clone() for parameter in training.adapter.parameters]
    with pytest.raises(TrainingDiverged, match=r"The (loss|gradient) became nan in step 4.*Lower the learning rate"):
        optimizer_step(training, 3)
    assert all(torch.equal(one, other) for one, other in zip(training.adapter.parameters[1:], before[1:], strict=True))
    assert training.optimizer.state_dict()["state"] == {}


def test_missing_gradient_is_an_error(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = prepared(checkpoint, dataset, LORA, CONFIG)
    for parameter in training.adapter.parameters:
        parameter.data.zero_()
    with pytest.raises(TrainingDiverged, match="No gradient reached the adapter in step 1"):
        optimizer_step(training, 0)


def test_huge_weights_blame_learning_rate(checkpoint: Checkpoint, dataset: Dataset,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    training = prepared(checkpoint, dataset, LORA, replace(CONFIG, learning_rate=1e4))
    for parameter in training.adapter.parameters:
        parameter.data.fill_(1e4)
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda *_: torch.zeros(()))
    with pytest.raises(TrainingDiverged, match=r"grown to 1e\+04\. Lower the learning rate, which is 10000"):
        optimizer_step(training, 3)


def test_first_step_blames_no_learning_rate(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = prepared(checkpoint, dataset, LORA, CONFIG)
    training.adapter.parameters[0].data[0, 0] = math.nan
    with pytest.raises(TrainingDiverged, match="Nothing was learned yet") as raised:
        optimizer_step(training, 0)
    assert "learning rate" not in str(raised.value)


def test_bfloat16_base_has_float32_gradients(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(prepared(checkpoint, dataset, LORA, replace(CONFIG, precision="bf16")))
    with watched(training.objective) as seen:
        numbers = optimizer_step(training, 0).numbers
    exact = optimizer_step(awake(prepared(checkpoint, dataset, LORA, CONFIG)), 0).numbers
    assert seen[0].t_B.dtype == torch.float32
    assert seen[0].x_BTC.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in training.adapter.parameters} == {torch.float32}
    assert numbers["loss"] == pytest.approx(exact["loss"], rel=0.02)
    assert numbers["loss"] != exact["loss"]


# The end of a run by epochs


def test_last_step_averages_the_rest(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Six draws of three songs in steps of four: the second step has two, and each of them counts a half."""
    config = replace(CONFIG, heldout_songs=1, epochs=2, gradient_accumulation=4)
    training = awake(prepared(checkpoint, dataset, LORA, config))
    assert training.total_steps == 2
    drawn = list(batches.batches(training.trained_on, training.objective.silence_TC, training.config, 1))
    assert [draw for batch in drawn for draw in batch.draws] == [4, 5]
    losses = [float(loss) for batch in drawn for loss in training_loss(training.objective, batch).loss_B]
    by_hand = gradient_of(training, 1)
    training.optimizer.zero_grad()
    result = optimizer_step(training, 1)
    assert result.numbers["loss"] == pytest.approx(sum(losses) / 2, rel=FP32)
    assert result.numbers["gradient"] == pytest.approx(float(by_hand.norm()), rel=FP32)
    assert result.numbers["epoch"] == 2


def test_step_returns_times_and_losses(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(prepared(checkpoint, dataset, LORA, replace(CONFIG, gradient_accumulation=3)))
    drawn = list(batches.batches(training.trained_on, training.objective.silence_TC, training.config, 0))
    found = [training_loss(training.objective, batch) for batch in drawn]
    expected = [(float(t), float(loss)) for batch in found for t, loss in zip(batch.t_B, batch.loss_B, strict=True)]
    result = optimizer_step(training, 0)
    assert list(result.samples) == expected
    assert result.numbers["loss"] == pytest.approx(sum(loss for _, loss in expected) / 3, rel=FP32)


def test_layer_gradients_sum_up(checkpoint: Checkpoint, dataset: Dataset) -> None:
    result = optimizer_step(awake(prepared(checkpoint, dataset, LORA, CONFIG)), 0, by_layer=True)
    assert list(result.layer_gradients) == ["layer_0", "layer_1"]
    whole = sum(norm**2 for norm in result.layer_gradients.values()) ** 0.5
    assert whole == pytest.approx(result.numbers["gradient"], rel=FP32)


# fp16


FP16 = replace(CONFIG, precision="fp16")


def test_fp16_trains_as_fp32_does(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(prepared(checkpoint, dataset, LORA, FP16))
    exact = awake(prepared(checkpoint, dataset, LORA, CONFIG))
    result, expected = optimizer_step(training, 0, scale=1024.0), optimizer_step(exact, 0)
    assert training.objective.dtype == torch.float16
    assert result.scale == result.numbers["scale"] == 1024
    for name in ("loss", "gradient"):
        assert result.numbers[name] == pytest.approx(expected.numbers[name], rel=BF16)
        assert result.numbers[name] != expected.numbers[name]
    assert "scale" not in expected.numbers


def test_overflow_halves_the_scale( checkpoint: Checkpoint, dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    lora = replace(LORA, dropout=0.3)
    overflowing = awake(prepared(checkpoint, dataset, lora, FP16))
    caplog.set_level("INFO")
    result = optimizer_step(overflowing, 0, scale=2.0**40)
    assert 1 < result.scale < 2.0**40
    assert f"again at scale {result.scale:g}" in caplog.messages[-1]
    direct = awake(prepared(checkpoint, dataset, lora, FP16))
    assert optimizer_step(direct, 0, scale=result.scale) == result
    pairs = zip(overflowing.adapter.parameters, direct.adapter.parameters, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_scale_recovers(checkpoint: Checkpoint, dataset: Dataset) -> None:
    config = replace(FP16, max_steps=3000)
    for step, factor in ((SCALE_DOUBLES_EVERY, 2), (SCALE_DOUBLES_EVERY + 1, 1), (0, 1)):
        training = awake(prepared(checkpoint, dataset, LORA, config))
        assert optimizer_step(training, step, scale=64.0).scale == 64 * factor
    exact = awake(prepared(checkpoint, dataset, LORA, replace(CONFIG, max_steps=3000)))
    assert optimizer_step(exact, SCALE_DOUBLES_EVERY, scale=64.0).scale == 64


def test_fp16_overflow_diverges(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(prepared(checkpoint, dataset, LORA, FP16))
    training.adapter.parameters[0].data.fill_(1e30)
    with pytest.raises(TrainingDiverged, match=r"became (nan|inf) in step 1"):
        optimizer_step(training, 0, scale=4.0)


# The moving average


def test_step_updates_the_average(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(prepared(checkpoint, dataset, LORA, replace(CONFIG, ema_decay=0.9)))
    assert training.average is not None
    training.average.start()
    plain = awake(prepared(checkpoint, dataset, LORA, CONFIG))
    before = plain.adapter.parameters[0].detach().clone()
    optimizer_step(training, 0)
    optimizer_step(plain, 0)
    assert torch.equal(training.adapter.parameters[0], plain.adapter.parameters[0])
    with training.averaged():
        expected = 0.1 * before + 0.9 * plain.adapter.parameters[0]
        assert deviation(training.adapter.parameters[0], expected) < FP32
    assert torch.equal(training.adapter.parameters[0], plain.adapter.parameters[0])


# The held-out loss


def test_heldout_songs_are_measured(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = prepared(checkpoint, dataset, LORA, CONFIG)
    trained, held = material.split(dataset.samples, training.config)
    assert [sample.name for sample in training.heldout] == [sample.name for sample in held]
    assert [sample.name for sample in training.trained_on] == [sample.name for sample in trained]
    assert {one.sample.name for one in training.passes} == {sample.name for sample in held}


def test_trained_songs_are_measured_instead(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = prepared(checkpoint, dataset, LORA, replace(CONFIG, heldout_songs=0))
    assert training.heldout == ()
    assert {one.sample.name for one in training.passes} <= {sample.name for sample in training.trained_on}


def test_ends_of_songs_are_held_out(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (600, 30), windows=(540, 60))
    training = prepared(checkpoint, dataset, LORA, replace(CONFIG, heldout_songs=None, publish="best"))
    latents_TC = dataset.read_latents(dataset.samples[0])
    body, end = training.trained_on[0].latents_TC, training.heldout[0].latents_TC
    assert torch.equal(torch.cat((body[:], end[:])), latents_TC)
    assert (len(training.trained_on), len(training.heldout), end.shape[0]) == (2, 1, 60)
    assert {one.sample.name for one in training.passes} == {"song0.wav"}


# The golden curve


def curve(checkpoint: Checkpoint, dataset: Dataset, config: TrainConfig = CONFIG) -> list[float]:
    """Losses of five steps, between the held-out loss before and after."""
    training = prepared(checkpoint, dataset, LORA, config)
    before = heldout_loss(training, 0)
    losses = [optimizer_step(training, step).numbers["loss"] for step in range(5)]
    return [before, *losses, heldout_loss(training, 5)]


def test_the_golden_curve_is_kept(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Golden curve: only a change of the computation may renew it, with `python -m
    tests.core.test_step`.  Not bit for bit: instruction sets sum in different orders, which moved it by up to 3e-7."""
    golden = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
    assert curve(checkpoint, dataset) == pytest.approx(golden, rel=GOLDEN)
    assert curve(checkpoint, dataset) == curve(checkpoint, dataset)


@pytest.mark.parametrize("config", [replace(CONFIG, learning_rate=CONFIG.learning_rate * 1.01),
                                    replace(CONFIG, weight_decay=0.02), replace(CONFIG, seed=43)])
def test_golden_curve_detects_changes(checkpoint: Checkpoint, dataset: Dataset, config: TrainConfig) -> None:
    golden = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
    assert curve(checkpoint, dataset, config) != pytest.approx(golden, rel=GOLDEN)


def write_golden_curve() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tiny_checkpoint(Path(folder) / "checkpoint")
        dataset = write_dataset(Path(folder) / "dataset", checkpoint, (40, 51, 40, 40))
        numbers = curve(checkpoint, dataset)
    GOLDEN_FILE.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{GOLDEN_FILE.name}: {numbers}\n")


if __name__ == "__main__":
    write_golden_curve()
