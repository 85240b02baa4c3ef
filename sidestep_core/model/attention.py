"""Attention of the decoder and the encoders, by the best kernel that the device has.

A kernel is chosen once (`choose`), and proves itself against the dense form before it is used.  On CUDA flash attention
has the sliding window and batches of different numbers of tokens built in, torch's own or that of the package
flash-attn; elsewhere torch's scaled_dot_product_attention computes the same, sliding windows in exact blocks.
Shapes: B batch, L position, N tokens of all samples, H query heads, K key-value heads, E head width.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import optional, rng
from ..errors import ConfigError, SideStepError
from .fused import fused

log = logging.getLogger(__name__)

WINDOW = 128
"""Reach of sliding-window attention in positions, both ways, inclusive."""
DENSE_BELOW = 3 * WINDOW
"""Length up to which one masked attention is cheaper than blocks."""

Kernel = Literal["varlen", "flash_attn", "sdpa"]
"""torch's flash attention for packed sequences, that of the package flash-attn, or scaled_dot_product_attention."""
Choice = Literal["auto", "varlen", "flash_attn", "sdpa"]
"""Setting `attention`: auto takes the first of them that runs."""
FLASH: tuple[Kernel, ...] = ("varlen", "flash_attn")
"""Kernels for half precision on CUDA, the preferred first."""
PARITY = 2e-2
"""Largest deviation of a kernel from the dense form in half precision, relative to the largest value."""


@dataclass(frozen=True)
class BlockMask:
    """Mask of sliding-window attention as exact block-local attention: 128 queries attend to the 384 keys around them.

    `mask` is additive, [blocks, 128, 384].
    """

    mask: Tensor


@dataclass(frozen=True)
class Ragged:
    """Numbers of tokens of the samples, whose keys are concatenated to [1, N, K, E]."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Queries and keys of a batch as sequences end to end, for a flash kernel."""

    kernel: Kernel
    query_ends: Tensor
    """Zero, then the end of each sample's queries, int32 [B + 1]."""
    key_ends: Tensor
    longest_query: int
    longest_key: int
    reach: int = -1
    """Reach of the window in positions; -1 is unlimited."""


Mask = Tensor | BlockMask | Ragged | Packed
"""Attention mask: additive [L, L] or [B, 1, 1, N], in blocks, or left to the kernel."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Masks of a decoder's three attentions; None attends to everything."""

    sliding: Mask | None
    full: Mask | None
    cross: Mask | None


def masks(x_BLD: Tensor, condition_BSD: Tensor, tokens: Sequence[int] | None, kernel: Kernel, *,
          compiled: bool = False) -> Masks:
    """Build the masks for an input and a condition; `tokens` of each sample where conditions are concatenated.

    For a compiled layer their numbers are in a tensor: it would be compiled again for each tuple of them.
    """
    batch, length, _ = x_BLD.shape
    if kernel == "sdpa":
        cross: Mask | None = None
        if tokens and len(tokens) > 1:
            cross = own_tokens(tokens, x_BLD) if compiled else Ragged(tuple(tokens))
        return Masks(sliding=sliding_window(length, x_BLD), full=None, cross=cross)
    tokens = tokens or [condition_BSD.shape[1]] * batch
    positions, conditions = _ends([length] * batch, x_BLD.device), _ends(tokens, x_BLD.device)
    full = Packed(kernel=kernel, query_ends=positions, key_ends=positions, longest_query=length, longest_key=length)
    return Masks(sliding=replace(full, reach=WINDOW), full=full,
                 cross=replace(full, key_ends=conditions, longest_key=max(tokens)))


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    # Not blocking, because a copy that the caller waits for would wait for all of the device's work.
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)


def sliding_window(length: int, like: Tensor) -> Tensor | BlockMask:
    """Build the mask of positions at most 128 apart; in blocks if that is cheaper."""
    if length <= DENSE_BELOW:
        position = torch.arange(length, device=like.device)
        return additive_mask((position[:, None] - position[None, :]).abs() <= WINDOW, like)
    blocks = -(-length // WINDOW)
    query = torch.arange(blocks * WINDOW, device=like.device).view(blocks, WINDOW, 1)
    first_key = torch.arange(blocks, device=like.device).view(blocks, 1, 1) * WINDOW - WINDOW
    key = first_key + torch.arange(3 * WINDOW, device=like.device)
    return BlockMask(additive_mask(((query - key).abs() <= WINDOW) & (key >= 0) & (key < length), like))


def own_tokens(tokens: Sequence[int], like: Tensor) -> Tensor:
    """Build the mask [B, 1, 1, N] of each sample's own tokens among those of all."""
    samples = torch.arange(len(tokens))
    owner_N = samples.repeat_interleave(torch.tensor(tokens), output_size=sum(tokens))
    visible = (owner_N == samples[:, None])[:, None, None]
    return additive_mask(visible.to(like.device, non_blocking=True), like)


def additive_mask(visible: Tensor, like: Tensor) -> Tensor:
    """Build a mask of 0 at visible positions and minus infinity elsewhere, in the dtype of `like`."""
    return torch.zeros(visible.shape, dtype=like.dtype, device=like.device).masked_fill_(~visible, float("-inf"))


def attend(q_BLHE: Tensor, k_BLKE: Tensor, v_BLKE: Tensor, mask: Mask | None = None) -> Tensor:
    """Compute grouped-query attention, [B, L, H, E].

    Query heads that share a key head are concatenated to one longer query: no key is copied, and full layers need
    neither a mask nor grouped-query support of the kernel.
    """
    if isinstance(mask, Packed):
        return _attend_packed(q_BLHE, k_BLKE, v_BLKE, mask)
    if isinstance(mask, Ragged):
        return _attend_each(q_BLHE, k_BLKE, v_BLKE, mask)
    if isinstance(mask, BlockMask):
        return _attend_in_blocks(q_BLHE, k_BLKE, v_BLKE, mask)
    batch, length, heads, width = q_BLHE.shape
    kv_heads = k_BLKE.shape[2]
    groups = heads // kv_heads
    q = q_BLHE.reshape(batch, length, kv_heads, groups, width).permute(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, groups * length, width)
    if mask is not None and mask.dim() == 2:
        mask = mask.repeat(groups, 1)
    k, v = (each.transpose(1, 2).expand(batch, -1, -1, -1) for each in (k_BLKE, v_BLKE))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.view(batch, kv_heads, groups, length, width).permute(0, 3, 1, 2, 4).reshape(q_BLHE.shape)


def _attend_each(q_BLHE: Tensor, k_1NKE: Tensor, v_1NKE: Tensor, ragged: Ragged) -> Tensor:
    """Attend sample by sample, each to its own tokens: nothing is padded.  Samples of equally many go together."""
    tokens = list(ragged.tokens)
    if len(set(tokens)) == 1:
        shape = len(tokens), tokens[0], *k_1NKE.shape[2:]
        return attend(q_BLHE, k_1NKE.view(shape), v_1NKE.view(shape))
    samples = zip(q_BLHE.split(1), k_1NKE.split(tokens, dim=1), v_1NKE.split(tokens, dim=1), strict=True)
    return torch.cat([attend(*sample) for sample in samples])


def _attend_packed(q_BLHE: Tensor, k_BLKE: Tensor, v_BLKE: Tensor, packed: Packed) -> Tensor:
    q, k, v = (x.to(v_BLKE.dtype).flatten(0, 1) for x in (q_BLHE, k_BLKE, v_BLKE))
    ends = packed.query_ends, packed.key_ends, packed.longest_query, packed.longest_key
    window = packed.reach, packed.reach
    if packed.kernel == "varlen":
        from torch.nn.attention.varlen import varlen_attn

        return cast("Tensor", varlen_attn(q, k, v, *ends, window_size=window)).view(q_BLHE.shape)
    from flash_attn import flash_attn_varlen_func

    return cast("Tensor", flash_attn_varlen_func(q, k, v, *ends, window_size=window)).view(q_BLHE.shape)


def _attend_in_blocks(q_BLHE: Tensor, k_BLKE: Tensor, v_BLKE: Tensor, window: BlockMask) -> Tensor:
    batch, length, heads, width = q_BLHE.shape
    kv_heads = k_BLKE.shape[2]
    groups = heads // kv_heads
    blocks = window.mask.shape[0]
    padding = blocks * WINDOW - length

    q = F.pad(q_BLHE, (0, 0, 0, 0, 0, padding)).view(batch * blocks, WINDOW, kv_heads, groups, width)
    q = q.permute(0, 2, 3, 1, 4).reshape(batch * blocks, kv_heads, groups * WINDOW, width)

    def around(x_BLKE: Tensor) -> Tensor:
        padded = F.pad(x_BLKE, (0, 0, 0, 0, WINDOW, WINDOW + padding))
        windows = fused(_Windows, _windows_plainly, padded)
        return windows.permute(0, 1, 3, 2, 4).reshape(batch * blocks, kv_heads, 3 * WINDOW, width)

    mask = window.mask.repeat(batch, groups, 1)[:, None]
    out = F.scaled_dot_product_attention(q, around(k_BLKE), around(v_BLKE), attn_mask=mask)
    out = out.view(batch, blocks, kv_heads, groups, WINDOW, width).permute(0, 1, 4, 2, 3, 5)
    return out.reshape(batch, blocks * WINDOW, heads, width)[:, :length]


class _Windows(torch.autograd.Function):
    """Overlapping windows [B, blocks, 384, K, E] of padded keys; torch's own gradient goes element by element."""

    @staticmethod
    def forward(ctx: Any, padded_BLKE: Tensor) -> Tensor:
        return padded_BLKE.unfold(1, 3 * WINDOW, WINDOW).permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        batch, blocks, _, *heads = gradient.shape
        total = gradient.new_zeros(batch, blocks + 2, WINDOW, *heads)
        for number, part in enumerate(gradient.split(WINDOW, dim=2)):
            total[:, number:number + blocks] += part
        return total.flatten(1, 2)


def _windows_plainly(padded_BLKE: Tensor) -> Tensor:
    blocks = padded_BLKE.unflatten(1, (-1, WINDOW))
    return torch.cat((blocks[:, :-2], blocks[:, 1:-1], blocks[:, 2:]), dim=2)


def choose(choice: Choice, device: torch.device, dtype: torch.dtype) -> Kernel:
    """Return the chosen kernel, or for "auto" the first that runs on this device in this dtype.

    ConfigError if the chosen one does not run.
    """
    reasons = []
    for kernel in FLASH if choice == "auto" else (choice,):
        reason = "" if kernel == "sdpa" else trouble(kernel, device, dtype)
        if not reason:
            log.info("Attention by %s on %s.", kernel, device)
            return kernel
        reasons.append(f"{kernel}: {reason}")
    if choice != "auto":
        raise ConfigError(f"attention {'; '.join(reasons)}. Use auto.")
    log.info("Attention by sdpa on %s (%s).", device, "; ".join(reasons))
    return "sdpa"


def trouble(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> str:
    """Return the reason why a flash kernel cannot be used here, proven against the dense form; empty if it can."""
    if device.type != "cuda":
        return f"needs a CUDA device, not {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"needs bf16 or fp16, not {str(dtype).removeprefix('torch.')}"
    try:
        _require(kernel)
        worst = deviation(kernel, device, dtype)
    except (SideStepError, RuntimeError) as error:
        return str(error).partition("\n")[0]
    return "" if worst <= PARITY else f"deviates by {worst:.2g} from plain attention"


def _require(kernel: Kernel) -> None:
    """Import the kernel.  MissingDependency if it is not there, ConfigError if it has no windows."""
    if kernel == "flash_attn":
        with optional.imports("flash_attn", "This attention"):
            from flash_attn import flash_attn_varlen_func  # noqa: F401
        return
    with optional.imports("torch", "This attention"):
        from torch.nn.attention.varlen import varlen_attn
    if "window_size" not in inspect.signature(varlen_attn).parameters:
        raise ConfigError(f"torch {torch.__version__} has it without windows; 2.11 or newer is needed")


def deviation(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> float:
    """Largest deviation of output and gradients from the dense form, relative to the largest value of each.

    Two samples with 300 positions, a sliding window and conditions of different lengths; two query heads per key head.
    """
    random = rng.generator("attention")
    x_BLD = torch.empty(2, 300, 1, dtype=dtype, device=device)
    tokens = (7, 40)
    wanted, found = (masks(x_BLD, x_BLD, tokens, each) for each in ("sdpa", kernel))

    def draw(batch: int, length: int, heads: int) -> Tensor:
        return torch.randn(batch, length, heads, 64, generator=random).to(device, dtype).requires_grad_()

    deviations = []
    for keys, each, dense in ((300, found.sliding, wanted.sliding), (300, found.full, wanted.full),
                              (sum(tokens), found.cross, wanted.cross)):
        batch = 1 if isinstance(dense, Ragged) else 2
        inputs = draw(2, 300, 4), draw(batch, keys, 2), draw(batch, keys, 2)
        upstream = draw(2, 300, 4).detach()
        ours, theirs = (attend(*inputs, mask) for mask in (each, dense))
        pairs = [(ours, theirs), *zip(torch.autograd.grad(ours, inputs, upstream),
                                      torch.autograd.grad(theirs, inputs, upstream), strict=True)]
        deviations += [(a.float() - b.float()).abs().max() / b.float().abs().max() for a, b in pairs]
    # The largest of a tensor is nan if one is, and then no bound holds.
    return float(torch.stack(deviations).detach().max())
