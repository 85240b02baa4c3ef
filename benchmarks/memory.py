"""Memory that a layer keeps for its backward pass on a card, counted without one, against the plan of a training.

The count is that of `_fake_cuda.py`; `plan_error` is the plan's largest deviation from it in the table.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks import _fake_cuda
from sidestep_core.adapters import registry
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model.decoder import Decoder, DecoderGeometry
from sidestep_core.model.flow_matching import FRAMES_PER_SECOND
from sidestep_core.model.holding import HeldBytes
from sidestep_core.model.packed import packed_bytes
from sidestep_core.training.memory import GIB, Batch, Need, layer_bytes
from sidestep_core.training.optim.optimizers import STATE_BYTES

KINDS: dict[str, AdapterConfig] = {
    "LoRA": LoraConfig(), "LoRA, no dropout": LoraConfig(dropout=0.0), "LoRA, MLP": LoraConfig(target_mlp=True),
    "LoRA, self": LoraConfig(attention_type="self"), "DoRA": LoraConfig(dora=True), "LoKR": LokrConfig(),
    "LoHA": LohaConfig(),
}  # fmt: skip
SECONDS = (12, 60, 240)
TOKENS = 400
"""Condition tokens of a song with lyrics."""
MIB = 1 << 20
BF16, FP32 = 2, 4
PLAN_ERROR_TARGET, KEPT_TARGET, TOTAL_TARGET, XL_TARGET = 0.03, 75.0, 4.0, 6.0


def batch_of(seconds: int, config: AdapterConfig, samples: int = 1, *, flash: bool = True) -> Batch:
    """Batch of crops of this length on a card, with flash attention or without."""
    return Batch(samples=samples, frames=round(seconds * FRAMES_PER_SECOND), tokens=TOKENS, bytes=BF16,
                 dropout=config.dropout > 0, gpu=True, flash=flash)


def kept_and_planned(size: DecoderGeometry, config: AdapterConfig, batch: Batch) -> tuple[float, float]:
    """MiB per layer: counted, and planned."""
    with _fake_cuda.card():
        kept = _fake_cuda.kept_bytes(_fake_cuda.adapted(size, config), batch, size.condition_width)
    few = replace(size, layers=_fake_cuda.LAYERS)
    planned = layer_bytes(few, target_modules(config, few.layers), batch)
    return kept / few.layers / MIB, planned / MIB


def held(size: DecoderGeometry, precision: str = "bf16") -> HeldBytes:
    """Planned sizes of a decoder's weights whose projections are held in this precision, and the rest in bfloat16."""
    total, projections, largest = 0, 0, 0
    with torch.device("meta"):
        named = [*Decoder(size).named_parameters()]
    for name, parameter in named:
        own = parameter.numel() * BF16
        if name.startswith("layers.") and name.endswith("_proj.weight"):
            if precision != "bf16":
                largest, own = max(largest, own), packed_bytes(tuple(parameter.shape), precision)
            projections += own
        total += own
    return HeldBytes(total=total, layer=projections // size.layers, unpacked=largest)


def weights_error(size: DecoderGeometry) -> float:
    """Deviation of the planned size of int8 weights from the count, and of what is kept beside them from the plan."""
    config, few = LoraConfig(), replace(size, layers=_fake_cuda.LAYERS)
    batch = batch_of(60, config)
    with _fake_cuda.card():
        decoder = _fake_cuda.adapted(size, config, int8=True)
        weights = _fake_cuda.weight_bytes(decoder)
        kept = _fake_cuda.kept_bytes(decoder, batch, size.condition_width)
    planned = layer_bytes(few, target_modules(config, few.layers), batch) * few.layers
    return max(abs(held(few, "int8").total / weights - 1), abs(planned / kept - 1))


def recomputing_everything(size: DecoderGeometry, batch: Batch, precision: str = "bf16") -> Need:
    """Memory of a default LoRA training on such weights that recomputes every layer."""
    config = LoraConfig()
    weights = held(size, precision)
    adapter = registry.capacity(config, size).total
    return Need(weights=weights.total, layer_weights=weights.layer, unpacked=weights.unpacked, adapter=adapter * FP32,
                trained=round(adapter * (FP32 + STATE_BYTES["adamw"])),
                layer=layer_bytes(size, target_modules(config, size.layers), batch), layers=size.layers,
                layer_input=-(-batch.frames // size.patch) * size.width * BF16, recomputed=size.layers)


def table() -> Iterator[tuple[str, str, int, float, float]]:
    """Rows of model, kind, seconds, kept and planned MiB per layer; with flash attention, and for the default LoRA also
    without."""
    for model, size in registry.SIZES.items():
        for kind, config in KINDS.items():
            for seconds in SECONDS:
                yield model, kind, seconds, *kept_and_planned(size, config, batch_of(seconds, config))
        for seconds in SECONDS:
            config = KINDS["LoRA"]
            yield model, "LoRA, sdpa", seconds, *kept_and_planned(size, config, batch_of(seconds, config, flash=False))


def main() -> int:
    """Print the table and the JSON line; return 1 if a target is missed."""
    logging.disable(logging.WARNING)
    rows = list(table())
    for model, kind, seconds, kept, planned in rows:
        sys.stdout.write(f"{model:3} {kind:17} {seconds:4} s  kept {kept:6.1f} MiB per layer, planned {planned:6.1f} "
                         f"({planned / kept - 1:+.1%})\n")
    crop = batch_of(60, LoraConfig())
    totals = {model: recomputing_everything(size, crop).total / GIB for model, size in registry.SIZES.items()}
    xl = recomputing_everything(registry.SIZES["XL"], crop, "int8").total / GIB
    error = max(*(abs(planned / kept - 1) for *_, kept, planned in rows),
                *map(weights_error, registry.SIZES.values()))
    kept = next(row[3] for row in rows if row[:3] == ("2B", "LoRA", 60))
    sys.stdout.write(json.dumps({"plan_error": round(error, 4), "kept_mib_2b_60s": round(kept, 1),
                                 "2b_60s_gib": round(totals["2B"], 2), "xl_60s_gib": round(xl, 2),
                                 "xl_60s_gib_bf16": round(totals["XL"], 2)}) + "\n")
    return int(error > PLAN_ERROR_TARGET or kept > KEPT_TARGET or totals["2B"] > TOTAL_TARGET or xl > XL_TARGET)


if __name__ == "__main__":
    sys.exit(main())
