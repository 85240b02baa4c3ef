"""Model source without ComfyUI: VAE, tokenizer and silence latent from an official folder, through diffusers.

Needs diffusers and transformers: pip install diffusers transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, MissingDependency
from ..io import strict_json, torch_pickle
from .checkpoint import TEXT_ENCODER_FOLDER, Checkpoint, silence_latent_file
from .layers import load_frozen
from .weights import Weights

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class OfficialModels:
    """ModelSource of an official folder, such as acestep-v15-turbo, with its siblings Qwen3-Embedding-0.6B and vae."""

    folder: Path

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of the text encoder.  CheckpointError if it holds no tokenizer."""
        folder = self.folder.parent / TEXT_ENCODER_FOLDER
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise CheckpointError(f"{folder} holds no tokenizer ({' or '.join(TOKENIZER_FILES)}). "
                                  f"Download the whole folder {TEXT_ENCODER_FOLDER} of the official model.")
        return folder

    def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Load the encoder of diffusers' AutoencoderOobleck in float32; it returns the posterior's mean, never a draw.

        CheckpointError if the VAE is not in diffusers' layout, MissingDependency without diffusers.
        """
        try:
            from diffusers import AutoencoderOobleck
        except ImportError as error:
            raise MissingDependency("Encoding audio without ComfyUI needs diffusers: pip install diffusers"
                                    ) from error
        config = checkpoint.vae.parent / "config.json"
        if checkpoint.vae_prefix or not config.is_file():
            raise CheckpointError(f"{checkpoint.vae} is not the VAE of an official folder: there is no {config}. "
                                  "Choose the folder vae of the official model.")
        try:
            settings = strict_json.as_object(strict_json.read(config), config.name)
            with torch.device("meta"):
                vae = AutoencoderOobleck.from_config(settings)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            raise CheckpointError(f"{config.name} in the folder {config.parent.name} describes no VAE ({error}). "
                                  "Download it again.") from error
        load_frozen(vae.encoder, Weights.open([checkpoint.vae], "encoder."), torch.float32, device)

        def encode(waveform: Tensor) -> Tensor:
            mean: Tensor = vae.encode(waveform.to(device, torch.float32)).latent_dist.mean
            return mean

        return encode

    def silence_latent(self, frames: int) -> Tensor:
        """Read silence_latent.pt, [frames, 64], repeated beyond its ten minutes as in the official program.

        CheckpointError if the file is missing or damaged.
        """
        path = silence_latent_file(self.folder)
        if path is None:
            raise CheckpointError(f"There is no silence_latent.pt in {self.folder}. "
                                  "Download the official folder again.")
        try:
            silence = torch_pickle.read(path)
        except torch_pickle.BadTorchFile as error:
            raise CheckpointError(f"{path} {error}. Download the official folder again.") from error
        if not (isinstance(silence, Tensor) and silence.dim() == 3 and silence.shape[:2] == (1, 64)
                and silence.shape[2] > 0):
            raise CheckpointError(f"{path} does not hold a latent of silence [1, 64, frames]. "
                                  "Download the official folder again.")
        repeats = -(-frames // silence.shape[2])
        return silence[0].repeat(1, repeats)[:, :frames].T.float().contiguous()
