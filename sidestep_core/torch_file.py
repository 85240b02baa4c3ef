"""Files that torch.save has written, read without running any code from them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from .errors import SideStepError

PICKLE = b"\x80"
"""What every pickle since Python 2.3 begins with; torch's own files without a zip around them are such."""


class BadTorchFile(SideStepError):
    """A file is none of torch's, is cut off, or holds more than tensors and plain values."""


def read(path: Path) -> object:
    """What the file holds: tensors on the CPU, memory-mapped where the format allows, and plain values.

    Such files are pickles, which can run code when they are opened; torch's restricted reader takes nothing but
    tensors, containers, numbers and texts.  Raises BadTorchFile, whose text is the reason; OSError where there is
    nothing to read.
    """
    with path.open("rb") as file:
        pickled = file.read(1) == PICKLE
    zipped = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # noqa: BLE001 (torch raises whatever a stranger's file makes it stumble over)
        reason = ("holds more than tensors, which would run code when opened, or is damaged" if zipped or pickled
                  else "is not a file of torch.save, or was cut off")
        raise BadTorchFile(f"{reason} ({type(error).__name__})") from error
