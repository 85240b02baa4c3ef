"""The names of tensors in adapter files, taken apart into module and part."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import AdapterError
from .module_names import official

ONLY_THE_HOSTS = ("diffusion_model.", "lora_unet_")
"""How the host's own names of all parts of a model begin."""

_KEY = re.compile(
    r"(?P<module>.+?)[._](?P<part>lora_A|lora_B|lora_down|lora_up|lora_mid|lora\.down|lora\.up"
    r"|lora_linear_layer\.down|lora_linear_layer\.up|lokr_w[12](?:_[ab])?|lokr_t2|hada_w[12]_[ab]|hada_t[12]"
    r"|lora_magnitude_vector|dora_scale|magnitude|alpha|scalar|diff|diff_b|w_norm|b_norm)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?P<leaf>\.weight|\.bias)?"
)
_PARTS = {
    "lora_A": "down", "lora_down": "down", "lora.down": "down", "lora_linear_layer.down": "down",
    "lora_B": "up", "lora_up": "up", "lora.up": "up", "lora_linear_layer.up": "up", "lora_mid": "mid",
    "lora_magnitude_vector": "row_magnitude", "dora_scale": "magnitude", "w_norm": "diff", "b_norm": "diff_b",
}  # fmt: skip


def is_part(key: str) -> bool:
    """Whether the tensor of this name is some part of an adapter."""
    return _KEY.fullmatch(key) is not None or _split(key) is not None


def sorted_by_module(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]], list[str]]:
    """Module -> part -> key; module -> ending -> key, where one of them is of a kind that is not known here; and the
    keys that are neither.  AdapterError when two keys mean the same."""
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
    # A strength of nothing else: what it is the strength of has another name than any known.
    foreign |= {module for module, parts in modules.items() if parts.keys() <= {"alpha", "scalar"}}
    return ({module: parts for module, parts in modules.items() if module not in foreign},
            {module: endings[module] for module in modules if module in foreign}, unknown)


def _split(key: str) -> tuple[str, str, str] | None:
    """(official module, its name in the key, part; "" if that is not known here); None where there is no module."""
    match = _KEY.fullmatch(key)
    module = official(match["module"]) if match else None
    if match is not None and module is not None:
        part = _PARTS.get(match["part"], match["part"])
        if match["leaf"] == ".bias":
            part = "diff_b" if part == "diff" else f"{part}.bias"
        return module, match["module"], part
    # Weights and biases as such are no change of anything.
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
    """The part of a key that names the module; all of it where that is not known."""
    match = _KEY.fullmatch(key)
    return match["module"] if match else key
