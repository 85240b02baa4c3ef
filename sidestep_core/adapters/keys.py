"""Names in adapter files: of the decoder's modules in every spelling, and of the parts that a module's tensors are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from ..errors import AdapterError
from . import registry

ONLY_THE_HOSTS = ("diffusion_model.", "lora_unet_")
"""Beginnings of the host's own names of all parts of a model."""

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
    """Official name, such as `layers.0.self_attn.q_proj`; None where it is no module of the decoder."""
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
    """Diffusers' name, such as `layers.0.self_attn.to_q`, of an official one of an attention or an MLP."""
    owner, _, part = module.rpartition(".")
    return f"{owner}.{_DIFFUSERS.get(part, part)}"


def _key() -> re.Pattern[str]:
    return _pattern(tuple(registry.file_names()))


@lru_cache(maxsize=4)
def _pattern(parts: tuple[str, ...]) -> re.Pattern[str]:
    """Pattern of a tensor's name: module, part, and the name that PEFT gives the adapter within."""
    return re.compile(rf"(?P<module>.+?)[._](?P<part>{'|'.join(map(re.escape, parts))})"
                      r"(?:\.(?!weight$|bias$)[^.]+)?(?P<leaf>\.weight|\.bias)?")


def is_part(key: str) -> bool:
    """True for the name of a tensor that is part of an adapter."""
    return _key().fullmatch(key) is not None or _split(key) is not None


def sorted_by_module(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]], list[str]]:
    """Sort keys into (module -> part -> key, module -> ending -> key for modules of unknown kinds, unknown keys).

    AdapterError when two keys mean the same.
    """
    modules: dict[str, dict[str, str]] = {}
    endings: dict[str, dict[str, str]] = {}
    foreign, unknown = set(), []
    for key in names:
        found = _split(key)
        if found is None:
            unknown.append(key)
            continue
        module, text, part = found
        endings.setdefault(module, {})[key[len(text) + 1:]] = key
        if not part:
            foreign.add(module)
        other = modules.setdefault(module, {}).setdefault(part or key, key)
        if other != key:
            raise AdapterError(f"The file holds {module} twice, as {other} and as {key}. It mixes two adapters.")
    # A strength alone: its matrices have unknown names.
    foreign |= {module for module, parts in modules.items() if parts.keys() <= {"alpha", "scalar"}}
    return ({module: parts for module, parts in modules.items() if module not in foreign},
            {module: endings[module] for module in modules if module in foreign}, unknown)


def _split(key: str) -> tuple[str, str, str] | None:
    """Split a key into (official module, its name in the key, part or ""); None where there is no module."""
    match = _key().fullmatch(key)
    module = official(match["module"]) if match else None
    if match is not None and module is not None:
        part = registry.file_names()[match["part"]]
        if match["leaf"] == ".bias":
            part = "diff_b" if part == "diff" else f"{part}.bias"
        return module, match["module"], part
    # Plain weights and biases are no delta.
    text, _, ending = key.rpartition(".") if match is None else ("", "", "")
    while text:
        module = official(text)
        if module is not None and ending in ("weight", "bias"):
            return None
        if module is not None:
            return module, text, ""
        text, _, last = text.rpartition(".")
        ending = f"{last}.{ending}"
    return None


def module_text(key: str) -> str:
    """Part of a key that names the module; the whole key where that is unknown."""
    match = _key().fullmatch(key)
    return match["module"] if match else key
