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


def paths_of(model: str, text_encoder: str, vae: str) -> tuple[Path, Path | None, Path | None]:
    """Files behind the choices; None for a part that an all-in-one file or an official folder brings itself."""
    split = folders.is_split(model)
    text_wanted = split or text_encoder != folders.AUTOMATIC
    vae_wanted = split or vae != folders.AUTOMATIC
    return (folders.model_path(model),
            folders.part_path("text_encoders", text_encoder, TEXT_ENCODER_NAME) if text_wanted else None,
            folders.part_path("vae", vae, VAE_NAME) if vae_wanted else None)


def chosen(model: str, text_encoder: str = folders.AUTOMATIC, vae: str = folders.AUTOMATIC,
           variant: str = folders.AUTOMATIC) -> Checkpoint:
    """Open the checkpoint of these choices; reads headers only."""
    model_path, text_path, vae_path = paths_of(model, text_encoder, vae)
    checkpoint = open_checkpoint(model_path, text_encoder=text_path, vae=vae_path,
                                 variant=None if variant == folders.AUTOMATIC else variant)
    models.require_buildable(checkpoint)
    return checkpoint


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
