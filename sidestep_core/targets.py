"""Which modules of the decoder an adapter is put on."""

from __future__ import annotations

from .config import PROJECTIONS, LoraConfig

_ATTENTIONS = {"both": ("self_attn", "cross_attn"), "self": ("self_attn",), "cross": ("cross_attn",)}


def target_modules(config: LoraConfig, layers: int) -> tuple[str, ...]:
    """Full module names in decoder order, such as `layers.0.self_attn.q_proj`: 192 on 2B, 256 on XL by default."""
    return tuple(
        f"layers.{layer}.{attention}.{projection}"
        for layer in range(layers)
        for attention in _ATTENTIONS[config.attention]
        for projection in PROJECTIONS
        if projection in config.projections
    )
