"""Pictures as ComfyUI's IMAGE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def to_image(picture: Image) -> Tensor:
    """[1, height, width, 3], 0 to 1."""
    pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, picture.height, picture.width, 3).float() / 255
