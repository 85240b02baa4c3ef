"""Estimate of a training's device memory before it starts, and the number of layers to recompute.

Memory that a layer keeps for its backward pass follows from its sizes (see `layer_bytes`); a margin covers the rest,
such as the workspace of kernels.  Shapes: see decoder.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..adapters.config import MLP_PROJECTIONS
from ..device import free_memory
from ..model.decoder import Decoder, DecoderGeometry
from ..model.layers import DENSE_BELOW, WINDOW
from .config import ResolvedConfig
from .data import Sample
from .optim.optimizers import STATE_BYTES

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
    mask_bytes: int
    """Bytes per number of dropout's mask."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of device memory that a training needs, by purpose."""

    weights: int
    """Weights of the frozen decoder."""
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

    @property
    def activations(self) -> int:
        """Peak of the activations: those kept at the end of the forward pass, and one more layer for its gradients or
        its recomputation."""
        kept = (self.layers - self.recomputed) * self.layer + self.recomputed * self.layer_input
        return kept + (2 if self.recomputed else 1) * self.layer

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.trained + self.activations

    def __str__(self) -> str:
        adapter = self.adapter + self.trained
        return (f"about {self.total / GIB:.1f} GiB (decoder {self.weights / GIB:.1f}, adapter and optimizer "
                f"{adapter / GIB:.1f}, activations {self.activations / GIB:.1f}, recomputing {self.recomputed} of "
                f"{self.layers} layers)")


def plan(decoder: Decoder, parameters: Sequence[nn.Parameter], modules: Iterable[str], dropout: float,
         samples: Sequence[Sample], config: ResolvedConfig) -> Need:
    """Estimate the memory, and choose the number of recomputed layers by the setting or the free memory.

    Call it with decoder and adapter on their device, before anything else of the training is there.
    """
    geometry = decoder.geometry
    adapter = sum(parameter.numel() for parameter in parameters)
    trained = {id(parameter) for parameter in parameters}
    frozen = [parameter for parameter in decoder.parameters() if id(parameter) not in trained]
    device = frozen[0].device
    batch = largest_batch(samples, config, frozen[0].element_size(), mask_bytes(dropout, device))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in frozen)
    need = need_of(geometry, weights, adapter, modules, batch, config)
    free = free_memory(device)
    if config.gradient_checkpointing == "auto" and free is not None:
        need = fit(need, free)
    log.info("Training needs %s; %s.", need, "free is unknown" if free is None else f"{free / GIB:.1f} GiB are free")
    return need


def mask_bytes(dropout: float, device: torch.device) -> int:
    """Bytes per number of dropout's mask."""
    return 0 if dropout == 0 else 1 if device.type in ("cuda", "xpu") else _FP32


def need_of(geometry: DecoderGeometry, weights: int, parameters: int, modules: Iterable[str], batch: Batch,
            config: ResolvedConfig) -> Need:
    """Estimate the memory beside decoder weights of so many bytes and an adapter of so many parameters; with every
    layer recomputed, unless gradient_checkpointing is off.
    """
    return Need(
        weights=weights,
        adapter=parameters * _FP32,
        trained=round(parameters * (_FP32 + STATE_BYTES[config.optimizer] + (_FP32 if config.ema_decay else 0))),
        layer=layer_bytes(geometry, modules, batch),
        layer_input=batch.samples * math.ceil(batch.frames / geometry.patch) * geometry.width * batch.bytes,
        layers=geometry.layers,
        recomputed=0 if config.gradient_checkpointing == "off" else geometry.layers,
    )


def fit(need: Need, free: int) -> Need:
    """Recompute the fewest layers that make the training fit into the free memory; all of them if none does."""
    for recomputed in range(need.layers):
        tried = replace(need, recomputed=recomputed)
        if tried.trained + tried.activations <= USABLE * free:
            return tried
    return replace(need, recomputed=need.layers)


def largest_batch(samples: Sequence[Sample], config: ResolvedConfig, number_bytes: int, mask_bytes: int) -> Batch:
    """Return a full batch of the longest crop with the longest condition."""
    frames = max(sample.latents_TC.shape[0] for sample in samples)
    return Batch(samples=config.batch_size, frames=min(frames, config.chunk_frames or frames),
                 tokens=max(sample.condition_SD.shape[0] for sample in samples), bytes=number_bytes,
                 mask_bytes=mask_bytes)


def layer_bytes(geometry: DecoderGeometry, modules: Iterable[str], batch: Batch) -> int:
    """Bytes that one layer keeps for its backward pass, averaged over the layers.

    Always in float32: the inputs of its norms, which are 3 widths per position, the queries of both attentions, and
    the keys.  In the decoder's dtype: of each attention queries and outputs (of self-attention keys and
    values too, in a sliding layer three times, and the mask), and of the MLP gate, its activation and up.  An adapted
    module keeps its input, and the mask of its dropout.
    """
    positions = batch.samples * math.ceil(batch.frames / geometry.patch)
    conditions = batch.samples * batch.tokens
    heads, kv_heads = geometry.heads * geometry.head_width, geometry.kv_heads * geometry.head_width
    normed = positions * (3 * geometry.width + 2 * heads + kv_heads) + conditions * kv_heads
    keys: float = 2 * kv_heads
    if positions // batch.samples > DENSE_BELOW:
        # Every other layer slides.
        keys = (keys + 3 * keys + geometry.heads // geometry.kv_heads * 3 * WINDOW) / 2
    plain = positions * (4 * heads + keys + 3 * geometry.mlp) + conditions * 2 * kv_heads
    adapted = sum(_input_numbers(geometry, module, positions, conditions) for module in modules) / geometry.layers
    return round(_FP32 * normed + batch.bytes * plain + (batch.bytes + batch.mask_bytes) * adapted)


def _input_numbers(geometry: DecoderGeometry, module: str, positions: int, conditions: int) -> int:
    """Size of the input of a module such as `layers.0.cross_attn.k_proj`."""
    projection = module.rpartition(".")[2]
    if projection in MLP_PROJECTIONS:
        return positions * (geometry.mlp if projection == "down_proj" else geometry.width)
    if projection == "o_proj":
        return positions * geometry.heads * geometry.head_width
    of_condition = "cross_attn" in module and projection in ("k_proj", "v_proj")
    return (conditions if of_condition else positions) * geometry.width
