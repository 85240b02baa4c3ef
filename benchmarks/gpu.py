"""Training steps on an NVIDIA card: model, kind, crop and recomputation -> seconds, memory against the plan, MFU.

Real sizes with random weights in bfloat16, one song per step.  `mfu` is the work of a step without recomputation, over
what the card's own matrix products in bfloat16 do in that time, measured before.  The last lines are Markdown rows for
docs/guide/memory.md and one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sidestep_core.adapters import registry
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model.decoder import Decoder, DecoderGeometry
from sidestep_core.model.flow_matching import FRAMES_PER_SECOND
from sidestep_core.model.holding import HeldBytes
from sidestep_core.training import memory
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.memory import GIB, Batch
from sidestep_core.training.optim import optimizers

KINDS: Mapping[str, AdapterConfig] = {"LoRA": LoraConfig(), "DoRA": LoraConfig(dora=True), "LoKR": LokrConfig(),
                                      "LoHA": LohaConfig()}
SECONDS = (30, 60, 240)
LAYERS = 4
"""Layers of the decoder whose work is counted; every other one slides."""
POLICIES = ("none", "all")
"""Layers that are recomputed."""
TOKENS = 400
WARM, TIMED = 3, 10
"""Steps before and of the measurement."""
PRODUCT = 8192
"""Rows and columns of the matrices whose product sets the card's speed."""
MISSING = ("bench gpu needs an NVIDIA card, and a torch built for CUDA that sees it: torch.cuda.is_available() is "
           "False here, in torch {version}. The other benchmarks need no card.")
HEADER = ("| card | torch | model | kind | crop | recomputed | s/step | peak GiB | plan GiB | MFU |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table."""

    model: str
    kind: str
    crop: int
    recomputed: str
    seconds: float
    peak: float
    """GiB, without what the card's driver and libraries take."""
    planned: float
    mfu: float

    def row(self, card: str, version: str) -> str:
        """Markdown row."""
        return (f"| {card} | {version} | {self.model} | {self.kind} | {self.crop} s | {self.recomputed} | "
                f"{self.seconds:.3f} | {self.peak:.1f} | {self.planned:.1f} | {self.mfu:.0%} |")


def mfu(work: float, seconds: float, speed: float) -> float:
    """Share of the card's speed (operations per second) that `work` operations in so many seconds make use of."""
    return work / seconds / speed


def step_of(decoder: Decoder, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    """Forward and backward pass."""
    def step() -> None:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            loss = decoder(*inputs).float().square().mean()
        loss.backward()

    return step


def inputs_of(size: DecoderGeometry, batch: Batch, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Noisy latents, times, condition and context."""
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, device=device)

    return (random(batch.samples, batch.frames, 64), torch.full((batch.samples,), 0.5, device=device),
            random(batch.samples, batch.tokens, size.condition_width), random(batch.samples, batch.frames, 128))


def work_of(size: DecoderGeometry, config: AdapterConfig, batch: Batch, device: torch.device) -> float:
    """Operations of the matrix products and attentions of a step without recomputation.

    Counted with a few layers, which fit any card, and taken as many times as the decoder has them.
    """
    few = replace(size, layers=LAYERS)
    with device:
        decoder = Decoder(few).to(torch.bfloat16)
    registry.attach(decoder.train(), config, target_modules(config, LAYERS), seed=0)
    step = step_of(decoder, inputs_of(size, batch, device, torch.bfloat16))
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) * size.layers / LAYERS


def card_speed() -> float:
    """Operations per second of a large product in bfloat16, the best of a few."""
    one, other = (torch.randn(PRODUCT, PRODUCT, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    times = []
    for _ in range(TIMED):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        one @ other
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return 2 * PRODUCT**3 / min(times)


def measured(model: str, kind: str, crop: int, recomputed: str, speed: float) -> Result:
    """Measure one combination.  torch.OutOfMemoryError if it does not fit."""
    size, config, device = registry.SIZES[model], KINDS[kind], torch.device("cuda")
    batch = Batch(samples=1, frames=crop * FRAMES_PER_SECOND, tokens=TOKENS, bytes=2, dropout=config.dropout > 0,
                  gpu=True)
    with device:
        decoder = Decoder(size).to(torch.bfloat16)
    modules = target_modules(config, size.layers)
    live = registry.attach(decoder.train(), config, modules, seed=0)
    train = TrainConfig(gradient_checkpointing="on" if recomputed == "all" else "off")
    decoder.recomputed_layers = size.layers if recomputed == "all" else 0
    optimizer = optimizers.build(train, live.parameters)  # type: ignore[arg-type]  # of a config, the optimizer only
    step = step_of(decoder, inputs_of(size, batch, device, torch.bfloat16))
    weights = sum(parameter.numel() * 2 for parameter in decoder.parameters() if not parameter.requires_grad)
    held = HeldBytes(total=weights, layer=0, unpacked=0)
    need = memory.need_of(size, held, sum(parameter.numel() for parameter in live.parameters), modules, batch,
                          train)  # type: ignore[arg-type]
    times = []
    for number in range(WARM + TIMED):
        if number == WARM:
            torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        step()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    seconds = statistics.median(times[WARM:])
    return Result(model=model, kind=kind, crop=crop, recomputed=recomputed, seconds=seconds,
                  peak=torch.cuda.max_memory_allocated() / GIB, planned=need.total / GIB,
                  mfu=mfu(work_of(size, config, batch, device), seconds, speed))


def table(speed: float) -> Iterator[Result]:
    """Yield a row for each combination that fits the card."""
    for model in registry.SIZES:
        for kind in KINDS:
            for crop in SECONDS:
                for recomputed in POLICIES:
                    try:
                        yield measured(model, kind, crop, recomputed, speed)
                    except torch.OutOfMemoryError:
                        sys.stdout.write(f"{model} {kind} {crop} s, {recomputed} recomputed: does not fit\n")
                    torch.cuda.empty_cache()


def main() -> int:
    if not torch.cuda.is_available():
        sys.stderr.write(MISSING.format(version=torch.__version__) + "\n")
        return 1
    card, version = torch.cuda.get_device_name(), torch.__version__
    speed = card_speed()
    sys.stdout.write(f"{card}: {speed / 1e12:.0f} TFLOP/s in a product of {PRODUCT}\n{HEADER}\n")
    rows = []
    for result in table(speed):
        rows.append(result)
        sys.stdout.write(result.row(card, version) + "\n")
        sys.stdout.flush()
    error = max(abs(row.planned / row.peak - 1) for row in rows)
    sys.stdout.write(json.dumps({"card": card, "torch": version, "tflops": round(speed / 1e12, 1),
                                 "plan_error": round(error, 3), "rows": [asdict(row) for row in rows]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
