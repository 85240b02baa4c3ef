"""Files that torch.save has written, read without running any code from them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SideStepError

PICKLE = b"\x80"
"""What every pickle since Python 2.3 begins with; torch's own files without a zip around them are such."""


class BadTorchFile(SideStepError):
    """A file is none of torch's, is cut off, or holds more than tensors and plain values."""


def read(path: Path, *, mapped: bool = True) -> object:
    """What the file holds: tensors on the CPU, memory-mapped where the format allows unless `mapped` is False, and
    plain values.

    Such files are pickles, which can run code when they are opened; torch's restricted reader takes nothing but
    tensors, containers, numbers and texts.  Raises BadTorchFile, whose text is the reason; OSError where there is
    nothing to read.
    """
    with path.open("rb") as file:
        pickled = file.read(1) == PICKLE
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped and _is_compressed(path):
            raise ValueError("compressed")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped and mapped)
    except Exception as error:  # noqa: BLE001 (torch raises whatever a stranger's file makes it stumble over)
        reason = ("holds more than tensors, which would run code when opened, or is damaged" if zipped or pickled
                  else "is not a file of torch.save, or was cut off")
        raise BadTorchFile(f"{reason} ({type(error).__name__})") from error


def is_plain(value: object, size: int) -> bool:
    """Whether a value of a file of `size` bytes is a tensor in plain memory, of no more numbers than the file holds: by
    strides of 0 a few bytes can claim to be any number."""
    return (type(value) in (Tensor, torch.nn.Parameter) and isinstance(value, Tensor)
            and value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            and value.numel() * value.element_size() <= size)


def _is_compressed(path: Path) -> bool:
    """Whether unpacking the file could take more memory than it has bytes; torch.save never compresses."""
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size
                   for entry in archive.infolist())
