"""Model files behind --checkpoint-dir, wherever they lie: official folders, ComfyUI's folders, or single files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sidestep_core.errors import CheckpointError
from sidestep_core.model import components
from sidestep_core.model.checkpoint import (
    TEXT_ENCODER_FOLDER,
    Checkpoint,
    ModelSource,
    Variant,
    open_checkpoint,
    variants_in,
)

OFFICIAL = "acestep-v15-{}"
"""Name of the official folder of a variant."""
FOLDERS = ("", "diffusion_models", "checkpoints")
"""Folders of model files below the folder of checkpoints; the last two are ComfyUI's."""
TEXT_ENCODER = re.compile(r"qwen.*0\.6b", re.IGNORECASE)
VAE = re.compile(r"ace.*1\.5.*vae", re.IGNORECASE)
TOKENIZER_OF_COMFYUI = Path("comfy/text_encoders/qwen25_tokenizer")
SHOWN = 8


@dataclass(frozen=True)
class Model:
    """Checkpoint, and the file or folder that it was opened from."""

    checkpoint: Checkpoint
    path: Path
    tokenizer: Path | None
    """Folder that was given for the tokenizer."""

    def source(self) -> ModelSource:
        """Make the source of VAE, tokenizer and silence."""
        from sidestep_core.model.standalone import LooseFiles, OfficialModels

        if self.path.is_dir() and self.checkpoint.silence_latent is not None and self.tokenizer is None:
            return OfficialModels(self.path)
        return LooseFiles(self.checkpoint, self.tokenizer or find_tokenizer(self.path))


def open_model(arguments: argparse.Namespace) -> Model:
    """Open the model that the arguments name.  CheckpointError says what was found instead."""
    path = find_model(arguments.checkpoint_dir, arguments.model_variant)
    text_encoder, vae = arguments.text_encoder, arguments.vae
    if path.is_file():
        found = components.locate(components.MODEL, path)
        if text_encoder is None and components.locate_in(components.TEXT_ENCODER, found) is None:
            text_encoder = find_part(path, "text_encoders", TEXT_ENCODER)
        if vae is None and components.locate_in(components.VAE, found) is None:
            vae = find_part(path, "vae", VAE)
    named = arguments.base_model or (
        arguments.model_variant if path.is_file() and not variants_in(path.name) and
        arguments.model_variant in ("turbo", "base", "sft") else None)
    checkpoint = open_checkpoint(path, text_encoder=text_encoder, vae=vae, variant=cast("Variant | None", named))
    return Model(checkpoint, path, arguments.tokenizer)


def find_model(root: Path, variant: str) -> Path:
    """Find the file or folder of the model: `root` itself, or the one of this variant or name below it."""
    root = root.expanduser()
    if not root.exists():
        raise CheckpointError(f"--checkpoint-dir {root} does not exist. Give the folder of your checkpoints, or the "
                              "model's file.")
    if root.is_file() or is_model_folder(root):
        return root
    found = list(candidates(root))
    by_name = [path for path in found if variant in (path.name, path.stem)]
    official = [path for path in found if path.name == OFFICIAL.format(variant)]
    worded = [path for path in found if variants_in(path.name) == {variant}]
    for matches in (by_name, official, worded):
        if len(matches) == 1:
            return matches[0]
    several = by_name or official or worded
    names = ", ".join(path.name for path in (several or found)[:SHOWN]) or "no model"
    problem = f"several models are {variant!r}" if several else f"there is no model {variant!r}"
    raise CheckpointError(f"In {root} {problem}; it holds {names}. Name one with --model-variant.")


def candidates(root: Path) -> Iterator[Path]:
    """Yield the model files and folders of a folder of checkpoints."""
    for name in FOLDERS:
        folder = root / name
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if (path.is_dir() and is_model_folder(path)) or (path.suffix == ".safetensors" and is_model_file(path)):
                yield path


def is_model_folder(path: Path) -> bool:
    """Tell a model's folder from that of a text encoder or a VAE."""
    return (path / "config.json").is_file() and any(path.glob("model*.safetensors")) and is_model_file(path)


def is_model_file(path: Path) -> bool:
    """Return True for ACE-Step 1.5; reads headers only."""
    try:
        components.locate(components.MODEL, path)
    except CheckpointError:
        return False
    return True


def find_part(model: Path, kind: str, pattern: re.Pattern[str]) -> Path | None:
    """Find the text encoder or VAE of a model file: beside it, or in ComfyUI's folder for it."""
    near = (model.parent, model.parent.parent / kind)
    found = [path for folder in near if folder.is_dir() for path in sorted(folder.glob("*.safetensors"))
             if pattern.search(path.name) and path != model]
    if len(found) > 1:
        raise CheckpointError(f"Several files could be meant: {', '.join(path.name for path in found)}. Name one with "
                              f"--{'vae' if kind == 'vae' else 'text-encoder'}.")
    return found[0] if found else None


def find_tokenizer(model: Path) -> Path:
    """Find the folder of the tokenizer: of an official text encoder near the model, or of the ComfyUI around it."""
    from sidestep_core.model.standalone import TOKENIZER_FILES

    for parent in list(model.absolute().parents)[:5]:
        for folder in (parent, parent / TEXT_ENCODER_FOLDER, parent / "text_encoders" / TEXT_ENCODER_FOLDER,
                       parent / TOKENIZER_OF_COMFYUI):
            if any((folder / name).is_file() for name in TOKENIZER_FILES):
                return folder
    raise CheckpointError(f"There is no tokenizer near {model.name}: a file has none. Give --tokenizer, the folder "
                          f"{TEXT_ENCODER_FOLDER} of the official model; vocab.json and merges.txt are enough.")
