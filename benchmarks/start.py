"""Time from a fresh process to the first step of a training, in phases, and what reading ahead hides.

Each phase is in processor seconds of a process that does nothing else: `torch`, `core` (this package), `packages`
(those that a LoRA needs: none), `dataset` (manifest and samples), `decoder`, `adapter`, `heldout` (the first
measurement), `step`.  `first_step_s` is their sum, and `ratio` that over the same start with PEFT and all that
transformers, bitsandbytes, diffusers and LyCORIS offer.
`read_ahead`: wall time of importing LyCORIS, as a LoKR does, and then reading a model's file that is not in the
system's cache, with reading ahead over without; the better of two each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import run

FILE_BYTES = 1 << 30
"""Size of the file that stands for a model."""
PHASES = ("torch", "core", "packages", "dataset", "decoder", "adapter", "heldout", "step")
EVERYTHING = ("transformers.models.qwen3.modeling_qwen3", "transformers.modeling_utils", "bitsandbytes", "diffusers",
              "lycoris", "peft")


def child(root: Path, mode: str) -> None:
    """Start a training as far as its first step, and print the phases."""
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        seconds[name] = time.process_time() - begun

    with phase("torch"):
        import torch
    if mode == "everything":
        with phase("everything"):
            for package in EVERYTHING:
                __import__(package)
    with phase("core"):
        from sidestep_core.adapters import registry
        from sidestep_core.adapters.lora import LoraConfig
        from sidestep_core.dataset.manifest import open_dataset
        from sidestep_core.model.checkpoint import open_checkpoint
        from sidestep_core.progress import Progress
        from sidestep_core.training import data, setup, train
        from sidestep_core.training.config import TrainConfig
        from sidestep_core.training.loss import heldout_loss
        from sidestep_core.training.resolve import resolve
        from sidestep_core.training.step import optimizer_step
    torch.set_num_threads(1)
    adapter, config = LoraConfig(), TrainConfig(device="cpu", precision="fp32")
    with phase("packages"):
        registry.require(adapter)
    with phase("dataset"):
        checkpoint = open_checkpoint(root / "acestep_v1.5_tiny_turbo.safetensors",
                                     text_encoder=root / "qwen_tiny_ace15.safetensors",
                                     vae=root / "ace_1.5_tiny_vae.safetensors")
        dataset = open_dataset(root / "dataset")
        train.identity(checkpoint, dataset, adapter, config)
        settings = resolve(config, checkpoint, dataset)
        data.load_samples(dataset, settings.config)
    with phase("decoder"):
        from sidestep_core.model.decoder import load_decoder

        load_decoder(checkpoint.model_weights().under("decoder."), settings.dtype, settings.device)
    with phase("adapter"):
        training = setup.prepare(checkpoint, dataset, adapter, settings)
    with phase("heldout"):
        heldout_loss(training.objective, training.passes, Progress(stage="train", step=0, total=1))
    with phase("step"):
        optimizer_step(training, 0)
    sys.stdout.write(json.dumps(seconds) + "\n")


def read_child(file: Path, mode: str) -> None:
    """Import LyCORIS and read the file; print the wall time."""
    from sidestep_core.io import read_ahead

    if hasattr(os, "posix_fadvise"):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    begun = time.monotonic()
    with read_ahead.reading([file], 4 * FILE_BYTES if mode == "ahead" else None):
        import lycoris.modules.lokr  # noqa: F401  # the work beside it
    with file.open("rb", buffering=0) as opened:
        buffer = bytearray(1 << 22)
        while opened.readinto(buffer):
            pass
    sys.stdout.write(json.dumps({"seconds": time.monotonic() - begun}) + "\n")


def measured(*arguments: object) -> dict[str, float]:
    command = [*run.launch(Path(sys.executable), "benchmarks.start"), *map(str, arguments)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=run.bootstrap.ROOT)
    found: dict[str, float] = json.loads(output.stdout.splitlines()[-1])
    return found


def write_file(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(FILE_BYTES >> 22):
            file.write(os.urandom(1 << 22))
        file.flush()
        os.fsync(file.fileno())


def measure() -> dict[str, float]:
    """The figures, by name."""
    from tests.tiny import tiny_checkpoint, write_dataset

    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset(root / "dataset", tiny_checkpoint(root), (250,) * 10)
        plain, everything = (measured(root, mode) for mode in ("needed", "everything"))
        write_file(root / "model")
        reads = [[measured(root / "model", mode)["seconds"] for mode in ("ahead", "after")] for _ in range(2)]
    ahead, after = (min(column) for column in zip(*reads, strict=True))
    total = sum(plain[name] for name in PHASES)
    return {**{f"{name}_s": round(plain[name], 2) for name in PHASES}, "first_step_s": round(total, 2),
            "ratio": round(total / sum(everything.values()), 3), "read_ahead": round(ahead / after, 3)}


def main() -> int:
    if len(sys.argv) > 1:
        place, mode = Path(sys.argv[1]), sys.argv[2]
        (read_child if place.is_file() else child)(place, mode)
        return 0
    found = measure()
    for name, value in found.items():
        sys.stdout.write(f"{name:<14} {value:8.3f}\n")
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
