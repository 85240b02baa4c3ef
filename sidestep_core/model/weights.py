"""Weights of one component from any safetensors file in use: found by name, dequantised when read.

Plain float formats, fp8 and int8 as ComfyUI stores them (four layouts of the scale), single files and shards.  Values
are exactly those that ComfyUI computes with at the same precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..io import strict_json
from ..io.record import Record
from ..io.tensors import BadTensorFile, TensorFile
from .packed import PackedWeight

MAX_SETTINGS = 10_000
"""Bytes of the settings of one quantised layer."""
FLOATS = ("BF16", "F16", "F32", "F64")
FP8 = ("F8_E4M3", "F8_E5M2")
READABLE_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
QUANTISATION_SUFFIXES = (
    ".comfy_quant", ".weight_scale", ".weight_scale_2", ".input_scale", ".pre_quant_scale",
    ".scale_weight", ".scale_input", "scaled_fp8",
)  # fmt: skip
"""Suffixes of tensors that belong to a quantised weight, and are not weights."""


@dataclass(frozen=True)
class StoredWeight:
    """Location of a weight: file, full name in it, and quantisation format of its layer ("" for none)."""

    file: TensorFile
    name: str
    format: str

    @property
    def dtype(self) -> str:
        return self.file.stored[self.name].dtype

    def scale(self) -> Tensor | None:
        """Read the scale of a quantised weight, a scalar or [outputs, 1]."""
        layer = self.name.removesuffix(".weight")
        for name in (f"{layer}.weight_scale", f"{layer}.scale_weight"):
            if name in self.file.stored:
                return self.file.tensor(name)
        return None


class Weights:
    """Read-only view of one component: names without prefix -> tensors."""

    def __init__(self, stored: Mapping[str, StoredWeight], label: str) -> None:
        self.label = label
        """Name of the file in error messages."""
        self.names = frozenset(stored)
        self._stored = stored

    @classmethod
    def open(cls, paths: Sequence[Path], prefix: str = "") -> Weights:
        """Open the weights whose names begin with `prefix`, in one file or in shards.

        Reads headers only.  CheckpointError if a file is missing, damaged or not safetensors, or quantised in an
        unsupported format.
        """
        label = paths[0].name if len(paths) == 1 else paths[0].parent.name
        stored: dict[str, StoredWeight] = {}
        for path in paths:
            part = _stored_weights(open_file(path), prefix)
            twice = sorted(part.keys() & stored.keys())
            if twice:
                raise CheckpointError(f"{label}: {path.name} repeats {twice[0]!r} of another shard. Download it again.")
            stored |= part
        return cls(stored, label)

    def under(self, prefix: str) -> Weights:
        """Return the weights whose names begin with `prefix`, named without it."""
        part = {name.removeprefix(prefix): one for name, one in self._stored.items() if name.startswith(prefix)}
        return Weights(part, self.label)

    def shape(self, name: str) -> tuple[int, ...]:
        stored = self._find(name)
        return stored.file.stored[stored.name].shape

    def depth(self) -> int:
        """Return the number of layers, from the numbers in `layers.N.`."""
        return 1 + max(int(name.split(".")[1]) for name in self.names if name.startswith("layers."))

    def stored_dtype(self, name: str) -> str:
        """Return the dtype in the file, as safetensors spells it."""
        return self._find(name).dtype

    def tensor(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Load the weight, dequantised, as a plain tensor of this dtype on this device.

        If the file holds that dtype and the device is the CPU, it stays memory-mapped and shared: copy it before
        writing into it.
        """
        stored = self._find(name)
        # A host may run in inference mode, whose tensors autograd refuses to save.
        with torch.inference_mode(False):
            return _packed(stored).unpack(dtype).to(device)

    def packed(self, name: str) -> PackedWeight:
        """Return the weight as the file holds it, on the CPU, memory-mapped."""
        return _packed(self._find(name))

    def is_quantised(self, name: str) -> bool:
        """Return True for fp8 and int8."""
        return self.stored_dtype(name) not in FLOATS

    def stored_bytes(self, name: str) -> int:
        """Bytes in the file, without scales."""
        stored = self._find(name)
        return stored.file.stored[stored.name].size

    def middle_bytes(self, name: str, count: int) -> bytes:
        """Read up to `count` of the stored bytes from the weight's middle."""
        stored = self._find(name)
        return stored.file.middle(stored.name, count)

    def _find(self, name: str) -> StoredWeight:
        if name not in self._stored:
            raise CheckpointError(f"{self.label} has no weight {name!r}; it is incomplete or not ACE-Step 1.5.")
        return self._stored[name]


def open_file(path: Path) -> TensorFile:
    """Open a safetensors file; CheckpointError names the kind of a wrong one."""
    try:
        return TensorFile(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist. Was it moved or renamed?") from error
    except BadTensorFile as error:
        raise CheckpointError(f"{path.name} {_describe(path)}") from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """List the safetensors files of a model folder in the Hugging Face layout: shards by their index, else one file."""
    for stem in ("model", "diffusion_pytorch_model"):
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _shards(index)
        single = folder / f"{stem}.safetensors"
        if single.is_file():
            return (single,)
    raise CheckpointError(f"The folder {folder} holds no model.safetensors. Choose the folder of a downloaded model.")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        shards = _Index.from_json(strict_json.read(index), index.name, allow_unknown=True)
    except strict_json.BadJson as error:
        raise CheckpointError(f"{index.name} is not an index of shards: {error} Download it again.") from error
    names = sorted(set(shards.weight_map.values()))
    missing = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing)}. Download the missing shards.")
    return tuple(index.parent / name for name in names)


def _stored_weights(file: TensorFile, prefix: str) -> dict[str, StoredWeight]:
    """Locate every weight under the prefix; CheckpointError for an unsupported quantisation."""
    declared = _declared_formats(file)
    weights: dict[str, StoredWeight] = {}
    for name in file.stored:
        if not name.startswith(prefix) or name.endswith(QUANTISATION_SUFFIXES):
            continue
        layer = name.removesuffix(".weight")
        own = f"{layer}.comfy_quant"
        settings = _parse_settings(file, own) if own in file.stored and layer != name else {}
        settings = settings or declared.get(layer) or declared.get(layer.removeprefix(prefix)) or {}
        stored = StoredWeight(file, name, _format(settings))
        _require_readable(stored)
        weights[name.removeprefix(prefix)] = stored
    return weights


@dataclass(frozen=True)
class _Quantisation(Record):
    """Metadata of a quantised file."""

    layers: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Index(Record):
    """Index of a model in shards."""

    weight_map: dict[str, str]


def _declared_formats(file: TensorFile) -> dict[str, dict[str, Any]]:
    """Read quantisation settings by layer from the file's metadata."""
    text = file.metadata.get("_quantization_metadata")
    if text is None:
        return {}
    try:
        return _Quantisation.from_json(strict_json.loads(text, "it"), "it", allow_unknown=True).layers
    except strict_json.BadJson as error:
        message = f"{file.path.name} has damaged quantisation metadata: {error} Download it again."
        raise CheckpointError(message) from error


def _parse_settings(file: TensorFile, name: str) -> dict[str, Any]:
    try:
        if file.stored[name].size > MAX_SETTINGS:
            raise strict_json.BadJson(f"it has {file.stored[name].size} bytes.")
        content = strict_json.loads(b"".join(file.chunks(name, MAX_SETTINGS)), "it")
        return strict_json.as_object(content, "it")
    except strict_json.BadJson as error:
        raise CheckpointError(f"{file.path.name} has a damaged {name!r}: {error} Download it again.") from error


def _format(settings: Mapping[str, Any]) -> str:
    """Return the format's name, with "convrot" if a rotation was folded into the weight."""
    name = str(settings.get("format", ""))
    params = settings.get("params")
    rotated = settings.get("convrot") or (isinstance(params, dict) and params.get("convrot"))
    return f"{name} with convrot" if rotated and "convrot" not in name else name


def _require_readable(stored: StoredWeight) -> None:
    if stored.dtype == "I8":
        readable = stored.format == "int8_tensorwise"
    else:
        readable = stored.dtype in FLOATS + FP8 and stored.format in ("", *READABLE_FORMATS)
    if not readable and stored.name.endswith("weight"):
        raise CheckpointError(
            f"{stored.file.path.name} is quantised as {stored.format or _guess(stored)}, which cannot be trained on. "
            "Choose the bf16 or fp8 version of the same model."
        )


def _guess(stored: StoredWeight) -> str:
    if any("bitsandbytes" in name for name in stored.file.stored):
        return "bitsandbytes 4-bit"
    return f"an unknown format ({stored.dtype})"


def _packed(stored: StoredWeight) -> PackedWeight:
    tensor, scale = stored.file.tensor(stored.name), stored.scale()
    if scale is None and stored.format:
        raise CheckpointError(f"{stored.file.path.name} lacks the scale of {stored.name!r}. Download it again.")
    return PackedWeight(tensor, scale, tensor.shape)


def _describe(path: Path) -> str:
    """Describe a file that is not readable as safetensors, as the end of a sentence."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[:4] == b"GGUF":
        return "is a GGUF file, whose quantisation cannot be trained on. Choose the .safetensors version of the model."
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        return "is a PyTorch pickle, which may run code. Choose the .safetensors version of the model."
    if start[8:9] == b"{":
        return "is damaged or was cut off. Download it again."
    return "is not a safetensors file. Choose a model file that ends in .safetensors."
