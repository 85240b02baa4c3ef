"""Where the demo plays: a ComfyUI folder with models and songs in it, or the user's own ComfyUI."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .models import DemoError, ModelFiles, model_files, own_model
from .server import write_paths
from .songs import write_demo_songs
from .tiny import DEMO_MODEL, write_demo_models

PACK = Path(__file__).absolute().parent.parent
BASE = PACK / ".cache" / "demo" / "base"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a server is started with, and what the workflow is filled with."""

    host: Path
    base: Path
    songs: Path
    files: ModelFiles
    embedded: bool
    """Random weights: the sound will be noise."""
    extra_args: tuple[str, ...] = ()


def set_stage(audio: Path | None = None, checkpoint: Path | None = None) -> Stage:
    """Everything in place for the ComfyUI in COMFYUI_PATH: the given audio and checkpoint, else the embedded ones.

    Raises DemoError naming what is missing."""
    if audio is not None and not audio.is_dir():
        raise DemoError(f"There is no folder {audio}. Give a folder with songs.")
    host = Path(os.environ["COMFYUI_PATH"]).absolute()
    own = not host.is_relative_to(PACK / ".cache")
    checkpoint = checkpoint or (own_model(host / "models") if own else None)
    if checkpoint is None:
        write_demo_models(BASE / "models")
    files = model_files(checkpoint or BASE / "models" / DEMO_MODEL)
    songs = audio or BASE / "input" / "demo_songs"
    if audio is None:
        write_demo_songs(songs)
    return Stage(host=host, base=host if own else BASE, songs=songs, files=files, embedded=checkpoint is None,
                 extra_args=() if checkpoint is None and not own else extra_folders(files))


def extra_folders(files: ModelFiles) -> tuple[str, ...]:
    """The arguments that make ComfyUI look for these files in their own folders first."""
    folders = {kind: str(folder) for kind, folder in files.folders.items()}
    path = write_paths(BASE / "demo_paths.yaml", {"sidestep_demo": {**folders, "is_default": True}})
    return "--extra-model-paths-config", path
