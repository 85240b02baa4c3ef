"""Training finds what there is to find: a low-rank change planted in a decoder, of which it sees only predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core import rng
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.decoder import Decoder, load_decoder
from sidestep_core.progress import Progress
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.loss import heldout_loss
from sidestep_core.training.optim import optimizers
from sidestep_core.training.step import Training, optimizer_step
from tests.tiny import write_dataset
from tests.training import prepared

CPU = torch.device("cpu")
LORA = LoraConfig(rank=4, alpha=4.0, dropout=0.0)
STEPS = 60
CONFIG = TrainConfig(max_steps=STEPS, learning_rate=1e-2, batch_size=8, gradient_accumulation=1, warmup_steps=0,
                     weight_decay=0.0, heldout_songs=2, cfg_ratio=0.0, device="cpu", gradient_checkpointing="off")


def planted(checkpoint: Checkpoint, rank: int, size: float) -> Decoder:
    """The decoder with a change of this rank in every module that will be adapted, `size` times as large as it."""
    decoder = load_decoder(checkpoint.model_weights().under("decoder."), torch.float32, CPU)
    for name in target_modules(LORA, decoder.geometry.layers):
        weight = decoder.get_parameter(f"{name}.weight")
        random = rng.generator("planted", name)
        change = torch.randn(weight.shape[0], rank, generator=random) @ torch.randn(rank, weight.shape[1],
                                                                                    generator=random)
        weight.data += size * weight.norm() / change.norm() * change
    return decoder


@dataclass
class Teacher:
    """Predicts what the trained decoder was just asked."""

    decoder: Decoder
    prediction: Tensor | None = None

    def listen(self, student: nn.Module) -> None:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            with torch.no_grad():
                self.prediction = self.decoder(*inputs)

        student.register_forward_pre_hook(see)

    def velocity(self, x0_BTC: Tensor, noise_BTC: Tensor) -> Tensor:
        assert self.prediction is not None
        return self.prediction


Learn = Callable[[Training], list[float]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    paths = write_tiny_models(tmp_path_factory.mktemp("checkpoint"), Geometry(), dtype=torch.float32)
    return open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40,) * 20)


@pytest.fixture
def learn(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Learn:
    """Trains by the real step, with the teacher's prediction for the target; held-out loss before and after."""
    teacher = Teacher(planted(checkpoint, rank=2, size=0.2))
    monkeypatch.setattr(flow_matching, "velocity", teacher.velocity)

    def run(training: Training) -> list[float]:
        teacher.listen(training.objective.decoder)

        def measured(step: int) -> float:
            at = Progress(stage="train", step=step, total=STEPS)
            return heldout_loss(training.objective, training.passes, at).mean

        before = measured(0)
        for step in range(STEPS):
            optimizer_step(training, step)
        return [before, measured(STEPS)]

    return run


def in_bfloat16(training: Training) -> Training:
    """Convert adapter and optimizer state to bfloat16, as other trainers use."""
    for parameter in training.adapter.parameters:
        parameter.data = parameter.data.bfloat16()
    return replace(training, optimizer=optimizers.build(training.config, training.adapter.parameters))


def test_lora_recovers_a_planted_delta(checkpoint: Checkpoint, dataset: Dataset, learn: Learn) -> None:
    before, after = learn(prepared(checkpoint, dataset, LORA, CONFIG))
    assert after <= 0.5 * before
    same_before, rounded = learn(in_bfloat16(prepared(checkpoint, dataset, LORA, CONFIG)))
    assert same_before == before
    assert after < rounded


def test_unadapted_modules_are_not_recovered(checkpoint: Checkpoint, dataset: Dataset, learn: Learn) -> None:
    one = replace(LORA, attention_type="cross", target_modules=("k_proj",))
    before, after = learn(prepared(checkpoint, dataset, one, CONFIG))
    assert after > 0.5 * before
