"""A real ComfyUI server with the demo's models and songs, and with outputs, LoRAs and settings of its own."""

from __future__ import annotations

import os
from pathlib import Path

from demo.models import model_files
from demo.server import ComfyUI
from demo.songs import write_demo_songs
from demo.stage import BASE, PACK, extra_folders
from demo.tiny import DEMO_MODEL, write_demo_models


def demo_comfyui(base: Path) -> ComfyUI:
    """The server of the ComfyUI in COMFYUI_PATH, to be entered; `base` is an empty folder."""
    write_demo_models(BASE / "models")
    write_demo_songs(base / "input" / "demo_songs")
    return ComfyUI(Path(os.environ["COMFYUI_PATH"]), base, pack=PACK,
                   extra_args=("--cpu", *extra_folders(model_files(BASE / "models" / DEMO_MODEL))))
