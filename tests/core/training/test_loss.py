"""The training loss: flow matching at the given times and weights; and the held-out loss, equal at every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.adapters import registry
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import TrainingDiverged
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import load_decoder
from sidestep_core.progress import Progress
from sidestep_core.training import batches, data
from sidestep_core.training.batches import Batch
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.data import Sample
from sidestep_core.training.heldout.passes import Pass
from sidestep_core.training.loss import BatchLoss, HeldoutLoss, Objective, heldout_loss, training_loss
from sidestep_core.training.resolve import resolve
from tests.tiny import write_dataset
from tests.tolerance import FP32, PERTURBED, deviation
from tests.training import conditions, watched

CPU = torch.device("cpu")
CONFIG = TrainConfig(timestep_mode="continuous", timestep_sampling="independent", gradient_accumulation=2, device="cpu")
AT = Progress(stage="train", step=6, total=10)
DRAWS = 2000
TIMES = (0.25, 0.75)


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 51, 40), windows=(25,), codes=True)


@pytest.fixture(scope="module")
def short(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One song of ten frames, so that thousands of draws fit into one batch."""
    return write_dataset(tmp_path_factory.mktemp("short"), checkpoint, (10,), tokens=2)


@dataclass(frozen=True)
class Learning:
    """An objective, whose decoder has an awake LoRA, and the songs."""

    objective: Objective
    samples: tuple[Sample, ...]
    parameters: tuple[torch.nn.Parameter, ...]

    def batches(self, step: int = 0) -> list[Batch]:
        return list(batches.batches(self.samples, self.objective.silence_TC, self.objective.config, step))

    def loss(self) -> BatchLoss:
        """Loss of the first batch."""
        return training_loss(self.objective, self.batches()[0])


def learning(checkpoint: Checkpoint, dataset: Dataset, config: TrainConfig, dropout: float = 0.0) -> Learning:
    settings = resolve(config, checkpoint, dataset)
    samples, silence_TC = data.load_samples(dataset, settings.config)
    weights = checkpoint.model_weights()
    decoder = load_decoder(weights.under("decoder."), torch.float32, CPU)
    adapter = LoraConfig(rank=4, alpha=8.0, dropout=dropout)
    live = registry.attach(decoder, adapter, target_modules(adapter, decoder.geometry.layers), seed=0)
    random = rng.generator("awake")
    for parameter in live.parameters:
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=random)
    objective = Objective.of(settings, decoder, weights, silence_TC)
    return Learning(objective, samples, tuple(live.parameters))


def of_one_song(checkpoint: Checkpoint, short: Dataset, **settings: Any) -> Learning:
    """Two thousand draws of the short song in one batch."""
    return learning(checkpoint, short, replace(CONFIG, batch_size=DRAWS, gradient_accumulation=1, **settings))


# The loss


def test_the_loss_is_flow_matching(checkpoint: Checkpoint, dataset: Dataset) -> None:
    run = learning(checkpoint, dataset, replace(CONFIG, cfg_ratio=0.0))
    batch = run.batches()[0]
    with watched(run.objective) as seen:
        loss = training_loss(run.objective, batch)
    x_t, t = seen[0].x_BTC, seen[0].t_B[:, None, None]
    noise = (x_t - (1 - t) * batch.x0_BTC) / t
    by_hand = (seen[0].predicted_BTC - (noise - batch.x0_BTC)).square().mean(dim=(1, 2))
    assert torch.equal(loss.t_B, seen[0].t_B)
    assert deviation(loss.loss_B, by_hand) < FP32
    backwards = (seen[0].predicted_BTC - (batch.x0_BTC - noise)).square().mean(dim=(1, 2))
    assert deviation(loss.loss_B, backwards) > PERTURBED
    assert abs(float(noise.std()) - 1) < 0.1
    assert abs(float(noise.mean())) < 0.1
    assert torch.equal(seen[0].condition_1ND, batch.condition_1ND)
    assert torch.equal(seen[0].context_BTC, batch.context_BTC)


@pytest.mark.parametrize("weighting", ["none", "min_snr", "min_snr_flow"])
def test_weighted_loss_is_minimised(checkpoint: Checkpoint, dataset: Dataset, weighting: Any) -> None:
    plain = learning(checkpoint, dataset, replace(CONFIG, batch_size=2)).loss()
    run = learning(checkpoint, dataset, replace(CONFIG, batch_size=2, loss_weighting=weighting, snr_gamma=0.1))
    loss = run.loss()
    weights = flow_matching.loss_weights(plain.t_B, weighting, 0.1)
    assert torch.equal(loss.loss_B, plain.loss_B)
    assert not loss.loss_B.requires_grad
    assert torch.equal(loss.weighted_B, plain.weighted_B * weights)
    assert (weighting == "none") == torch.equal(loss.weighted_B, loss.loss_B)
    loss.weighted_B.sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in run.parameters)


@pytest.mark.parametrize("ratio", [0.0, 0.15, 1.0])
def test_conditions_drop_at_cfg_ratio(checkpoint: Checkpoint, short: Dataset, ratio: float) -> None:
    run = of_one_song(checkpoint, short, cfg_ratio=ratio)
    null = checkpoint.model_weights().tensor("null_condition_emb", torch.float32, CPU)
    with watched(run.objective) as seen, torch.no_grad():
        run.loss()
    dropped = torch.stack([(one == null[0]).all() for one in seen[0].conditions])
    pairs = zip(seen[0].conditions, conditions(run.batches()[0]), strict=True)
    kept = torch.stack([(one == other).all() for one, other in pairs])
    assert torch.equal(dropped, ~kept)
    four_standard_errors = 4 * (ratio * (1 - ratio) / DRAWS) ** 0.5
    found = float(dropped.float().mean())
    assert abs(found - ratio) <= four_standard_errors
    assert abs(found - ratio - 0.05) > four_standard_errors


def test_every_draw_has_its_own_noise(checkpoint: Checkpoint, short: Dataset) -> None:
    run = learning(checkpoint, short, replace(CONFIG, batch_size=8))
    with watched(run.objective) as seen, torch.no_grad():
        run.loss()
    assert len({tuple(x_TC.flatten().tolist()) for x_TC in seen[0].x_BTC}) == 8


def gradient(run: Learning, step: int) -> Tensor:
    visited = batches.draws_of_step(run.objective.config, len(run.samples), step)
    for batch in run.batches(step):
        (training_loss(run.objective, batch).weighted_B.sum() / len(visited)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in run.parameters if parameter.grad is not None])


@pytest.mark.parametrize("settings", [{}, {"chunk_duration": 1.0, "context_mode": "mixed"},
                                      {"loss_weighting": "min_snr", "timestep_mode": "discrete"}, {"epochs": 3}])
def test_batch_gradient_is_the_mean(checkpoint: Checkpoint, dataset: Dataset, settings: dict[str, Any]) -> None:
    """At any batch size, also in a last step that takes what is left of the last epoch."""
    config = replace(CONFIG, gradient_accumulation=6, **settings)
    alone = gradient(learning(checkpoint, dataset, config), 1)
    for batch_size, accumulation in ((6, 1), (3, 2), (2, 3)):
        batched = replace(config, batch_size=batch_size, gradient_accumulation=accumulation)
        assert deviation(gradient(learning(checkpoint, dataset, batched), 1), alone) < FP32
    other = replace(config, seed=43)
    assert deviation(gradient(learning(checkpoint, dataset, other), 1), alone) > PERTURBED


def test_last_step_averages_fewer_draws(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Nine draws in steps of six: the last three count as much as the six before."""
    run = learning(checkpoint, dataset, replace(CONFIG, gradient_accumulation=6, epochs=3))
    assert sorted(draw for batch in run.batches(1) for draw in batch.draws) == [6, 7, 8]
    half = learning(checkpoint, dataset, replace(CONFIG, gradient_accumulation=3))
    found, expected = gradient(run, 1), gradient(half, 2)
    assert deviation(found, expected) < FP32
    assert deviation(found / 2, expected) > PERTURBED


@pytest.mark.parametrize("settings", [{}, {"timestep_sampling": "stratified"}, {"timestep_mode": "logit_normal"},
                                      {"timestep_preset": "structure"}, {"timestep_mode": "sampler"},
                                      {"timestep_preset": "custom", "timestep_mu": 1.0},
                                      {"timestep_mode": "discrete", "discrete_shift": "3"}])
def test_times_follow_their_distribution(checkpoint: Checkpoint, short: Dataset, settings: dict[str, Any]) -> None:
    run = of_one_song(checkpoint, short, **settings)
    with watched(run.objective) as seen, torch.no_grad():
        assert torch.isfinite(run.loss().loss_B).all()
    expected = flow_matching.sample_times(run.objective.timesteps, 20_000, rng.generator("law"))
    four_standard_errors = 4 * float(expected.std()) / DRAWS**0.5
    assert seen[0].t_B.dtype == torch.float32
    assert abs(float(seen[0].t_B.mean() - expected.mean())) < four_standard_errors
    other = flow_matching.sample_times(flow_matching.TimestepDistribution(mu=0.3), 20_000, rng.generator("law"))
    assert abs(float(seen[0].t_B.mean() - other.mean())) > four_standard_errors


@pytest.mark.parametrize("weighting", ["none", "min_snr", "min_snr_flow"])
def test_pure_noise_has_a_finite_loss(checkpoint: Checkpoint, short: Dataset, weighting: Any) -> None:
    run = of_one_song(checkpoint, short, timestep_mode="discrete", loss_weighting=weighting)
    loss = run.loss()
    assert (loss.t_B == 1).any()
    assert torch.isfinite(loss.weighted_B).all()
    loss.weighted_B.mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in run.parameters if parameter.grad is not None)


def test_sampling_settings_change_no_bit(checkpoint: Checkpoint, dataset: Dataset) -> None:
    told = learning(checkpoint, dataset, replace(CONFIG, shift=7.0, inference_steps=13))
    assert torch.equal(gradient(told, 0), gradient(learning(checkpoint, dataset, CONFIG), 0))


# The held-out loss


def fixed(samples: Sequence[Sample], start: int = 0) -> list[Pass]:
    """Passes over each sample at two times."""
    return [Pass(sample=sample, start=start, time=time, noise=f"{time}") for sample in samples for time in TIMES]


def measured(run: Learning) -> HeldoutLoss:
    return heldout_loss(run.objective, fixed(run.samples), AT)


def test_heldout_loss_ignores_training_settings(checkpoint: Checkpoint, dataset: Dataset) -> None:
    found = []
    for config, dropout in ((CONFIG, 0.0), (CONFIG, 0.9), (replace(CONFIG, cfg_ratio=1.0), 0.5),
                            (replace(CONFIG, loss_weighting="min_snr_flow", timestep_mode="discrete"), 0.0)):
        run = learning(checkpoint, dataset, config, dropout)
        run.objective.decoder.train()
        found += [measured(run), measured(run)]
        assert all(parameter.grad is None for parameter in run.parameters)
    assert len(set(found)) == 1
    run.parameters[0].data += 1
    assert measured(run) != found[0]


def test_heldout_loss_averages_its_passes(checkpoint: Checkpoint, dataset: Dataset) -> None:
    run = learning(checkpoint, dataset, CONFIG)
    with watched(run.objective) as seen:
        found = measured(run)
    assert [float(one.t_B) for one in seen] == pytest.approx(TIMES * 3)
    for one, sample in zip(seen[::2], run.samples, strict=True):
        assert torch.equal(one.conditions[0], sample.condition_SD[:])
        assert torch.equal(one.context_BTC[0, :, :64], run.objective.silence_TC[:one.x_BTC.shape[1]])
    assert len(found.losses) == 6
    assert found.mean == pytest.approx(sum(found.losses) / 6, rel=FP32)
    alone = [heldout_loss(run.objective, [one], AT).mean for one in fixed(run.samples)]
    assert deviation(torch.tensor(found.losses), torch.tensor(alone)) < FP32
    assert deviation(torch.tensor(found.losses), torch.tensor(alone).flip(0)) > PERTURBED


def test_every_pass_has_its_own_noise(checkpoint: Checkpoint, dataset: Dataset) -> None:
    run = learning(checkpoint, dataset, CONFIG)
    one, *_ = fixed(run.samples)
    found = heldout_loss(run.objective, [one, replace(one, noise="other"), one], AT).losses
    assert found[0] == found[2] != found[1]


def test_heldout_loss_uses_codes(checkpoint: Checkpoint, dataset: Dataset) -> None:
    for mode, with_codes in (("silence", False), ("mixed", False), ("codes", True)):
        run = learning(checkpoint, dataset, replace(CONFIG, context_mode=mode, codes_ratio=1.0))
        with watched(run.objective) as seen:
            measured(run)
        codes = run.samples[0].codes_TC
        assert with_codes == (codes is not None and torch.equal(seen[0].context_BTC[0, :, :64], codes[:]))


def test_heldout_crops_use_crop_conditions(checkpoint: Checkpoint, dataset: Dataset) -> None:
    run = learning(checkpoint, dataset, replace(CONFIG, chunk_duration=1.0))
    with watched(run.objective) as seen:
        measured(run)
    whole = learning(checkpoint, dataset, CONFIG).samples[0].condition_SD[:]
    assert seen[0].x_BTC.shape[1] == 25
    assert torch.equal(seen[0].conditions[0], run.samples[0].condition_SD[:])
    assert not torch.equal(seen[0].conditions[0], whole)


def test_heldout_loss_reports_progress(checkpoint: Checkpoint, dataset: Dataset) -> None:
    run = learning(checkpoint, dataset, CONFIG)
    reports: list[Progress] = []
    heldout_loss(run.objective, fixed(run.samples), AT, reports.append)
    assert reports == [AT] * 6


def test_non_finite_heldout_loss_is_rejected(checkpoint: Checkpoint, dataset: Dataset) -> None:
    run = learning(checkpoint, dataset, CONFIG)
    run.parameters[0].data[0, 0] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"held-out loss is nan at step 6\. Lower the learning rate"):
        measured(run)
    with pytest.raises(TrainingDiverged, match=r"The loss of the trained songs is nan at step 6\. Lower"):
        heldout_loss(run.objective, fixed(run.samples), AT, measured_on="trained")
