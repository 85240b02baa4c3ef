"""Adapters in ComfyUI's own pipeline of weight changes: through its loader, DoRA as it was trained.

The host logs what it could not change and goes on.  Every change is therefore tried on an empty weight first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import comfy.utils
import torch
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ...sidestep_core.adapters import formats
from ...sidestep_core.adapters.delta import ModuleDelta, decomposed
from ...sidestep_core.adapters.merge import Patch
from ...sidestep_core.errors import AdapterError
from . import log

MODEL_PREFIX = "diffusion_model."
"""Prefix of the official names in the host."""

ShapeOf = Callable[[str], Sequence[int] | None]
"""A parameter of the model, by its whole name -> its shape."""


class ChangeOfWeight(WeightAdapterBase):
    """Base of changes that are computed from the original weight: it is changed by `strength` times `delta`.

    `weights` is (a tensor of the file, the host's change), in the form that the host copies.
    """

    def __init__(self, loaded_keys: set[str], weights: tuple[Tensor | None, object]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    def delta(self, base: Tensor, key: str) -> Tensor:
        """Change at strength 1 of the weight `base`, float32."""
        raise NotImplementedError

    def calculate_weight(self, weight: Tensor, key: str, strength: float, strength_model: float, offset: object,
                         function: Callable[[Tensor], Tensor], intermediate_dtype: torch.dtype = torch.float32,
                         original_weight: object = None) -> Tensor:
        """Change the weight in place, and return it."""
        weight += function((strength * self.delta(weight.float(), key)).to(weight.dtype))
        return weight


class Dora(ChangeOfWeight):
    """Change of the host, followed by what DoRA does to the length of each row or column of the changed weight.

    The host's own DoRA divides rows by the length of the unchanged ones, which no trainer does, and computes in the
    precision of the model.  `weights` is (magnitude, the host's change without it).
    """

    name = "side_step_dora"

    def delta(self, base: Tensor, key: str) -> Tensor:
        magnitude, inner = self.weights
        inner_delta = comfy.lora.calculate_weight([(1.0, inner, 1.0, None, None)], torch.zeros_like(base), key)
        return decomposed(base, inner_delta, magnitude.to(base.device, torch.float32))


class OfTheWeight(ChangeOfWeight):
    """Change of the host that depends on the weight it is made for (OFT, BOFT, GLoRA), times the strength.

    The host's own rotations take the strength twice, so that half is a quarter and -1 is 1; and OFT leaves out its
    `rescale`.  `weights` is (rescale or None, the host's adapter without it).
    """

    name = "side_step_of_the_weight"

    def delta(self, base: Tensor, key: str) -> Tensor:
        rescale, inner = self.weights
        changed = inner.calculate_weight(base.clone(), key, 1.0, 1.0, None, lambda change: change)
        if rescale is not None:
            changed = rescale.to(base).reshape(-1, *(1,) * (base.dim() - 1)) * changed
        return changed - base


@dataclass(frozen=True)
class HostPatches:
    """Patches of the host for one adapter on one model."""

    by_key: Mapping[str, object]
    """The model's parameter -> change."""
    matched: int
    """Modules of the file, of `AdapterFile.total`."""
    left_out: str
    """Names of unused parts of the file, in words; "" for none."""


def of(content: formats.AdapterFile, shape_of: ShapeOf, key_map: Mapping[str, str]) -> HostPatches:
    """Load an adapter with the host's own loader; `key_map`: the host's names of parts outside the decoder.

    AdapterError when nothing is left, or something is of another width.
    """
    def in_decoder(parameter: str) -> Sequence[int] | None:
        return shape_of(formats.HOST_PREFIX + parameter)

    host_only = _of_whole_modules(_working(_host_only(content, in_decoder), shape_of))
    outside = _working(_outside(content.outside_decoder, key_map), shape_of)
    deltas = content.matched(in_decoder, alone=not (host_only or outside))
    own = _working(_of_deltas(deltas), shape_of)
    failed = {module for module in deltas if deltas[module].factors is not None
              and f"{formats.HOST_PREFIX}{module}.weight" not in own}
    own = {key: change for key, change in own.items() if _module(key).removesuffix(".bias") not in failed}
    deltas = {module: delta for module, delta in deltas.items() if module not in failed}
    if not (own or host_only or outside):
        raise AdapterError(f"ComfyUI could apply nothing of {content.path.name}. Update ComfyUI.")
    keys = _keys_of(content.outside_decoder, key_map, outside)
    modules = {formats.module_text(key) for key in keys} | {_module(key).removesuffix(".bias") for key in host_only}
    return HostPatches(own | host_only | outside, len(deltas) + len(modules),
                       content.left_out(deltas, keys | {_module(key) for key in host_only}))


def _of_whole_modules(found: Mapping[str, object]) -> dict[str, object]:
    """Without biases of modules whose weight is not changed: half a module is another sound."""
    return {key: change for key, change in found.items() if f"{key.rpartition('.')[0]}.weight" in found}


def _of_deltas(deltas: Mapping[str, ModuleDelta]) -> dict[str, object]:
    """DoRA as it was trained."""
    key_map = {f"{formats.HOST_PREFIX}{module}": f"{formats.HOST_PREFIX}{module}.weight" for module in deltas}
    found = comfy.lora.load_lora(formats.host_tensors(deltas), key_map)
    for module, delta in deltas.items():
        key = f"{formats.HOST_PREFIX}{module}.weight"
        if delta.magnitude is not None and key in found:
            found[key] = Dora(set(), (delta.magnitude, found[key]))
    return found


def _host_only(content: formats.AdapterFile, shape_of: ShapeOf) -> dict[str, object]:
    """Kinds that the core does not compute; only where the host takes every tensor of a module."""
    found: dict[str, object] = {}
    for module, parts in content.host_only.items():
        part, key = f"{formats.HOST_PREFIX}{module}", f"{formats.HOST_PREFIX}{module}.weight"
        if shape_of(f"{module}.weight") is None or "dora_scale" in parts:
            continue
        oft = "oft_blocks" in parts and parts["oft_blocks"].dim() == 3
        rescale = parts.get("rescale") if oft else None
        tensors = {f"{part}.{ending}": tensor.contiguous() for ending, tensor in parts.items()
                   if not (oft and ending == "rescale")}
        for changed, change in _load(tensors, {part: key}).items():
            found[changed] = OfTheWeight(change.loaded_keys, (rescale, change)) if isinstance(
                change, WeightAdapterBase) else change
    return found


def _outside(tensors: Mapping[str, Tensor], key_map: Mapping[str, str]) -> dict[str, object]:
    """Parts outside the decoder, such as the condition encoder, that ComfyUI's own trainer changes too."""
    found: dict[str, object] = {}
    for part in {_part_of(key, key_map) for key in tensors} - {""}:
        own = {key: tensor.contiguous() for key, tensor in tensors.items() if _part_of(key, key_map) == part}
        for key, change in _load(own, {part: key_map[part]}).items():
            found[key] = OfTheWeight(change.loaded_keys, (None, change)) if isinstance(
                change, WeightAdapterBase) else change
    return found


def _load(tensors: Mapping[str, Tensor], key_map: Mapping[str, str]) -> dict[str, object]:
    """Load the tensors of one module with the host; empty if it leaves out any of them, or knows less of it than
    this pack does (DoRA)."""
    if any(key.endswith("dora_scale") for key in tensors):
        return {}
    return log.answer(lambda: comfy.lora.load_lora(dict(tensors), dict(key_map))) or {}


def _part_of(key: str, key_map: Mapping[str, str]) -> str:
    """The longest beginning of a key that is the host's name of a part of the model; "" if there is none."""
    text = key.rpartition(".")[0]
    while text and text not in key_map:
        text = text.rpartition(".")[0]
    return text


def _keys_of(tensors: Mapping[str, Tensor], key_map: Mapping[str, str], found: Mapping[str, object]) -> set[str]:
    """The keys in the file of changes outside the decoder."""
    def changed(key: str) -> str:
        part = key_map.get(_part_of(key, key_map), "")
        return f"{part.removesuffix('.weight')}.bias" if key.endswith(formats.OF_A_BIAS) else part

    return {key for key in tensors if changed(key) in found}


def _module(key: str) -> str:
    return key.removeprefix(formats.HOST_PREFIX).removesuffix(".weight")


def _working(found: Mapping[str, object], shape_of: ShapeOf) -> dict[str, object]:
    """The changes that the host can really make; one of each form is tried, on a weight of zeros."""
    tried: dict[object, bool] = {}
    working = {}
    for key, change in found.items():
        shape = shape_of(key)
        if shape is None:
            continue
        form = (tuple(shape), _form(change))
        if form not in tried:
            tried[form] = log.answer(partial(_tried, change, tuple(shape), key)) is not None
        if tried[form]:
            working[key] = change
    return working


@torch.no_grad()
def _tried(change: object, shape: tuple[int, ...], key: str) -> Tensor:
    return comfy.lora.calculate_weight([(1.0, change, 1.0, None, None)], torch.zeros(shape), key)


def _form(change: object) -> object:
    """Key that is equal for changes computed alike."""
    if isinstance(change, Tensor):
        return tuple(change.shape), change.is_contiguous()
    if isinstance(change, WeightAdapterBase):
        return type(change).__name__, _form(change.weights)
    if isinstance(change, (tuple, list)):
        return tuple(_form(part) for part in change)
    return type(change).__name__


def combine(adapters: Sequence[tuple[Path, float]], alpha: float,
            shapes: Mapping[str, Sequence[int]]) -> tuple[Patch, list[str]]:
    """Return (patch of a model's weights by a row of adapters, notices about the files).

    Adapters are (file, strength); `alpha` counts for files that do not say theirs; `shapes` of all parameters of the
    model, by their official names.
    """
    key_map = _host_names(shapes)
    contents = [formats.read(path, alpha) for path, _ in adapters]
    formats.require_use(alpha, contents)
    rows: dict[str, list[tuple[float, object, float, None, None]]] = {}
    notices = []
    for content, (path, strength) in zip(contents, adapters, strict=True):
        made = of(content, lambda key: shapes.get(key.removeprefix(MODEL_PREFIX)), key_map)
        notices += [content.notice] if content.notice else []
        notices += [f"Not everything was merged: {made.matched} of {content.total} modules of {path.name}. "
                 f"{made.left_out}."] if made.left_out else []
        for key, change in made.by_key.items() if strength != 0 else ():
            row = rows.setdefault(key.removeprefix(MODEL_PREFIX), [])
            row.insert(0 if before_others(change) else len(row), (strength, change, 1.0, None, None))

    def patched(parameter: str, weight: Tensor) -> Tensor:
        return comfy.lora.calculate_weight(rows[parameter], weight.clone(), parameter)

    return Patch(parameters=frozenset(rows), apply=patched), notices


def _host_names(parameters: Iterable[str]) -> dict[str, str]:
    """The host's own names of the parts of a model, as its `model_lora_keys_unet` has them of a loaded one."""
    names = {}
    for parameter in parameters:
        key, stem = MODEL_PREFIX + parameter, parameter.removesuffix(".weight")
        names[MODEL_PREFIX + stem] = key
        if stem != parameter:
            names[f"lora_unet_{stem.replace('.', '_')}"] = key
    return names


def before_others(change: object) -> bool:
    """True for a change that is made for the original weight, and comes before all else on it."""
    return isinstance(change, ChangeOfWeight)
