"""Set-up of the demo: a ComfyUI folder with models and songs, or the user's own ComfyUI."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .models import DemoError, ModelFiles, model_files, own_model
from .server import write_paths
from .songs import write_demo_songs
from .synthetic_model import DEMO_MODEL, FULL_MODEL, write_demo_models

PACK = Path(__file__).absolute().parent.parent
BASE = PACK / ".cache" / "demo" / "base"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Folders and files that the server is started with and the workflow is filled with."""

    host: Path
    base: Path
    songs: Path
    files: ModelFiles
    embedded: bool
    """Flag of random weights, whose sound is noise."""
    full_size: bool
    """Flag of an embedded checkpoint as big as the real 2B."""
    extra_args: tuple[str, ...] = ()


def set_up(audio: Path | None = None, checkpoint: Path | None = None, base: Path | None = None) -> Setup:
    """Prepare the ComfyUI in COMFYUI_PATH with the given audio and checkpoint, else with the embedded ones.

    `base` holds songs, outputs and settings instead of the usual folder.  Raises DemoError naming what is missing."""
    if audio is not None and not audio.is_dir():
        raise DemoError(f"There is no folder {audio}. Give a folder with songs.")
    host = Path(os.environ["COMFYUI_PATH"]).absolute()
    own = not host.is_relative_to(PACK / ".cache")
    checkpoint = checkpoint or (own_model(host / "models") if own else None)
    full_size = checkpoint is None and not builds_any_size(host)
    if checkpoint is None:
        write_demo_models(BASE / "models", full_size=full_size)
    files = model_files(checkpoint or BASE / "models" / (FULL_MODEL if full_size else DEMO_MODEL))
    own_base = host if own else base or BASE
    songs = audio or own_base / "input" / "demo_songs"
    if audio is None:
        write_demo_songs(songs)
    return Setup(host=host, base=own_base, songs=songs, files=files, embedded=checkpoint is None, full_size=full_size,
                 extra_args=(() if checkpoint is None and own_base == BASE else extra_folders(files))
                 + (("--bf16-unet",) if full_size else ()))


def builds_any_size(host: Path) -> bool:
    """True if this ComfyUI reads ACE-Step's sizes from the file, False if it always builds the 2B's."""
    return "encoder_hidden_size" in (host / "comfy" / "model_detection.py").read_text(encoding="utf-8")


def extra_folders(files: ModelFiles) -> tuple[str, ...]:
    """Build the arguments that make ComfyUI look for these files in their own folders first."""
    folders = {kind: str(folder) for kind, folder in files.folders.items()}
    path = write_paths(BASE / "demo_paths.yaml", {"sidestep_demo": {**folders, "is_default": True}})
    return "--extra-model-paths-config", path
