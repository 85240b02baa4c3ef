"""The decoder's modules by whatever name a program gives them: prefixes, dots or underscores, diffusers' own words."""

from __future__ import annotations

import re

_PREFIX = (r"(?:(?:base_model|model|diffusion_model|transformer|decoder|module|_orig_mod|unet|dit|lora_unet|"
           r"lora_transformer|lycoris)[._]+)*")
_LAYER = r"layers[._](?P<layer>\d{1,4})[._]"
_IN_ATTENTION = r"[qkvo]_proj|to_[qkv]|to_out(?:[._]0)?|[qk]_norm|norm_[qk]"
_NAMES = tuple(re.compile(_PREFIX + body) for body in (
    _LAYER + rf"(?P<attention>self_attn|cross_attn)[._](?P<part>{_IN_ATTENTION})",
    _LAYER + r"(?P<mlp>mlp)[._](?P<part>gate_proj|up_proj|down_proj)",
    _LAYER + r"(?P<part>self_attn_norm|cross_attn_norm|mlp_norm)",
    r"(?P<embedding>time_embed_r|time_embed)[._](?P<part>linear_1|linear_2|time_proj)",
    r"(?P<part>condition_embedder|norm_out)",
    r"(?P<part>proj_in|proj_out)(?:[._]1|_conv)",
))  # fmt: skip
_OFFICIAL = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "o_proj", "norm_q": "q_norm",
             "norm_k": "k_norm", "proj_in": "proj_in.1", "proj_out": "proj_out.1"}  # fmt: skip

_DIFFUSERS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0"}


def official(name: str) -> str | None:
    """Such as `layers.0.self_attn.q_proj`; None when it is no module of the decoder."""
    for pattern in _NAMES:
        match = pattern.fullmatch(name)
        if match is not None:
            found = match.groupdict()
            part = re.sub(r"[._]0$", "", found["part"])
            layer = f"layers.{int(found['layer'])}" if found.get("layer") else None
            owner = found.get("attention") or found.get("mlp") or found.get("embedding")
            return ".".join(piece for piece in (layer, owner, _OFFICIAL.get(part, part)) if piece)
    return None


def diffusers_name(module: str) -> str:
    """Such as `layers.0.self_attn.to_q`, of an official name of an attention or an MLP."""
    owner, _, part = module.rpartition(".")
    return f"{owner}.{_DIFFUSERS.get(part, part)}"
