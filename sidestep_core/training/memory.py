"""Estimate of a training's device memory before it starts, and the number of layers to recompute.

Memory that a layer keeps for its backward pass follows from its sizes (see `layer_bytes`, held to a count by
benchmarks/memory.py); a margin covers the rest, such as the workspace of kernels.  Shapes: see decoder.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..adapters.config import MLP_PROJECTIONS
from ..adapters.dropout import REDRAWN_ON
from ..device import free_memory
from ..model.attention import DENSE_BELOW, WINDOW
from ..model.decoder import DecoderGeometry
from ..model.holding import HeldBytes, Holding, held_bytes
from ..model.offload import BUFFERS
from ..model.weights import Weights
from .config import ResolvedConfig
from .data import Sample, crop_frames
from .optim.optimizers import SCHEDULE_FREE, STATE_BYTES
from .planning import host_memory
from .planning.batch_sizes import BatchSize, Drawn, batch_sizes

log = logging.getLogger(__name__)

GIB = 1 << 30
USABLE = 0.85
"""Usable share of the free memory: fragmentation and kernels take the rest."""
_FP32 = 4


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Size of the largest batch of a training."""

    samples: int
    frames: int
    tokens: int
    """Condition tokens."""
    bytes: int
    """Bytes per number in the decoder's dtype."""
    dropout: bool
    """True if the adapter's inputs are dropped out."""
    gpu: bool
    """True on a device with fused norms, which draws dropout's masks again for the backward pass."""
    flash: bool = False
    """True if the kernel of the attention has the sliding window built in, without mask and blocks."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of device memory that a training needs, by purpose."""

    weights: int
    """Weights of the frozen decoder, on the device and in host memory."""
    adapter: int
    """Parameters of the adapter."""
    trained: int
    """Gradients, optimizer state and average of the adapter."""
    layer: int
    """Activations that one layer keeps for its backward pass."""
    layer_input: int
    """Activations that a recomputed layer keeps."""
    layers: int
    recomputed: int
    """Number of recomputed layers."""
    layer_weights: int = 0
    """Weights of a layer that can be in host memory."""
    unpacked: int = 0
    """Largest weight that is unpacked for its products."""
    offloaded: int = 0
    """Number of layers in host memory."""

    @property
    def resident(self) -> int:
        """Weights on the device, with the buffers for layers in host memory."""
        return self.weights - max(0, self.offloaded - BUFFERS) * self.layer_weights

    @property
    def work(self) -> int:
        """Everything that is not on the device when the training is loaded."""
        return self.trained + self.activations + self.unpacked

    @property
    def activations(self) -> int:
        """Peak of the activations: those kept at the end of the forward pass, and one more layer for its gradients or
        its recomputation."""
        kept = (self.layers - self.recomputed) * self.layer + self.recomputed * self.layer_input
        return kept + (2 if self.recomputed else 1) * self.layer

    @property
    def total(self) -> int:
        return self.resident + self.adapter + self.work

    def __str__(self) -> str:
        adapter = self.adapter + self.trained
        elsewhere = f", {self.offloaded} of them in the computer's memory" if self.offloaded else ""
        return (f"about {self.total / GIB:.1f} GiB (decoder {self.resident / GIB:.1f}, adapter and optimizer "
                f"{adapter / GIB:.1f}, activations {self.activations / GIB:.1f}, recomputing {self.recomputed} of "
                f"{self.layers} layers{elsewhere})")


def plan(weights: Weights, holding: Holding, parameters: int, modules: Mapping[str, int], dropout: float,
         samples: Sequence[Sample], config: ResolvedConfig, *, measured: Sequence[Sample] = (),
         flash: bool = False, travelling: int = 0) -> Need:
    """Estimate the memory of an adapter of so many parameters on a decoder, and choose the numbers of recomputed layers
    and of those in host memory, by the settings or by the free memory.

    `measured` are samples that are only measured, one at a time; `travelling` is the number of gradients on their way
    between processes.  Call it before anything of the training is on the device.  OutOfMemory if the settings ask for
    more host memory than is free.
    """
    device, geometry = holding.device, DecoderGeometry.from_weights(weights)
    sizes = [*batch_sizes(_drawn(samples, config), config),
             *(BatchSize(samples=1, frames=each.frames, tokens=each.tokens) for each in _drawn(measured, config))]
    batch = largest_batch(geometry, modules, sizes, number_bytes=holding.dtype.itemsize, dropout=dropout > 0,
                          gpu=is_gpu(device), flash=flash)
    need = need_of(geometry, held_bytes(weights, holding), parameters, modules, batch, config)
    need = replace(need, trained=need.trained + travelling * parameters * _FP32)
    free = free_memory(device)
    if free is not None:
        need = fit(need, free - need.resident - need.adapter, recompute=config.gradient_checkpointing == "auto",
                   offloadable=host_memory.offloadable(need.layers, need.layer_weights, config, device))
    host_memory.require(need.offloaded, need.layer_weights)
    log.info("Training needs %s; %s.", need, "free is unknown" if free is None else f"{free / GIB:.1f} GiB are free")
    return need


def is_gpu(device: torch.device) -> bool:
    """Return True for a device with fused norms, which draws dropout's masks again for the backward pass."""
    return device.type in REDRAWN_ON


def need_of(geometry: DecoderGeometry, held: HeldBytes, parameters: int, modules: Mapping[str, int], batch: Batch,
            config: ResolvedConfig) -> Need:
    """Estimate the memory beside decoder weights of these sizes and an adapter of so many parameters; with every layer
    recomputed unless gradient_checkpointing is off, and none in host memory unless offload is on.
    """
    averaged = config.ema_decay or config.optimizer == SCHEDULE_FREE
    return Need(
        weights=held.total, layer_weights=held.layer, unpacked=held.unpacked,
        adapter=parameters * _FP32,
        trained=round(parameters * (_FP32 + STATE_BYTES[config.optimizer] + (_FP32 if averaged else 0))),
        layer=layer_bytes(geometry, modules, batch),
        layer_input=batch.samples * math.ceil(batch.frames / geometry.patch) * geometry.width * batch.bytes,
        layers=geometry.layers,
        recomputed=0 if config.gradient_checkpointing == "off" else geometry.layers,
        offloaded=geometry.layers if config.offload == "on" else 0,
    )


def fit(need: Need, free: int, *, recompute: bool = True, offloadable: int = 0) -> Need:
    """Recompute the fewest layers that make the training fit beside its weights; if all are too few, keep the fewest in
    host memory; as many as `offloadable` if nothing fits.

    `free` are the bytes beside weights and adapter as `need` has them, negative where those do not fit.
    """
    recomputed = range(need.layers + 1) if recompute else (need.recomputed,)
    offloaded = range(offloadable + 1) if offloadable else (need.offloaded,)
    most = replace(need, recomputed=recomputed[-1], offloaded=offloaded[-1])
    tries = [*(replace(need, recomputed=layers) for layers in recomputed),
             *(replace(need, recomputed=recomputed[-1], offloaded=layers) for layers in offloaded)]
    return next((tried for tried in tries if tried.work <= USABLE * (free + need.resident - tried.resident)), most)


def _drawn(samples: Iterable[Sample], config: ResolvedConfig) -> Iterator[Drawn]:
    for sample in samples:
        yield Drawn(frames=crop_frames(len(sample.latents_TC), config), tokens=len(sample.condition_SD),
                    repeats=sample.repeats)


def largest_batch(geometry: DecoderGeometry, modules: Mapping[str, int], sizes: Iterable[BatchSize], *,
                  number_bytes: int, dropout: bool, gpu: bool, flash: bool = False) -> Batch:
    """Return the batch that keeps most."""
    batches = [Batch(samples=size.samples, frames=size.frames, tokens=size.tokens, bytes=number_bytes, dropout=dropout,
                     gpu=gpu, flash=flash) for size in sizes]
    return max(batches, key=lambda batch: layer_bytes(geometry, modules, batch))


def layer_bytes(geometry: DecoderGeometry, modules: Mapping[str, int], batch: Batch) -> int:
    """Bytes that one layer keeps for its backward pass, averaged over the layers; `modules` are the adapted ones with
    their ranks.
    """
    size = _Sizes.of(geometry, batch)
    return round(_gpu_bytes(size, modules, batch) if batch.gpu else _cpu_bytes(size, modules, batch))


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Numbers per position or condition token, and how many of these there are in a batch."""

    geometry: DecoderGeometry
    positions: int
    padded: int
    """Positions of a sliding layer, in whole blocks."""
    conditions: int
    queries: int
    keys: int
    groups: int
    """Query heads per key head."""
    span: int
    """Keys that a query of a sliding layer may attend to."""
    sliding_keys: int
    """Keys that a sliding layer keeps: windows onto one tensor, or for several samples a copy of each window."""

    @classmethod
    def of(cls, geometry: DecoderGeometry, batch: Batch) -> _Sizes:
        length = math.ceil(batch.frames / geometry.patch)
        blocks = length > DENSE_BELOW and not batch.flash
        padded = math.ceil(length / WINDOW) * WINDOW if blocks else length
        return cls(geometry=geometry, positions=batch.samples * length, padded=batch.samples * padded,
                   conditions=batch.samples * batch.tokens, queries=geometry.heads * geometry.head_width,
                   keys=geometry.kv_heads * geometry.head_width, groups=geometry.heads // geometry.kv_heads,
                   span=3 * WINDOW if blocks else length, sliding_keys=batch.samples * (
                       length if not blocks else padded + 2 * WINDOW if batch.samples == 1 else 3 * padded))

    def input(self, module: str) -> int:
        """Size of the input of a module such as `layers.0.cross_attn.k_proj`."""
        projection = module.rpartition(".")[2]
        if projection in MLP_PROJECTIONS:
            return self.positions * (self.geometry.mlp if projection == "down_proj" else self.geometry.width)
        return self.positions * self.queries if projection == "o_proj" else self.rows(module) * self.geometry.width

    def rows(self, module: str) -> int:
        """Positions, or for what reads the condition its tokens."""
        reads_condition = "cross_attn" in module and module.endswith(("k_proj", "v_proj"))
        return self.conditions if reads_condition else self.positions


def _gpu_bytes(size: _Sizes, modules: Mapping[str, int], batch: Batch) -> float:
    """Kept are in the decoder's dtype the inputs of the norms, queries, keys, values and outputs of both attentions,
    the mask of every other layer, which slides, gate and up of the MLP, and of every adapted module its input, which
    some share, and its rank-wide product; in float32 the statistics of norms and attentions.

    A flash kernel needs no mask, and its output is the very input of the next module.
    """
    geometry, layers = size.geometry, size.geometry.layers
    # No gradient passes through the norm of keys that nothing trained has made.
    key_norm = size.conditions if any(module.endswith("cross_attn.k_proj") for module in modules) else 0
    normed = size.positions * (3 * geometry.width + 2 * size.queries + size.keys) + key_norm * size.keys
    attentions = (size.positions + size.padded + 2 * size.positions) * size.queries
    if batch.flash:
        attentions -= sum(size.input(module) for module in modules if module.endswith("o_proj")) // layers
    keys = 2 * size.keys * ((size.positions + size.sliding_keys) / 2 + size.conditions)
    mask = 0 if batch.flash else size.padded * size.groups * size.span / 2
    gates = 2 * size.positions * geometry.mlp
    products = sum(rank * size.rows(module) for module, rank in modules.items()) / layers
    last_norm = size.positions * geometry.width / layers
    numbers = normed + attentions + keys + mask + gates + _inputs(size, modules) + products + last_norm
    statistics = size.positions * (3 + 4 * geometry.heads + geometry.kv_heads) + key_norm * geometry.kv_heads
    return batch.bytes * numbers + _FP32 * statistics


def _inputs(size: _Sizes, modules: Mapping[str, int]) -> float:
    """Numbers of the adapted modules' inputs per layer, each input once."""
    inputs = _distinct_inputs(size, modules)
    own = sum(numbers for (_, name), numbers in inputs.items() if name != _CONDITION)
    condition = next((numbers for (_, name), numbers in inputs.items() if name == _CONDITION), 0)
    return (own + condition) / size.geometry.layers


def _distinct_inputs(size: _Sizes, modules: Mapping[str, int]) -> dict[tuple[str, str], int]:
    return {(module.rpartition(".")[0], _shared(module)): size.input(module) for module in modules}


_CONDITION = "condition"


def _shared(module: str) -> str:
    """Name of the input that a module shares with others of its block; that of the condition all layers share."""
    block, _, projection = module.rpartition(".")
    if projection in ("k_proj", "v_proj") and block.endswith("cross_attn"):
        return _CONDITION
    return projection if projection in ("o_proj", "down_proj") else "block"


def _cpu_bytes(size: _Sizes, modules: Mapping[str, int], batch: Batch) -> float:
    """Always in float32 are the inputs of the norms, the queries and the keys; of gate and up also silu(gate) is kept,
    and of every adapted module its input after dropout or, where some share that, a product of its size; and the masks.
    """
    geometry = size.geometry
    normed = (size.positions * (3 * geometry.width + 2 * size.queries + size.keys) + size.conditions * size.keys)
    keys = 2 * size.keys * ((size.positions + size.sliding_keys) / 2 + size.conditions)
    mask = size.padded * size.groups * size.span / 2 if size.span == 3 * WINDOW else 0
    plain = size.positions * (4 * size.queries + 3 * geometry.mlp) + keys + mask
    masks = sum(_distinct_inputs(size, modules).values()) if batch.dropout else 0
    adapted = (sum(map(size.input, modules)) + masks) / geometry.layers
    return _FP32 * normed + batch.bytes * (plain + adapted)
