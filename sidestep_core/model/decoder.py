"""ACE-Step 1.5 diffusion transformer, trainable, with its official parameter names.

Predicts the velocity of noisy latents, given a condition (lyrics, timbre, caption) and context latents.  Matches the
implementations of ComfyUI and diffusers; sliding layers use exact block-local attention, timesteps stay float32.
Shapes: B batch, T latent frame, C channel, L patch (two frames), S condition token, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Kernel, Mask, masks
from .layers import MLP, Attention, AttentionShape, RMSNorm, RotaryEmbedding, load_frozen, residual
from .weights import Weights

if TYPE_CHECKING:
    from .holding import Holding

TIME_FEATURES = 256
TIME_SCALE = 1000.0


@dataclass(frozen=True, kw_only=True)
class DecoderGeometry:
    """Sizes of the decoder, read from its weights (2B: 24 x 2048; XL: 32 x 2560)."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp: int
    condition_width: int
    in_channels: int
    out_channels: int
    patch: int

    @classmethod
    def from_weights(cls, weights: Weights) -> DecoderGeometry:
        """Read the sizes from the shapes of the decoder's weights (names without `decoder.`)."""
        attention = AttentionShape.from_weights(weights)
        width, in_channels, patch = weights.shape("proj_in.1.weight")
        return cls(
            width=width,
            layers=weights.depth(),
            heads=attention.heads,
            kv_heads=attention.kv_heads,
            head_width=attention.head_width,
            mlp=weights.shape("layers.0.mlp.gate_proj.weight")[0],
            condition_width=weights.shape("condition_embedder.weight")[1],
            in_channels=in_channels,
            out_channels=weights.shape("proj_out.1.weight")[1],
            patch=patch,
        )

    @property
    def attention(self) -> AttentionShape:
        return AttentionShape(width=self.width, heads=self.heads, kv_heads=self.kv_heads, head_width=self.head_width)


class TimeEmbedding(nn.Module):
    """Sinusoidal features of a time in [0, 1] -> (embedding [B, D], modulation [B, 6, D])."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_FEATURES, width)
        self.linear_2 = nn.Linear(width, width)
        self.time_proj = nn.Linear(width, 6 * width)

    def forward(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        half = TIME_FEATURES // 2
        # Float32 up to here: 1000 t in bfloat16 has steps of four.
        steps = torch.arange(half, dtype=torch.float32, device=t_B.device)
        angles = TIME_SCALE * t_B.float()[:, None] * torch.exp(-math.log(10_000) * steps / half)
        features = torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.linear_1.weight.dtype)
        embedding_BD = self.linear_2(F.silu(self.linear_1(features)))
        return embedding_BD, self.time_proj(F.silu(embedding_BD)).unflatten(-1, (6, -1))


class DecoderLayer(nn.Module):
    """Self-attention (sliding window on even layers), cross-attention to the condition, MLP; modulated by time."""

    def __init__(self, geometry: DecoderGeometry) -> None:
        super().__init__()
        self.self_attn_norm = RMSNorm(geometry.width)
        self.self_attn = Attention(geometry.attention)
        self.cross_attn_norm = RMSNorm(geometry.width)
        self.cross_attn = Attention(geometry.attention)
        self.mlp_norm = RMSNorm(geometry.width)
        self.mlp = MLP(geometry.width, geometry.mlp)
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 6, geometry.width))

    def forward(self, x_BLD: Tensor, time_B6D: Tensor, condition_BSD: Tensor, rotation: RotaryEmbedding,
                mask: Mask | None, cross_mask: Mask | None) -> Tensor:
        modulation = (self.scale_shift_table + time_B6D).chunk(6, dim=1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        x_BLD, normed = self.self_attn_norm.forked(x_BLD, shift, scale)
        x_BLD = residual(x_BLD, self.self_attn(normed, rotation=rotation, mask=mask), gate)
        x_BLD, normed = self.cross_attn_norm.forked(x_BLD)
        x_BLD = residual(x_BLD, self.cross_attn(normed, source_BLD=condition_BSD, mask=cross_mask))
        x_BLD, normed = self.mlp_norm.forked(x_BLD, mlp_shift, mlp_scale)
        return residual(x_BLD, self.mlp(normed), mlp_gate)


class Decoder(nn.Module):
    """velocity = decoder(x_t, t, condition, context)."""

    def __init__(self, geometry: DecoderGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.recomputed_layers = 0
        self.attention: Kernel = "sdpa"
        self.holding: Holding | None = None
        """Form of the layers' weights; None where all are plain."""
        self.compiled: Callable[..., Tensor] | None = None
        """DecoderLayer.forward as a compiler makes it, for passes with gradients; see compilation.py."""
        patch = geometry.patch
        self.proj_in = nn.Sequential(
            nn.Identity(), nn.Conv1d(geometry.in_channels, geometry.width, patch, stride=patch)
        )
        self.time_embed = TimeEmbedding(geometry.width)
        self.time_embed_r = TimeEmbedding(geometry.width)
        self.condition_embedder = nn.Linear(geometry.condition_width, geometry.width)
        self.layers = nn.ModuleList(DecoderLayer(geometry) for _ in range(geometry.layers))
        self.norm_out = RMSNorm(geometry.width)
        self.proj_out = nn.Sequential(
            nn.Identity(), nn.ConvTranspose1d(geometry.width, geometry.out_channels, patch, stride=patch)
        )
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 2, geometry.width))

    def forward(self, x_BTC: Tensor, t_B: Tensor, condition_BSD: Tensor, context_BTC: Tensor,
                tokens: Sequence[int] | None = None) -> Tensor:
        """Predict the velocity [B, T, 64] of noisy latents [B, T, 64] at times [B].

        `condition_BSD` is unpadded (the decoder attends to every token); conditions of different lengths, `tokens` of
        each sample, are concatenated to [1, N, D].  `context_BTC` is [B, T, 128].
        """
        frames = x_BTC.shape[1]
        x_BLD = self._patchify(torch.cat((context_BTC, x_BTC), dim=-1))
        time_BD, time_B6D = self._embed_time(t_B)
        condition_BSD = self.condition_embedder(condition_BSD)
        length = x_BLD.shape[1]
        rotation = RotaryEmbedding.of(length, self.geometry.head_width, x_BLD)
        compiled = self.compiled if torch.is_grad_enabled() else None
        seen = masks(x_BLD, condition_BSD, tokens, self.attention, compiled=compiled is not None)
        for index, layer in enumerate(self.layers):
            mask = seen.sliding if index % 2 == 0 else seen.full
            inputs = (x_BLD, time_B6D, condition_BSD, rotation, mask, seen.cross)
            compute = layer if compiled is None else partial(compiled, layer)
            if self._recomputes(index) and torch.is_grad_enabled():
                x_BLD = checkpoint(compute, *inputs, use_reentrant=False)
            else:
                x_BLD = compute(*inputs)
        shift, scale = (self.scale_shift_table + time_BD[:, None]).chunk(2, dim=1)
        x_BLD = self.norm_out.modulated(x_BLD, shift, scale)
        velocity_BCT: Tensor = self.proj_out(x_BLD.transpose(1, 2))
        return velocity_BCT.transpose(1, 2)[:, :frames]

    def _recomputes(self, index: int) -> bool:
        """Return True for `recomputed_layers` of the layers, evenly spread; the backward pass recomputes them."""
        return is_chosen(index, self.recomputed_layers, self.geometry.layers)

    def _patchify(self, x_BTC: Tensor) -> Tensor:
        odd = -x_BTC.shape[1] % self.geometry.patch
        x_BDL: Tensor = self.proj_in(F.pad(x_BTC, (0, 0, 0, odd)).transpose(1, 2))
        # Every later sum keeps the layout of its first term.
        return x_BDL.transpose(1, 2).contiguous()

    def _embed_time(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """Sum time and interval embedding; the model was trained, and is sampled, with r = t, an interval of zero."""
        time_BD, time_B6D = self.time_embed(t_B)
        interval_BD, interval_B6D = self.time_embed_r(torch.zeros_like(t_B))
        return time_BD + interval_BD, time_B6D + interval_B6D


def is_chosen(index: int, share: int, layers: int) -> bool:
    """Return True for `share` of the layers, evenly spread."""
    return (index + 1) * share // layers > index * share // layers


def load_decoder(weights: Weights, dtype: torch.dtype, device: torch.device) -> Decoder:
    """Load the frozen decoder of a checkpoint (names without `decoder.`), memory-mapped, to dtype and device."""
    with torch.device("meta"):
        decoder = Decoder(DecoderGeometry.from_weights(weights))
    load_frozen(decoder, weights, dtype, device)
    return decoder.eval()
