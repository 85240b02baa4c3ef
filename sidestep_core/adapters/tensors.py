"""Tensors and metadata of an adapter file in any format, opened so that nothing in it can run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import AdapterError
from ..io import torch_pickle
from ..io.tensors import BadTensorFile, TensorFile, read_metadata, read_tensors
from .keys import ONLY_THE_HOSTS, is_part

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
"""Suffixes of files that are opened with weights_only."""

Shapes = Mapping[str, tuple[int, ...]]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a file.  AdapterError when it is damaged: every tensor that may be used must be
    finite."""
    if _is_safetensors(path):
        try:
            tensors, metadata = read_tensors(path), read_metadata(path)
        except BadTensorFile as error:
            raise AdapterError(f"{path.name} is damaged or not a safetensors file ({error}).") from error
    else:
        tensors, metadata = _read_pickle(path)
    for key, tensor in tensors.items():
        # An alpha may be a whole number; as a factor, whole numbers would be something quantised.
        number = tensor.is_floating_point() or tensor.numel() == 1
        used = is_part(key) or key.startswith(ONLY_THE_HOSTS)
        if used and not (number and tensor.numel() and torch.isfinite(tensor.float()).all()):
            one = f" {tensor.item()}" if tensor.numel() == 1 else ""
            raise AdapterError(f"{path.name} is damaged: {key} ({tensor.dtype}, {tuple(tensor.shape)}{one}) holds "
                               "something else than finite numbers. Take an earlier save of the training.")
    return tensors, metadata


def read_shapes(path: Path) -> tuple[Shapes, dict[str, str]]:
    """Read shapes by name, and the metadata; of a safetensors file only the header is read.

    AdapterError as `read`.
    """
    if not _is_safetensors(path):
        tensors, metadata = _read_pickle(path)
        return {key: tuple(tensor.shape) for key, tensor in tensors.items()}, metadata
    try:
        file = TensorFile(path)
    except BadTensorFile as error:
        raise AdapterError(f"{path.name} is damaged or not a safetensors file ({error}).") from error
    return {key: stored.shape for key, stored in file.stored.items()}, file.metadata


def _is_safetensors(path: Path) -> bool:
    """True for a safetensors file, False for a pickle.  AdapterError for any other."""
    if not path.is_file():
        raise AdapterError(f"There is no adapter file {path}. Choose one from the list, or train one.")
    if path.suffix.lower() not in SAFETENSORS + PICKLES:
        raise AdapterError(f"{path.name} is not an adapter file: those end in {', '.join(SAFETENSORS + PICKLES)}.")
    return path.suffix.lower() in SAFETENSORS


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of the outermost dictionary that has any, and the plain values around them."""
    try:
        found = torch_pickle.read(path, mapped=False)
    except torch_pickle.BadTorchFile as error:
        raise AdapterError(f"{path.name} {error}. Convert it to safetensors first.") from error
    size = path.stat().st_size
    metadata: dict[str, str] = {}
    levels, seen = deque([found]), set()
    while levels:
        level = levels.popleft()
        # A dictionary may hold itself.
        if not isinstance(level, Mapping) or id(level) in seen:
            continue
        seen.add(id(level))
        metadata |= {str(key): str(value) for key, value in level.items() if isinstance(value, (int, float, str))}
        tensors = {str(key): value for key, value in level.items() if isinstance(value, Tensor)}
        if any(is_part(key) for key in tensors):
            if odd := [key for key, tensor in tensors.items() if not torch_pickle.is_plain(tensor, size)]:
                raise AdapterError(f"{path.name} is damaged: {odd[0]} is no plain tensor, or claims to be larger than "
                                   "the file.")
            return {key: tensor.detach() for key, tensor in tensors.items()}, metadata
        levels.extend(level.values())
    raise AdapterError(f"{path.name} holds no adapter.")
