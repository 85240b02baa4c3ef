"""Frozen weights in fewer bits, in host memory, and after running out of memory: identical results, or the error.

`fp8_identical` and `int8_identical` compare a training on a file as it is with one on its unpacked weights;
`offload_identical` a training whose layers come through the ring; `oom_identical` trainings that run out of memory at
random layers.  Adapter files are compared byte by byte.  For each precision that is made when a model is loaded, the
table has the error of the adapter's gradient against bf16, and how much of a planted change a training recovers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import get_args
from unittest import mock

import torch
from torch import Tensor, nn

from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core import rng
from sidestep_core.adapters import registry
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.config import BasePrecision
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.decoder import DecoderLayer
from sidestep_core.model.holding import Holding
from sidestep_core.model.loading import load
from sidestep_core.progress import Progress
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.loss import heldout_loss
from sidestep_core.training.planning import host_memory
from tests.adapters import velocity
from tests.planting import PAIRS, planted, taught_by
from tests.quantised import quantise
from tests.tiny import write_dataset
from tests.training import prepared, trained

CPU = torch.device("cpu")
CONFIG = TrainConfig(max_steps=4, learning_rate=3e-3, gradient_accumulation=2, warmup_steps=2, heldout_songs=1,
                     heldout_every=100, save_every=100, device="cpu", precision="bf16", gradient_checkpointing="off")
LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.1, target_mlp=True)
FRAMES = (40, 50, 60, 70)
_AT = Progress(stage="train", step=0, total=1)
OOM_RUNS = 20
RECOVERY_STEPS, RECOVERY_SIZE = 60, 0.2
LAYERS = 4
MADE: tuple[BasePrecision, ...] = tuple(one for one in get_args(BasePrecision) if one != "as_file")


def checkpoint_of(folder: Path, style: str = "") -> Checkpoint:
    """Write a tiny checkpoint in bf16, or in fewer bits."""
    folder.mkdir()
    paths = write_tiny_models(folder, Geometry(layers=LAYERS))
    if style:
        quantise(paths.model, style)
    return open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)


@dataclass(frozen=True)
class Job:
    """A checkpoint and a dataset to train on."""

    folder: Path
    checkpoint: Checkpoint
    dataset: Dataset

    @classmethod
    def make(cls, folder: Path, style: str = "") -> Job:
        folder.mkdir()
        checkpoint = checkpoint_of(folder / "model", style)
        return cls(folder, checkpoint, write_dataset(folder / "dataset", checkpoint, FRAMES))

    def adapter(self, config: TrainConfig = CONFIG, adapter: LoraConfig = LORA) -> dict[str, Tensor]:
        """Train anew, and read the published adapter."""
        folder = Path(mkdtemp(dir=self.folder))
        return read_tensors(trained(self.checkpoint, self.dataset, folder, adapter, config).path)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextlib.contextmanager
def running_out(calls: set[int]) -> Iterator[list[int]]:
    """Raise in these calls of the decoder's layers; count the calls.  Offload on a CPU too."""
    real, count = DecoderLayer.forward, [0]

    def forward(layer: nn.Module, *inputs: object) -> object:
        count[0] += 1
        if count[0] in calls:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(layer, *inputs)

    with (mock.patch.object(DecoderLayer, "forward", forward),
          mock.patch.object(host_memory, "OFFLOADS_ON", ("cpu",))):
        yield count


def identical_as_file(folder: Path, style: str) -> bool:
    """Compare a training on a quantised file as it is with one on its unpacked weights."""
    job = Job.make(folder, style)
    return equal(job.adapter(), job.adapter(replace(CONFIG, base_precision="bf16")))


def identical_offloaded(job: Job) -> bool:
    return equal(job.adapter(), job.adapter(replace(CONFIG, offload="on", gradient_checkpointing="on")))


def identical_after_oom(job: Job) -> int:
    """Count the trainings that equal an undisturbed one, each out of memory twice, at random calls of layers."""
    with running_out(set()) as count:
        expected = job.adapter()
    same = 0
    for seed in range(OOM_RUNS):
        first, second = sorted(random.Random(seed).sample(range(1, count[0] + 1), 2))
        with running_out({first, second}):
            same += equal(job.adapter(), expected)
    return same


def gradient(checkpoint: Checkpoint, precision: BasePrecision) -> Tensor:
    """Gradient of a new LoRA's matrices, one after the other."""
    held = Holding(precision=precision, dtype=torch.bfloat16, device=CPU)
    decoder = load(checkpoint.model_weights().under("decoder."), held).train()
    live = registry.attach(decoder, replace(LORA, dropout=0.0), target_modules(LORA, LAYERS), 0)
    velocity(decoder).float().square().mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in live.parameters if parameter.grad is not None])


def recovery(job: Job, precision: BasePrecision) -> float:
    """Share of a planted change that a training on such weights gives to the model as it is in the file: 1 - loss with
    the adapter / loss without, on clean targets.
    """
    lora = replace(LORA, dropout=0.0)
    config = replace(CONFIG, max_steps=RECOVERY_STEPS, learning_rate=1e-2, cfg_ratio=0.0, precision="fp32",
                     base_precision=precision)
    teacher = planted(job.checkpoint, PAIRS[1] + PAIRS[2], seed=1, size=RECOVERY_SIZE)
    with taught_by(teacher, seed=2, noise=0.0):
        tensors = job.adapter(config, lora)
        plain = prepared(job.checkpoint, job.dataset, lora, replace(config, base_precision="as_file"))
        before = heldout_loss(plain.objective, plain.passes, _AT).mean
        plain.adapter.load_state_dict(tensors)
        return 1 - heldout_loss(plain.objective, plain.passes, _AT).mean / before


def main() -> int:
    """Print the table and the JSON line; return 1 if something is not identical."""
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as folder, rng.isolated(CPU):
        root = Path(folder)
        job = Job.make(root / "bf16")
        exact = gradient(job.checkpoint, "as_file")
        errors = {one: float((gradient(job.checkpoint, one) - exact).norm() / exact.norm()) for one in MADE}
        for precision in MADE:
            print(f"{precision:5} gradient error {errors[precision]:8.2e}, planted change recovered "
                  f"{recovery(job, precision):6.1%}", flush=True)
        same = identical_after_oom(job)
        print(f"{same} of {OOM_RUNS} trainings that ran out of memory are identical to an undisturbed one")
        found = {"fp8_identical": all(identical_as_file(root / style, style) for style in ("marked", "plain")),
                 "int8_identical": identical_as_file(root / "int8", "int8"),
                 "offload_identical": identical_offloaded(job), "oom_identical": same == OOM_RUNS,
                 **{f"{one}_gradient_error": round(errors[one], 4) for one in MADE if one != "bf16"}}
    print(json.dumps(found))
    return int(not all(found[name] for name in found if name.endswith("_identical")))


if __name__ == "__main__":
    sys.exit(main())
