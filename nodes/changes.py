"""Adapters in ComfyUI's own pipeline of weight changes: through its loader, DoRA as it was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import comfy.lora
import torch
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ..sidestep_core import layouts
from ..sidestep_core.factors import Piece, decomposed
from ..sidestep_core.merge import Bake


class Dora(WeightAdapterBase):
    """A change of the host, followed by what DoRA does to the length of each row or column of the changed weight.

    The host's own DoRA divides rows by the length of the unchanged ones, which no trainer does, and reckons in the
    precision of the model.  `weights` is (magnitude, the host's adapter without it), in the form that the host copies.
    """

    name = "side_step_dora"

    def __init__(self, loaded_keys: set[str], weights: tuple[Tensor, object]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    def calculate_weight(self, weight: Tensor, key: str, strength: float, strength_model: float, offset: object,
                         function: Callable[[Tensor], Tensor], intermediate_dtype: torch.dtype = torch.float32,
                         original_weight: object = None) -> Tensor:
        """The weight, changed in place by `strength` times what DoRA adds to it."""
        magnitude, inner = self.weights
        base = weight.float()
        delta = inner.calculate_weight(torch.zeros_like(base), key, 1.0, 1.0, None, lambda change: change)
        added = decomposed(base, delta, magnitude.to(weight.device, torch.float32))
        weight += function((strength * added).to(weight.dtype))
        return weight


def of(pieces: Mapping[str, Piece]) -> dict[str, object]:
    """What the host's own loader makes of an adapter: model key -> change; DoRA as it was trained."""
    key_map = {f"{layouts.HOST_PREFIX}{module}": f"{layouts.HOST_PREFIX}{module}.weight" for module in pieces}
    found = comfy.lora.load_lora(layouts.host_tensors(pieces), key_map)
    for module, piece in pieces.items():
        key = f"{layouts.HOST_PREFIX}{module}.weight"
        if piece.magnitude is not None:
            found[key] = Dora(found[key].loaded_keys, (piece.magnitude, found[key]))
    return found


def bake(adapters: Sequence[tuple[Path, float]], alpha: float, shape_of: layouts.ShapeOf) -> tuple[Bake, str]:
    """(what the host makes of the weights with a row of adapters on them, what of the files was not used).

    Adapters are (file, strength); `alpha` counts for files that do not say theirs.
    """
    contents = [layouts.read(path, alpha) for path, _ in adapters]
    layouts.require_use(alpha, contents)
    rows: dict[str, list[tuple[float, object, float, None, None]]] = {}
    unused = []
    for content, (path, strength) in zip(contents, adapters, strict=True):
        matched = content.matched(shape_of)
        unused += [f"{path.name}: {left_out}"] if (left_out := content.left_out(matched)) else []
        for key, change in of(matched).items() if strength != 0 else ():
            row = rows.setdefault(key.removeprefix(layouts.HOST_PREFIX), [])
            row.insert(0 if isinstance(change, Dora) else len(row), (strength, change, 1.0, None, None))

    def baked(parameter: str, weight: Tensor) -> Tensor:
        return comfy.lora.calculate_weight(rows[parameter], weight.clone(), parameter)

    return Bake(parameters=frozenset(rows), apply=baked), "; ".join(unused)
