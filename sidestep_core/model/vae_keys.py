"""Names of the Oobleck VAE's weights: diffusers', in official folders, and those of ComfyUI's file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

_RESIDUAL = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}
_ENCODER_BLOCK = {"res_unit1": 0, "res_unit2": 1, "res_unit3": 2, "snake1": 3, "conv1": 4}
_DECODER_BLOCK = {"snake1": 0, "conv_t1": 1, "res_unit1": 2, "res_unit2": 3, "res_unit3": 4}
_OUTER = {"conv1": 0, "snake1": 6, "conv2": 7}


def is_diffusers(names: Iterable[str]) -> bool:
    """Return True for names of diffusers."""
    return any(name.startswith("decoder.block.") for name in names)


def from_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to ComfyUI's names; its snake parameters have no singleton dimensions."""
    return {stable_audio_name(name): tensor.flatten() if name.endswith((".alpha", ".beta")) else tensor
            for name, tensor in state.items()}


def stable_audio_name(name: str) -> str:
    """Translate a name of diffusers to that of stable-audio-tools, which ComfyUI's file has."""
    half, rest = name.split(".", 1)
    block = re.fullmatch(r"block\.(\d+)\.(\w+)\.(.+)", rest)
    if block is None:
        part, leaf = rest.split(".", 1)
        return f"{half}.layers.{_OUTER[part]}.{leaf}"
    index, part, leaf = int(block[1]) + 1, block[2], block[3]
    layer = (_ENCODER_BLOCK if half == "encoder" else _DECODER_BLOCK)[part]
    if part.startswith("res_unit"):
        inner, leaf = leaf.split(".", 1)
        leaf = f"layers.{_RESIDUAL[inner]}.{leaf}"
    return f"{half}.layers.{index}.layers.{layer}.{leaf}"
