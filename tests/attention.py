"""Attention by its definition, in float64, and inputs for it."""

from __future__ import annotations

import torch
from torch import Tensor

from sidestep_core import rng

HEADS, KV_HEADS, HEAD_WIDTH = 4, 2, 16


def queries_keys_values(length: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Draw queries, keys and values of twice the usual size, so that attention is selective."""
    random = rng.generator("attention", length)
    shapes = ((batch, length, heads, HEAD_WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
    query, key, value = (2 * torch.randn(shape, generator=random) for shape in shapes)
    return query, key, value


def by_definition(query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
    """Compute softmax(q k / sqrt(E)) v in float64; every key head is repeated for its query heads."""
    groups = query.shape[2] // key.shape[2]
    q, k, v = (x.double().transpose(1, 2) for x in (query, key, value))
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q @ k.mT / query.shape[3]**0.5
    if window is not None:
        position = torch.arange(q.shape[2])
        scores = scores.masked_fill((position[:, None] - position).abs() > window, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)
