"""Kinds of adapter that only the host computes: their names, and their tensors as the host reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from ..errors import AdapterError

_NAMES = {
    "lora_E": "AdaLoRA", "lora_diag": "KaSA", "oft_blocks": "OFT or BOFT", "oft_R": "OFT of PEFT",
    "boft_": "BOFT of PEFT",
    "a1": "GLoRA", "a2": "GLoRA", "b1": "GLoRA", "b2": "GLoRA", "bm": "GLoRA", "glora_": "GLoRA of PEFT",
    "pvera_lambda": "PVeRA", "vera_lambda": "VeRA", "hra_": "HRA", "ia3_": "IA3", "fourierft_": "FourierFT",
    "vblora_": "VB-LoRA", "unilora_": "UniLoRA", "randlora_": "RandLoRA", "road_": "RoAd", "shira_": "SHiRA",
    "c3a_": "C3A", "miss_": "MiSS", "bone_": "Bone", "delora_": "DeLoRA", "gralora_": "GraLoRA", "hira_": "HiRA",
    "waveft_": "WaveFT", "psoft_": "PSOFT", "osf_": "OSF", "poly_": "Poly", "xlora_": "X-LoRA", "tinylora_": "TinyLoRA",
    "lily_": "Lily", "frod_": "FRoD", "deft_": "DEFT", "adamss_": "AdaMSS", "beft_": "BEFT", "peanut_": "PEANuT",
    "weight": "LyCORIS's IA3", "on_input": "LyCORIS's IA3", "ln_tuning_": "LN tuning",
}  # fmt: skip


def name(endings: Iterable[str]) -> str:
    """Name of the kind with such endings, with the ending that identifies it; the endings alone for unknown kinds."""
    endings = sorted(endings)
    for start, kind in _NAMES.items():
        found = [ending for ending in endings
                if ending.startswith(start if start.endswith("_") else (f"{start}.", f"{start}_"))
                or ending == start]
        if found:
            return f"{kind} ({found[0]})"
    return ", ".join(endings)


def require_strengths(tensors: Mapping[str, Tensor]) -> None:
    """AdapterError, naming the tensor, for an alpha that is not one number, or 0 where it is a strength."""
    for key in tensors:
        if not key.endswith("alpha"):
            continue
        bound = f"{key.removesuffix('alpha')}oft_blocks" in tensors
        if tensors[key].numel() != 1 or (float(tensors[key]) == 0 and not bound):
            raise AdapterError(f"{key} is {tensors[key].tolist()}, and must be one number other than 0. Get the file "
                               "again.")


def for_host(parts: Mapping[str, Tensor], *, made_for_host: bool) -> dict[str, Tensor]:
    """Convert the tensors of one module to the host's meaning.

    In OFT and BOFT alpha bounds the rotation: LyCORIS multiplies it by the outputs, the host does not.
    """
    blocks, alpha = parts.get("oft_blocks"), parts.get("alpha")
    if blocks is None or alpha is None or made_for_host or blocks.dim() < 3:
        return dict(parts)
    return {**parts, "alpha": alpha.double() * (blocks.shape[-3] * blocks.shape[-2])}
