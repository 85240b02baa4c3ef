"""Of several copies of the pack in custom_nodes the first one loads, and the others stay out and say so.

ComfyUI itself would let the last one win, without a word.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
_MARK = "side_step_for_comfyui_first_copy"
"""The name in sys.modules by which a copy finds the one before it."""


def claim() -> None:
    """Note that this copy is loaded.  RuntimeError, which ComfyUI logs, when another one is."""
    first = sys.modules.setdefault(_MARK, _marker()).__file__
    if first != str(HERE):
        raise RuntimeError(f"Side-Step is in custom_nodes twice: {Path(str(first)).name} is loaded, {HERE.name} stays "
                           f"out. Delete the folder {HERE.name}, or the other one if it is older, and restart ComfyUI.")


def _marker() -> ModuleType:
    marker = ModuleType(_MARK)
    marker.__file__ = str(HERE)
    return marker
