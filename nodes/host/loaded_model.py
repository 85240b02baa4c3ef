"""Checkpoint to train for, from our own loader or from a MODEL of ComfyUI's loaders, whose file is looked up."""

from __future__ import annotations

from pathlib import Path

from ...sidestep_core.errors import CheckpointError
from ...sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from . import folders, models

TEXT_ENCODER_NAME = r"qwen.*0\.6b"
VAE_NAME = r"ace.*1\.5.*vae"
_INSTEAD = "Connect Load ACE-Step Checkpoint, and choose the file there."
_ALL_IN_ONE = "load_checkpoint_guess_config"
"""ComfyUI's function that loads a file with text encoder and VAE."""


def checkpoint_of(given: object) -> Checkpoint:
    """Return a Checkpoint as it is, or open the file that a MODEL was loaded from.

    Text encoder and VAE of a diffusion model are the files with their usual names.  Raises CheckpointError if the file
    is unknown, or if the model has adapters on it, which training would leave out.
    """
    if isinstance(given, Checkpoint):
        return given
    if getattr(given, "patches", None):
        raise CheckpointError("The connected model has an adapter or another change on it. Connect the output of its "
                              "loader, before any such node.")
    # Missing in older ComfyUIs, and in models of loaders that do not note their file.
    source = getattr(given, "cached_patcher_init", None)
    if source is None or not isinstance(source[1][0], str):
        raise CheckpointError(f"The file of the connected model is unknown: its loader does not note it. {_INSTEAD}")
    path, split = Path(source[1][0]), source[0].__name__ != _ALL_IN_ONE
    checkpoint = open_checkpoint(
        path, text_encoder=folders.part_path("text_encoders", folders.AUTOMATIC, TEXT_ENCODER_NAME) if split else None,
        vae=folders.part_path("vae", folders.AUTOMATIC, VAE_NAME) if split else None)
    models.require_buildable(checkpoint)
    return checkpoint
