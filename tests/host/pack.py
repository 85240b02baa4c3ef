"""Imports this repository the way ComfyUI does: as one package, whose parts import each other relatively."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from demo.setup import PACK

NAME = "side_step_pack"


def pack_module(name: str) -> ModuleType:
    """A module of the pack, such as `nodes.models`; its package's __init__ is not run, as it needs a server."""
    for package in (NAME, f"{NAME}.nodes"):
        if package not in sys.modules:
            folder = PACK if package == NAME else PACK / "nodes"
            module = ModuleType(package)
            module.__path__ = [str(folder)]
            sys.modules[package] = module
    return importlib.import_module(f"{NAME}.{name}")
