"""Transformer blocks of the decoder and the encoders: attention with rotary position embedding, and an MLP.

Parameter names are the official ones (ace-step/ACE-Step-1.5), so weights load and adapters save without renaming.
Shapes: B batch, L position, D width, H query heads, K key-value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from .attention import Mask, attend
from .fused import fused
from .weights import Weights

EPS = 1e-6
ROTARY_BASE = 1_000_000.0


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Sizes of one attention: `width` in and out, query heads, key-value heads, and the width of a head."""

    width: int
    heads: int
    kv_heads: int
    head_width: int

    @classmethod
    def from_weights(cls, weights: Weights) -> AttentionShape:
        """Read the sizes of the first layer's self-attention, which every other attention shares."""
        head_width = weights.shape("layers.0.self_attn.q_norm.weight")[0]
        queries, width = weights.shape("layers.0.self_attn.q_proj.weight")
        keys = weights.shape("layers.0.self_attn.k_proj.weight")[0]
        return cls(width=width, heads=queries // head_width, kv_heads=keys // head_width, head_width=head_width)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if _is_composed(x, self.weight):
            return _normalized(x, self.weight, None)
        return F.rms_norm(x, self.weight.shape, self.weight, EPS)

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Normalise, multiply by 1 + scale, and add shift."""
        if _is_composed(x, self.weight, shift, scale):
            return _normalized(x, self.weight * (1 + scale), shift)
        return torch.addcmul(shift, self(x), 1 + scale)

    def forked(self, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x for the residual stream, and x normalised, and modulated if shift and scale are given.

        Their gradients are then summed while the norm's own is written.
        """
        if shift is None or scale is None:
            return _forked(x, self.weight, None) if _is_composed(x, self.weight) else (x, self(x))
        if _is_composed(x, self.weight, shift, scale):
            return _forked(x, self.weight * (1 + scale), shift)
        return x, self.modulated(x, shift, scale)


def residual(x: Tensor, out: Tensor, gate: Tensor | None = None) -> Tensor:
    """Compute x + out * gate; overwrites `out`, the fresh output of a linear layer, where that saves a tensor."""
    if _is_composed(x, *(() if gate is None else (gate,))) and out.dtype == x.dtype:
        return (out if gate is None else out.mul_(gate)).add_(x)
    return x + out if gate is None else torch.addcmul(x, out, gate)


def _is_composed(x: Tensor, *frozen: Tensor) -> bool:
    """Return True where torch has no kernel of its own for the norm: a dozen operations, and twice that backward; a
    compiler fuses them.
    """
    if torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and not any(each.requires_grad for each in frozen)


def _normalized(x: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
    return _forked(x, weight, shift)[1]


def _forked(x: Tensor, weight: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    both: tuple[Tensor, Tensor] = _Norm.apply(x, weight, shift)  # type: ignore[no-untyped-call]  # torch's annotation
    return both


class _Norm(torch.autograd.Function):
    """x, and x / rms(x) * weight + shift of frozen weights, in few passes over the memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean_square.add_(EPS).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normal = x * inverse
        return x, normal.mul_(weight) if shift is None else torch.addcmul(shift, normal, weight, out=normal)

    @staticmethod
    def backward(ctx: Any, direct: Tensor | None, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        if gradient is None:
            return direct, None, None
        x, weight, inverse = ctx.saved_tensors
        weighted = gradient * weight
        along = weighted * x
        share = along.sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(-x.shape[-1])
        of_x = torch.mul(x, share, out=along) if direct is None else torch.addcmul(direct, x, share, out=along)
        return of_x.addcmul_(weighted, inverse), None, None


@dataclass(frozen=True)
class RotaryEmbedding:
    """Cosine and sine [L, E / 2] of the rotary position embedding."""

    cos: Tensor
    sin: Tensor

    @staticmethod
    def of(length: int, head_width: int, like: Tensor) -> RotaryEmbedding:
        """Compute positions 0..length-1 in float32, rounded once to the dtype of `like`."""
        steps = torch.arange(0, head_width, 2, dtype=torch.float32, device=like.device)
        frequencies = 1.0 / ROTARY_BASE ** (steps / head_width)
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=like.device), frequencies)
        return RotaryEmbedding(angles.cos().to(like.dtype), angles.sin().to(like.dtype))

    def apply(self, x_BLHE: Tensor) -> Tensor:
        """Rotate the halves of each head by the angle of its position."""
        return fused(_Rotation, _rotated_plainly, x_BLHE, self.cos[:, None], self.sin[:, None])


class _Rotation(torch.autograd.Function):
    """Rotation by an angle; its gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty_like(x)
    first, second = x.chunk(2, dim=-1)
    for half, own, other, sign in zip(out.chunk(2, dim=-1), (first, second), (second, first), (-1, 1), strict=True):
        torch.mul(own, cos, out=half).addcmul_(other, sin, value=sign)
    return out


def _rotated_plainly(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


Project = Callable[[Tensor, Sequence[nn.Module]], tuple[Tensor, ...]]
"""Computes projections of one input."""


def separately(x: Tensor, projections: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Compute each projection by itself."""
    return tuple(each(x) for each in projections)


def project_together(model: nn.Module, project: Project) -> None:
    """Let every attention and MLP of a model compute projections of one input by `project`."""
    for module in model.modules():
        if isinstance(module, (Attention, MLP)):
            module.project = project


class Attention(nn.Module):
    """Self-attention, or cross-attention with a source."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.heads * shape.head_width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_width, shape.width, bias=False)
        self.q_norm = RMSNorm(shape.head_width)
        self.k_norm = RMSNorm(shape.head_width)
        self.project: Project = separately

    def forward(self, x_BLD: Tensor, *, source_BLD: Tensor | None = None, rotation: RotaryEmbedding | None = None,
                mask: Mask | None = None) -> Tensor:
        if source_BLD is None:
            projected = self.project(x_BLD, (self.q_proj, self.k_proj, self.v_proj))
        else:
            projected = *self.project(x_BLD, (self.q_proj,)), *self.project(source_BLD, (self.k_proj, self.v_proj))
        q_BLHE, k_BLKE, v_BLKE = (each.unflatten(-1, (-1, self.head_width)) for each in projected)
        q_BLHE, k_BLKE = self.q_norm(q_BLHE), self.k_norm(k_BLKE)
        if rotation is not None:
            q_BLHE, k_BLKE = rotation.apply(q_BLHE), rotation.apply(k_BLKE)
        out: Tensor = self.o_proj(attend(q_BLHE, k_BLKE, v_BLKE, mask).flatten(-2))
        return out


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up, which keeps its two inputs for the backward pass; on the CPU also silu(gate), for speed."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        activated = F.silu(gate)
        keeps = gate.device.type == "cpu"
        ctx.save_for_backward(gate, up, activated if keeps else None)
        return activated * up if keeps else activated.mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up, activated = ctx.saved_tensors
        of_gate = gradient * up
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, F.silu(gate).mul_(gradient) if activated is None else activated * gradient


def _swiglu_plainly(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.project: Project = separately

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.project(x, (self.gate_proj, self.up_proj))
        hidden = fused(SwiGLU, _swiglu_plainly, gate, up)
        out: Tensor = self.down_proj(hidden)
        return out


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, shape: AttentionShape, mlp: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width)
        self.mlp = MLP(shape.width, mlp)

    def forward(self, x: Tensor, rotation: RotaryEmbedding, mask: Mask | None = None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation=rotation, mask=mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def load_frozen(module: nn.Module, weights: Weights, dtype: torch.dtype, device: torch.device) -> None:
    """Load frozen weights into a module built on the meta device, by parameter name.

    CheckpointError if a weight is missing or of another shape.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if name not in weights.names:
            raise CheckpointError(f"{weights.label} has no weight {name!r}; it is incomplete or not ACE-Step 1.5.")
        if weights.shape(name) != tuple(parameter.shape):
            raise CheckpointError(f"{name} of {weights.label} has shape {weights.shape(name)}, "
                                  f"but its other weights need {tuple(parameter.shape)}. The file is inconsistent.")
        state[name] = weights.tensor(name, dtype, device)
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
