"""A LoRA as PEFT and diffusers read it: its strength is in settings, not in `.alpha` tensors.

PEFT, and ACE-Step's own program through it, opens a folder with adapter_config.json and adapter_model.safetensors.
diffusers reads the same settings from the header of the file, under its own names for the projections.  The other
kinds have no exact form there: PEFT's DoRA is by rows, and its LoKR and LoHA have other scales.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .keys import diffusers_name

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
HEADER_KEY = "lora_adapter_metadata"
"""Key of a safetensors header that diffusers reads."""

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|alpha)")


def settings(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """PEFT's settings of a LoRA, from names, ranks and alphas of its tensors; None for every other kind."""
    found = [_LORA.fullmatch(name) for name in state]
    if not state or not all(found):
        return None
    modules = list(dict.fromkeys(match["module"] for match in found if match))
    ranks = {module: len(state[f"base_model.model.{module}.lora_A.weight"]) for module in modules}
    alphas = {module: float(state[f"base_model.model.{module}.alpha"]) for module in modules}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA", "task_type": None, "inference_mode": True, "base_model_name_or_path": None,
        "bias": "none", "lora_dropout": 0.0, "r": int(rank), "lora_alpha": _plain(alpha), "target_modules": modules,
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: _plain(own) for module, own in alphas.items() if own != alpha},
    }  # fmt: skip


def header(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Metadata by which strength 1.0 in diffusers is the trained one; empty for kinds that it cannot read."""
    peft = settings(state)
    if peft is None or not any(module.endswith(("q_proj", "k_proj")) for module in peft["target_modules"]):
        # Diffusers recognises the official names by those two projections alone.
        return {}
    values: dict[str, Any] = {key: peft[key] for key in ("r", "lora_alpha")}
    values["target_modules"] = [diffusers_name(module) for module in peft["target_modules"]]
    for pattern in ("rank_pattern", "alpha_pattern"):
        values[pattern] = {diffusers_name(module): value for module, value in peft[pattern].items()}
    return {HEADER_KEY: json.dumps({f"transformer.{key}": value for key, value in values.items()})}


def without_alphas(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that PEFT has names for; diffusers' pipelines refuse a file with any other."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(".alpha")}


def _plain(value: float) -> int | float:
    return int(value) if value.is_integer() else value
