"""The real ComfyUI as a library, on the CPU, for tests that look into its models."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def comfy() -> ModuleType:
    """The package `comfy` of the host in COMFYUI_PATH."""
    host = os.environ["COMFYUI_PATH"]
    sys.path.insert(0, host)
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", host]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
        import comfy.lora_convert
        import comfy.sd
    finally:
        sys.argv = arguments
    return sys.modules["comfy"]
