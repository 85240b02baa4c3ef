"""Files of torch.save, read without running code from them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SideStepError

PICKLE = b"\x80"
"""First byte of every pickle since Python 2.3, and so of torch's files without a zip archive."""


class BadTorchFile(SideStepError):
    """The file is not one of torch.save, was cut off, or holds more than tensors and plain values."""


def read(path: Path, *, mapped: bool = True) -> object:
    """Load tensors on the CPU, memory-mapped if the format allows and `mapped` is True, and plain values.

    Such files are pickles, which can run code when opened; torch's restricted unpickler accepts only tensors,
    containers, numbers and strings.  Raises BadTorchFile with the reason, and OSError for a missing file.
    """
    with path.open("rb") as file:
        pickled = file.read(1) == PICKLE
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped and _is_compressed(path):
            raise ValueError("compressed")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped and mapped)
    except Exception as error:  # noqa: BLE001 (torch raises errors of any kind for a damaged file)
        reason = ("holds more than tensors, which would run code when opened, or is damaged" if zipped or pickled
                  else "is not a file of torch.save, or was cut off")
        raise BadTorchFile(f"{reason} ({type(error).__name__})") from error


def is_plain(value: object, size: int) -> bool:
    """Return True for a dense CPU tensor that is not larger than its file of `size` bytes.

    With strides of 0 a few bytes can claim any size.
    """
    return (type(value) in (Tensor, torch.nn.Parameter) and isinstance(value, Tensor)
            and value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            and value.numel() * value.element_size() <= size)


def _is_compressed(path: Path) -> bool:
    """Return True if unpacking could take more memory than the file's size; torch.save never compresses."""
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size
                   for entry in archive.infolist())
