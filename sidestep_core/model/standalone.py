"""Model sources without ComfyUI: VAE, tokenizer and silence latent of an official folder or of ComfyUI's files, through
diffusers.

Needs diffusers and transformers: pip install diffusers transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, MissingDependency
from ..io import strict_json, torch_pickle
from .checkpoint import TEXT_ENCODER_FOLDER, Checkpoint, silence_latent_file
from .layers import load_frozen
from .vae_keys import is_diffusers, stable_audio_name
from .weights import Weights

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
BLOCKS = 5
"""Blocks of the VAE's encoder, each of which shortens the audio."""
REACH = 8
"""Latent frames at an end of audio that differ from those within; the encoder reaches 7."""
SAMPLES_PER_FRAME = 1920


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
        autoencoder = _autoencoder()
        config = checkpoint.vae.parent / "config.json"
        if checkpoint.vae_prefix or not config.is_file():
            raise CheckpointError(f"{checkpoint.vae} is not the VAE of an official folder: there is no {config}. "
                                  "Choose the folder vae of the official model.")
        try:
            settings = strict_json.as_object(strict_json.read(config), config.name)
            with torch.device("meta"):
                vae = autoencoder.from_config(settings)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            raise CheckpointError(f"{config.name} in the folder {config.parent.name} describes no VAE ({error}). "
                                  "Download it again.") from error
        load_frozen(vae.encoder, Weights.open([checkpoint.vae], "encoder."), torch.float32, device)

        return _posterior_mean(vae, device)

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


@dataclass(frozen=True)
class LooseFiles:
    """ModelSource of ComfyUI's files, split or all in one, and of a folder with the tokenizer.

    Silence is what the VAE makes of it: its first frames differ from all others, as in the official latent.
    """

    checkpoint: Checkpoint
    tokenizer_folder: Path

    def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Load the encoder through diffusers, sized by the weights; see OfficialModels."""
        autoencoder, weights = _autoencoder(), Weights.open([checkpoint.vae], checkpoint.vae_prefix)
        kernels = [weights.shape(_stored_name(weights, f"encoder.block.{block}.conv1.weight_v"))
                   for block in range(BLOCKS)]
        hidden = weights.shape(_stored_name(weights, "encoder.conv1.weight_v"))[0]
        with torch.device("meta"):
            vae = autoencoder(encoder_hidden_size=hidden, downsampling_ratios=[kernel[2] // 2 for kernel in kernels],
                              channel_multiples=[kernel[0] // hidden for kernel in kernels])
        state = {name: weights.tensor(_stored_name(weights, f"encoder.{name}"), torch.float32, device).reshape(
            parameter.shape) for name, parameter in vae.encoder.named_parameters()}
        vae.encoder.load_state_dict(state, assign=True)
        vae.encoder.requires_grad_(False)
        return _posterior_mean(vae, device)

    def silence_latent(self, frames: int) -> Tensor:
        """Encode silence, [frames, 64]; beyond its beginning all frames are alike."""
        encode = self.audio_encoder(self.checkpoint, torch.device("cpu"))
        encoded = encode(torch.zeros(1, 2, 4 * REACH * SAMPLES_PER_FRAME))[0].T.float()
        middle = encoded[2 * REACH].expand(max(0, frames - 2 * REACH), -1)
        return torch.cat((encoded[:2 * REACH], middle))[:frames].contiguous()


def _stored_name(weights: Weights, name: str) -> str:
    """Find diffusers' name of a weight in the file, whichever form of weight norm it has."""
    stored = name if is_diffusers(weights.names) else stable_audio_name(name)
    for form, other in (("weight_g", "original0"), ("weight_v", "original1")):
        if stored.endswith(form) and stored not in weights.names:
            return f"{stored.removesuffix(form)}parametrizations.weight.{other}"
    return stored


def _posterior_mean(vae: Any, device: torch.device) -> Callable[[Tensor], Tensor]:
    def encode(waveform: Tensor) -> Tensor:
        with torch.no_grad():
            mean: Tensor = vae.encode(waveform.to(device, torch.float32)).latent_dist.mean
        return mean

    return encode


def _autoencoder() -> Any:
    """Return the class of the VAE.  MissingDependency without diffusers."""
    try:
        from diffusers import AutoencoderOobleck
    except ImportError as error:
        raise MissingDependency("Encoding audio without ComfyUI needs diffusers: pip install diffusers") from error
    return AutoencoderOobleck
