"""Targets that keep what a model can: preserved samples, and guidance that is built in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.captions import without_trigger_word
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import DatasetError
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.training import batches
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.data import ensure_conditions
from sidestep_core.training.loss import training_loss
from sidestep_core.training.resolve import resolve
from sidestep_core.training.step import Training, optimizer_step
from tests.distilled import GUIDANCE, Music, distil, guidance_of, write_songs
from tests.tiny import TinySource, write_dataset
from tests.tolerance import FP32, PERTURBED, deviation
from tests.training import prepared, watched

CONFIG = TrainConfig(max_steps=60, learning_rate=3e-3, batch_size=8, gradient_accumulation=1, warmup_steps=0,
                     heldout_songs=0, device="cpu", gradient_checkpointing="off")
LORA = LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True)


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (20,) * 4, tokens=(9, 5, 7, 6), plain=True)


def awake(checkpoint: Checkpoint, dataset: Dataset, **settings: Any) -> Training:
    training = prepared(checkpoint, dataset, LORA, replace(CONFIG, batch_size=4, **settings))
    for parameter in training.adapter.parameters:
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return training


def step_of(training: Training) -> Mapping[str, float]:
    return optimizer_step(training, 0).numbers


def test_off_changes_nothing(checkpoint: Checkpoint, dataset: Dataset) -> None:
    assert step_of(awake(checkpoint, dataset)) == step_of(awake(checkpoint, dataset, preserve=0.0, guidance=0.0))
    assert step_of(awake(checkpoint, dataset)) != step_of(awake(checkpoint, dataset, preserve=1.0))
    assert step_of(awake(checkpoint, dataset)) != step_of(awake(checkpoint, dataset, guidance=2.0))


def losses(training: Training) -> tuple[Tensor, list[Tensor], batches.Batch]:
    """Losses of the first batch, predictions of its passes, and the batch."""
    (batch,) = batches.batches(training.trained_on, training.objective.silence_TC, training.config, 0)
    with watched(training.objective) as seen:
        found = training_loss(training.objective, batch)
    return found.loss_B, [one.predicted_BTC for one in seen], batch


def test_preserved_target_is_the_model(checkpoint: Checkpoint, dataset: Dataset) -> None:
    found, (adapted, alone), batch = losses(awake(checkpoint, dataset, preserve=1.0))
    assert batch.preserved == (True,) * 4
    assert deviation(found, flow_matching.loss_per_sample(adapted, alone)) < FP32
    assert not torch.equal(alone, adapted)
    untrained = prepared(checkpoint, dataset, LORA, replace(CONFIG, batch_size=4, preserve=1.0))
    assert losses(untrained)[0].tolist() == [0.0] * 4


def test_guided_target_follows_the_formula(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(checkpoint, dataset, guidance=2.5, cfg_ratio=0.0)
    (batch,) = batches.batches(training.trained_on, training.objective.silence_TC, training.config, 0)
    with watched(training.objective) as seen:
        found = training_loss(training.objective, batch).loss_B
    adapted, free = seen
    assert free.tokens == [1] * 4
    t = adapted.t_B[:, None, None]
    velocity = (adapted.x_BTC - batch.x0_BTC) / t
    by_hand = free.predicted_BTC + 2.5 * (velocity - free.predicted_BTC)
    assert deviation(found, flow_matching.loss_per_sample(adapted.predicted_BTC, by_hand)) < FP32
    assert deviation(found, flow_matching.loss_per_sample(adapted.predicted_BTC, velocity)) > PERTURBED


def test_chance_decides_each_draw(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(checkpoint, dataset, preserve=0.4)
    preserved = [flag for step in range(100) for batch in batches.batches(
        training.trained_on, training.objective.silence_TC, training.config, step) for flag in batch.preserved]
    assert abs(sum(preserved) / len(preserved) - 0.4) < 0.1


def test_shown_losses_are_recorded_ones(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = awake(checkpoint, dataset, preserve=0.4)
    for step in range(6):
        (batch,) = batches.batches(training.trained_on, training.objective.silence_TC, training.config, step)
        shown = optimizer_step(training, step).samples
        assert len(shown) == (batch.preserved.count(False) or 4)


@pytest.mark.parametrize(("caption", "expected"), [
    ("hiss, warm pads", "warm pads"), ("warm pads, hiss", "warm pads"), ("hiss", ""), ("other, warm pads", ""),
    ("warm hiss, pads", ""), ("", ""),
])
def test_trigger_word_is_taken_out(caption: str, expected: str) -> None:
    assert without_trigger_word(caption, "hiss") == expected
    assert without_trigger_word("warm pads", "") == ""


def test_imported_songs_have_no_texts(checkpoint: Checkpoint, dataset: Dataset) -> None:
    foreign = replace(dataset, samples=tuple(replace(sample, foreign_condition="a.safetensors")
                                             for sample in dataset.samples))
    config = resolve(replace(CONFIG, preserve=0.5), checkpoint, foreign).config
    with pytest.raises(DatasetError, match="Switch preserve off"):
        ensure_conditions(TinySource(Path(), []), checkpoint, foreign, config, torch.device("cpu"))


@pytest.mark.slow
def test_guards_keep_built_in_guidance(tmp_path: Path) -> None:
    """A model distilled with guidance: training on recordings shrinks what a caption changes, the guards keep it."""
    music = Music.of()
    checkpoint = distil(tmp_path / "model", music)
    songs = write_songs(tmp_path / "songs", checkpoint, music)

    def after(**settings: Any) -> tuple[float, float]:
        training = prepared(checkpoint, songs, LORA, replace(CONFIG, **settings))
        before = guidance_of(training.objective, music)
        assert abs(before / GUIDANCE - 1) < 0.15
        for step in range(training.total_steps):
            optimizer_step(training, step)
        return (guidance_of(training.objective, music) / before,
                guidance_of(training.objective, music, trigger=True) / before)

    plain, triggered = after()
    assert max(plain, triggered) < 0.7
    assert after(preserve=0.5)[0] > 0.8
    assert min(after(guidance=GUIDANCE)) > 0.85
