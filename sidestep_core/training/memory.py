"""How much device memory a training needs, before it starts, and how many layers it therefore recomputes.

What a layer keeps for its backward pass follows from its sizes (see `layer_bytes`); what nothing tells beforehand,
such as how a kernel works inside, is covered by a margin.  Shapes: see decoder.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from ..adapters.config import MLP_PROJECTIONS
from ..device import free_memory
from ..model.decoder import Decoder, DecoderGeometry
from ..model.layers import DENSE_BELOW, WINDOW
from .config import ResolvedConfig
from .data import Sample
from .optimizers import STATE_BYTES

log = logging.getLogger(__name__)

GIB = 1 << 30
USABLE = 0.85
"""Share of the free memory that is planned with: the rest is lost between blocks, and taken by kernels."""
_FP32 = 4


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The largest batch of a training."""

    samples: int
    frames: int
    tokens: int
    """Of the condition."""
    bytes: int
    """Per number, in the decoder's dtype."""
    mask_bytes: int
    """Per number, of dropout's mask."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of device memory that a training needs, by what for."""

    weights: int
    """Of the frozen decoder."""
    adapter: int
    """Its parameters."""
    trained: int
    """Gradients, optimizer state and average of the adapter."""
    layer: int
    """What one layer keeps for its backward pass."""
    layer_input: int
    """What it keeps when it is recomputed."""
    layers: int
    recomputed: int
    """So many layers are recomputed."""

    @property
    def activations(self) -> int:
        """At the end of the forward pass, and once more a layer: its own gradients, or what it is recomputed into."""
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
    """What the training will need, with as many layers recomputed as the setting or the free memory asks for.

    To be called with decoder and adapter on their device, and nothing else of the training there yet.
    """
    geometry = decoder.geometry
    adapter = sum(parameter.numel() for parameter in parameters)
    trained = {id(parameter) for parameter in parameters}
    frozen = [parameter for parameter in decoder.parameters() if id(parameter) not in trained]
    device = frozen[0].device
    mask_bytes = 0 if dropout == 0 else 1 if device.type in ("cuda", "xpu") else _FP32
    batch = largest_batch(samples, config, frozen[0].element_size(), mask_bytes)
    need = Need(
        weights=sum(parameter.numel() * parameter.element_size() for parameter in frozen),
        adapter=adapter * _FP32,
        trained=round(adapter * (_FP32 + STATE_BYTES[config.optimizer] + (_FP32 if config.ema_decay else 0))),
        layer=layer_bytes(geometry, modules, batch),
        layer_input=batch.samples * math.ceil(batch.frames / geometry.patch) * geometry.width * batch.bytes,
        layers=geometry.layers,
        recomputed=0 if config.gradient_checkpointing == "off" else geometry.layers,
    )
    free = free_memory(device)
    if config.gradient_checkpointing == "auto" and free is not None:
        need = fit(need, free)
    log.info("Training needs %s; %s.", need, "free is unknown" if free is None else f"{free / GIB:.1f} GiB are free")
    return need


def fit(need: Need, free: int) -> Need:
    """The same with the fewest layers recomputed that leave it in the free memory; with all, if none does."""
    for recomputed in range(need.layers):
        tried = replace(need, recomputed=recomputed)
        if tried.trained + tried.activations <= USABLE * free:
            return tried
    return replace(need, recomputed=need.layers)


def largest_batch(samples: Sequence[Sample], config: ResolvedConfig, number_bytes: int, mask_bytes: int) -> Batch:
    """As if the longest song met the longest condition in a full batch."""
    frames = max(sample.latents_TC.shape[0] for sample in samples)
    return Batch(samples=config.batch_size, frames=min(frames, config.chunk_frames or frames),
                 tokens=max(sample.condition_SD.shape[0] for sample in samples), bytes=number_bytes,
                 mask_bytes=mask_bytes)


def layer_bytes(geometry: DecoderGeometry, modules: Iterable[str], batch: Batch) -> int:
    """What one layer keeps for its backward pass, the mean over the layers.

    Float32, whatever the decoder is in: what its norms take in, which are 3 widths per position, the queries of both
    attentions, and the keys.  In the decoder's dtype: of each attention queries and outputs (of self-attention keys and
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
