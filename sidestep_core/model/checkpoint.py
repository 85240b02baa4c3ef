"""ACE-Step 1.5 checkpoint on disk: its files and its variant, verified before any weight is loaded.

Supports the three layouts in use: all-in-one files, ComfyUI's split files, and the official folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

from ..errors import CheckpointError
from ..io import strict_json
from ..io.hashing import fingerprint
from . import components
from .components import Component, ComponentFiles, check_text_encoder, check_vae, locate, locate_in
from .flow_matching import TimestepDistribution
from .weights import Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Variant = Literal["turbo", "base", "sft"]

TEXT_ENCODER_FOLDER = "Qwen3-Embedding-0.6B"
VAE_FOLDER = "vae"
"""Siblings of an official folder."""
SIZES = {(2048, 24): "2B", (2560, 32): "XL"}
FINGERPRINTED = ("_proj.weight", "null_condition_emb", "proj_out.1.weight", "embed_tokens.weight", ".weight_v")
"""Weights whose bytes go into the fingerprint; a merged adapter or a fine-tune changes at least these."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Handle of a checkpoint: paths and small facts, no tensors."""

    name: str
    """Display name."""
    model: tuple[Path, ...]
    model_prefix: str
    text_encoder: tuple[Path, ...]
    text_encoder_prefix: str
    vae: Path
    vae_prefix: str
    variant: Variant
    size: str
    """"2B", "XL", or width x layers."""
    timestep_mu: float
    timestep_sigma: float
    silence_latent: Path | None
    """The official folder's [1, 64, 15000] latent of silence, if any."""
    fingerprint: str
    """Depends on the weights of every component, not on names and places."""

    def model_weights(self) -> Weights:
        """Open decoder, condition encoder, tokenizer, detokenizer and `null_condition_emb`, by official name."""
        return Weights.open(self.model, self.model_prefix)

    def text_encoder_weights(self) -> Weights:
        """Open the text encoder, by the names of transformers' Qwen3Model."""
        return Weights.open(self.text_encoder, self.text_encoder_prefix)

    @property
    def has_timbre_token(self) -> bool:
        """True for XL, whose decoder is wider than its condition encoder: there the official program prepends a special
        token to the timbre.  Every file holds such a token; in 2B it is unused."""
        model = self.model_weights()
        return _decoder_width(model) != model.shape("encoder.text_projector.weight")[0]


class ModelSource(Protocol):
    """Interface to the host: VAE, tokenizer and silence latent."""

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer, for transformers' Qwen2Tokenizer."""
        ...

    def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Load the VAE's encoder: [1, 2, samples] at 48 kHz, a multiple of 1920 -> posterior mean [1, 64, frames]."""
        ...

    def silence_latent(self, frames: int) -> Tensor:
        """Return the latent of silence, [frames, 64]."""
        ...


def open_checkpoint(
    model: Path, *, text_encoder: Path | None = None, vae: Path | None = None, variant: Variant | None = None
) -> Checkpoint:
    """Locate and check the components of a checkpoint; reads headers and a few kilobytes.

    `model` is an all-in-one file, a diffusion model file (then `text_encoder` and `vae` are needed too), or an official
    folder, whose siblings are found.  CheckpointError names a wrong file, its kind, and the right choice.
    """
    folder = _official_folder(model)
    source = folder or model
    found = locate(components.MODEL, source)
    text = _locate(components.TEXT_ENCODER, text_encoder, found, folder and folder.parent / TEXT_ENCODER_FOLDER)
    audio = _locate(components.VAE, vae, found, folder and folder.parent / VAE_FOLDER)
    contents = found.weights(), text.weights(), audio.weights()
    check_text_encoder(contents[1], contents[0])
    check_vae(contents[2])
    config = _read_config(folder)
    return Checkpoint(
        name=source.name if folder else source.stem,
        model=found.files,
        model_prefix=found.prefix,
        text_encoder=text.files,
        text_encoder_prefix=text.prefix,
        vae=audio.files[0],
        vae_prefix=audio.prefix,
        variant=_variant(source, config, variant),
        size=_size(contents[0]),
        timestep_mu=_number(config, "timestep_mu", TimestepDistribution.mu),
        timestep_sigma=_number(config, "timestep_sigma", TimestepDistribution.sigma),
        silence_latent=folder and silence_latent_file(folder),
        fingerprint=fingerprint(*map(_content, contents)),
    )


def _official_folder(model: Path) -> Path | None:
    """Return the folder in the official layout, if `model` is one or one of its weight files."""
    if model.is_dir():
        return model
    named = model.name.startswith("model") and (model.parent / "config.json").is_file()
    return model.parent if named else None


def _locate(component: Component, given: Path | None, model: ComponentFiles, sibling: Path | None) -> ComponentFiles:
    """Locate a component in the given file, else in the model's own, else in the sibling of an official folder."""
    if given is None:
        inside = locate_in(component, model)
        if inside is not None:
            return inside
        if sibling is None or not sibling.exists():
            where = f" and {sibling} does not exist" if sibling else ""
            raise CheckpointError(f"{model.files[0].name} does not contain {component.title}{where}. "
                                  f"{component.advice}")
        given = sibling
    return locate(component, given)


def _read_config(folder: Path | None) -> dict[str, Any]:
    path = folder / "config.json" if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        return strict_json.as_object(strict_json.read(path), path.name)
    except strict_json.BadJson as error:
        raise CheckpointError(f"{path.parent.name}: {error} Download it again.") from error


def _number(config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(f"{key} in config.json must be a number, got {value!r}. Correct it.")
    return float(value)


def _variant(source: Path, config: dict[str, Any], chosen: Variant | None) -> Variant:
    """Return the chosen variant, else that of config.json, else the only one in the name; never guess."""
    possible = _configured_variants(config)
    if chosen is not None:
        if chosen not in possible:
            allowed = " or ".join(sorted(possible))
            raise CheckpointError(
                f"{source.name} is {allowed} by its config.json, but {chosen!r} was chosen. "
                f"Choose {allowed}, or correct config.json."
            )
        return chosen
    named = _variant_in(source.name)
    found = possible if len(possible) == 1 else possible & {named}
    if not found:
        raise CheckpointError(f"{source.name} does not say whether it is turbo, base or sft. Choose the variant.")
    return cast(Variant, found.pop())


def _configured_variants(config: dict[str, Any]) -> set[str]:
    """Return the variants that config.json allows; all of them without a config.json."""
    everything = set(get_args(Variant))
    turbo = config.get("is_turbo")
    possible = everything if turbo is None else {"turbo"} if turbo else everything - {"turbo"}
    named = {_variant_in(str(config.get("model_version", "")))}
    return possible & named or possible


def variants_in(text: str) -> set[str]:
    """Return the variants that are words of the text."""
    return set(re.split(r"[^a-z]+", text.lower())) & set(get_args(Variant))


def _variant_in(text: str) -> str:
    """Return the only variant that is a word of the text, else ""."""
    words = variants_in(text)
    return words.pop() if len(words) == 1 else ""


def _size(model: Weights) -> str:
    width = _decoder_width(model)
    layers = model.under("decoder.").depth()
    return SIZES.get((width, layers), f"{width}x{layers}")


def _decoder_width(model: Weights) -> int:
    return model.shape("decoder.layers.0.self_attn_norm.weight")[0]


def silence_latent_file(folder: Path) -> Path | None:
    """Find the latent of silence in an official folder, or next to it."""
    candidates = (parent / "silence_latent.pt" for parent in (folder, folder.parent))
    return next((path for path in candidates if path.is_file()), None)


def _content(weights: Weights) -> list[Any]:
    """Summarise a component: every name, dtype and shape, and bytes from the middle of some weights."""
    names = sorted(weights.names)
    header = [[name, weights.stored_dtype(name), weights.shape(name)] for name in names]
    sampled = [name for name in names if name.endswith(FINGERPRINTED)] + names[:: max(1, len(names) // 16)]
    return [header, [weights.middle_bytes(name, 256).hex() for name in sampled]]
