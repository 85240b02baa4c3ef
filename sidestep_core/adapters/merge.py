"""Adapters merged into a copy of a checkpoint's model file, for programs that take no adapters, or for training on.

Whatever the adapters do not change is copied byte for byte.  Quantised models are written as bfloat16: their formats
cannot hold a changed weight without another loss.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import AdapterError, CheckpointError, ConfigError
from ..io import strict_json
from ..io.atomic import numbered, write_new
from ..io.record import parse
from ..io.tensors import StoredTensor, TensorFile
from ..model.checkpoint import Checkpoint, Variant, variants_in
from ..model.weights import FP8, QUANTISATION_SUFFIXES, Weights, open_file
from ..progress import Progress, Report, ignore
from . import formats
from .delta import ModuleDelta

METADATA_KEY = "sidestep_merged"
DECODER = "decoder."
BLOCK = 1 << 26
"""Bytes per copied block."""
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_QUANTISED = (*FP8, "I8")
_QUANTISATION_METADATA = "_quantization_metadata"


@dataclass(frozen=True)
class Patch:
    """Changed weights of a model."""

    parameters: frozenset[str]
    """Official names of the changed ones, such as `decoder.layers.0.self_attn.q_proj.weight`."""
    apply: Callable[[str, Tensor], Tensor]
    """(parameter, its float32 value) -> the changed one."""


@dataclass(frozen=True)
class _Plan:
    """Source of one tensor of the new file."""

    file: TensorFile
    stored: StoredTensor
    name: str
    dtype: str
    """Stored type in the new file."""
    changed: str
    """Official name of the parameter if adapters change it; else ""."""

    @property
    def size(self) -> int:
        if self.copied:
            return self.stored.size
        return torch.Size(self.stored.shape).numel() * _DTYPES[self.dtype].itemsize

    @property
    def copied(self) -> bool:
        return not self.changed and self.dtype == self.stored.dtype


def merge(checkpoint: Checkpoint, patch: Patch, target: Path, facts: Mapping[str, Any], *,
          report: Report = ignore) -> Path:
    """Write the checkpoint's model with the adapters in it as one file; whatever stops it leaves no file.

    `facts` are added to those of earlier merges in the metadata.  An official folder becomes one file as ComfyUI takes
    it, whose name must hold the variant, because no config.json does any more.
    """
    files = [open_file(path) for path in checkpoint.model]
    weights = checkpoint.model_weights()
    if not patch.parameters:
        raise AdapterError("The adapters change nothing: every strength is 0. Set a strength.")
    plans = _plans(files, checkpoint.model_prefix, weights, patch.parameters)
    _require_room(target, sum(plan.size for plan in plans))
    header = _header(plans, _metadata(files, checkpoint.model_prefix, facts, quantised=quantised(checkpoint)))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(header)
            for block in _blocks(plans, checkpoint.model_prefix, weights, patch, report):
                file.write(block)

    if not write_new(target, write):
        raise CheckpointError(f"Another program has written {target.name} first. Run again, under the next name.")
    return target


def combine(adapters: Sequence[tuple[Path, float]], alpha: float,
            shapes: Mapping[str, Sequence[int]]) -> tuple[Patch, list[str]]:
    """Return (patch of a model's weights, notices about the files).

    Adapters are (file, strength); `alpha` counts for files that do not state theirs; `shapes` of all parameters of the
    model, by their official names.  AdapterError if nothing of a file fits.  Each delta is that of the unchanged
    weight, so their order does not matter.
    """
    files = [formats.read(path, alpha) for path, _ in adapters]
    formats.require_use(alpha, files)
    weights: dict[str, list[tuple[float, ModuleDelta]]] = {}
    biases: dict[str, list[tuple[float, Tensor]]] = {}
    notices = []
    for file, (path, strength) in zip(files, adapters, strict=True):
        deltas = file.matched(lambda name: shapes.get(DECODER + name))
        notices += [file.notice] if file.notice else []
        if left_out := file.left_out(deltas):
            notices.append(f"Not everything was merged: {len(deltas)} of {file.total} modules of {path.name}. "
                           f"{left_out}.")
        for module, delta in deltas.items() if strength != 0 else ():
            if delta.factors is not None:
                weights.setdefault(f"{DECODER}{module}.weight", []).append((strength, delta))
            if delta.bias is not None:
                biases.setdefault(f"{DECODER}{module}.bias", []).append((strength, delta.bias))

    def patched(parameter: str, value: Tensor) -> Tensor:
        changed = value.clone()
        for strength, delta in weights.get(parameter, ()):
            changed += strength * delta.delta(value)
        for strength, bias in biases.get(parameter, ()):
            changed += strength * bias.to(value)
        return changed

    return Patch(parameters=frozenset(weights) | frozenset(biases), apply=patched), notices


def stem(name: str, variant: Variant) -> str:
    """File name of the merged model with its variant in it, which nothing else in the file has."""
    named = variants_in(name)
    if others := named - {variant}:
        raise ConfigError(f"The name {name!r} means {' and '.join(sorted(others))}, but the model is {variant}. "
                          "Choose a name that means no other variant.")
    return name if named else f"{name}_{variant}"


def free_path(checkpoint: Checkpoint, target: Path, facts: Mapping[str, Any]) -> tuple[Path, bool]:
    """Return (free path: name, name-2, name-3 ..., False), or (existing file of this very merge, True)."""
    wanted = [*merged_facts(checkpoint.model[0]), dict(facts)]
    path = next(path for path in numbered(target) if not path.exists() or _is_merge(path, wanted))
    return path, path.exists()


def _is_merge(path: Path, facts: Sequence[Any]) -> bool:
    """True for the model file of exactly these merges."""
    try:
        return path.is_file() and merged_facts(path) == facts
    except CheckpointError:
        return False  # another kind of file


def quantised(checkpoint: Checkpoint) -> bool:
    """True where the model's weights are stored in fewer bits than its merged copy would have."""
    weights = checkpoint.model_weights()
    return any(weights.stored_dtype(name) in _QUANTISED for name in weights.names)


def merged_facts(path: Path) -> list[Any]:
    """Facts of the merges into a model file, in order; empty for other files."""
    try:
        facts = strict_json.loads(open_file(path).metadata.get(METADATA_KEY, "[]"), METADATA_KEY)
        return list(parse(facts, list[Any], METADATA_KEY))
    except strict_json.BadJson as error:
        raise CheckpointError(f"{path.name} has damaged metadata ({error}). Choose another model.") from error


def _plans(files: list[TensorFile], prefix: str, weights: Weights, changed: frozenset[str]) -> list[_Plan]:
    """Plan every tensor of the new file, in the order of the old ones."""
    plans = []
    for file in files:
        for name, stored in file.stored.items():
            own = name.removeprefix(prefix) if name.startswith(prefix) else ""
            if own.endswith(QUANTISATION_SUFFIXES):
                continue
            dtype = "BF16" if own in weights.names and stored.dtype in _QUANTISED else stored.dtype
            plans.append(_Plan(file, stored, name, dtype, own if own in changed else ""))
    found = {plan.changed for plan in plans}
    if changed - found:
        raise AdapterError(f"The model has no {min(changed - found)}, which the adapters change.")
    return plans


def _header(plans: Iterable[_Plan], metadata: Mapping[str, str]) -> bytes:
    """Header of a safetensors file: the length of a table, and the table."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for plan in plans:
        start, end = end, end + plan.size
        table[plan.name] = {"dtype": plan.dtype, "shape": list(plan.stored.shape), "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _blocks(plans: list[_Plan], prefix: str, weights: Weights, patch: Patch, report: Report) -> Iterator[bytes]:
    """Bytes of the new file, in blocks."""
    total = sum(plan.size for plan in plans)
    done = 0
    for plan in plans:
        if plan.copied:
            parts = plan.file.chunks(plan.name, BLOCK)
        else:
            parts = iter([_computed(plan, prefix, weights, patch)])
        for part in parts:
            yield part
            done += len(part)
            report(Progress(stage="save", step=done >> 20, total=max(1, total >> 20), message=plan.name))


def _computed(plan: _Plan, prefix: str, weights: Weights, patch: Patch) -> bytes:
    weight = weights.tensor(plan.name.removeprefix(prefix), torch.float32, torch.device("cpu"))
    if plan.changed:
        weight = patch.apply(plan.changed, weight)
        if not torch.isfinite(weight).all():
            raise AdapterError(f"With the adapters {plan.changed} is not finite. Lower their strengths.")
    stored = weight.to(_DTYPES[plan.dtype]).contiguous()
    if not torch.isfinite(stored).all():
        raise AdapterError(f"With the adapters {plan.changed} is too large for {plan.dtype}. Lower their strengths.")
    content: bytes = stored.flatten().view(torch.uint8).numpy().tobytes()
    return content


def _metadata(files: list[TensorFile], prefix: str, facts: Mapping[str, Any], *, quantised: bool) -> dict[str, str]:
    """Metadata of the model's first file with this merge, without formats of layers no longer quantised."""
    metadata = dict(files[0].metadata)
    if quantised and _QUANTISATION_METADATA in metadata:
        values = strict_json.loads(metadata.pop(_QUANTISATION_METADATA), _QUANTISATION_METADATA)
        elsewhere = {layer: value for layer, value in values["layers"].items()
                     if f"{layer}.weight" in files[0].stored and not layer.startswith(prefix)}
        if elsewhere:
            metadata[_QUANTISATION_METADATA] = json.dumps({**values, "layers": elsewhere})
    return metadata | {METADATA_KEY: json.dumps([*merged_facts(files[0].path), dict(facts)])}


def _require_room(target: Path, size: int) -> None:
    folder = next(parent for parent in target.parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CheckpointError(f"The merged model needs {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free. "
                              "Free some space.")
