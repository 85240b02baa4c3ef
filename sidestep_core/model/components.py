"""Components of a checkpoint: model, text encoder and VAE, recognised by their weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .weights import Weights, open_file, weight_files

VOCABULARY = 151669
"""Tokens of the text encoder; the language model, otherwise alike, has more."""


@dataclass(frozen=True)
class Component:
    """Component of a checkpoint, recognised by one weight that it always has, under one of the known prefixes."""

    title: str
    signatures: tuple[str, ...]
    prefixes: tuple[str, ...]
    advice: str

    def prefix_in(self, names: frozenset[str]) -> str | None:
        """Return the prefix of this component's weights among `names`; None if it is absent."""
        found = (prefix for prefix in self.prefixes for name in self.signatures if prefix + name in names)
        return next(found, None)


MODEL = Component(
    "an ACE-Step 1.5 model",
    ("encoder.lyric_encoder.layers.0.input_layernorm.weight",),
    ("", "model.diffusion_model.", "diffusion_model.", "model.", "net."),
    "Choose an ACE-Step 1.5 model such as acestep_v1.5_turbo.safetensors, or the folder acestep-v15-turbo.",
)
TEXT_ENCODER = Component(
    "the text encoder",
    ("layers.0.self_attn.q_norm.weight",),
    ("text_encoders.qwen3_06b.transformer.model.", "model.", ""),
    "Choose qwen_0.6b_ace15.safetensors, or the folder Qwen3-Embedding-0.6B.",
)
VAE = Component(
    "the VAE",
    ("encoder.layers.1.layers.0.layers.0.alpha", "encoder.block.0.res_unit1.snake1.alpha"),
    ("", "vae."),
    "Choose ace_1.5_vae.safetensors, or the folder vae.",
)
OTHER_MODELS = {
    ".lora_A.": "a LoRA adapter",
    ".lora_down.": "a LoRA adapter",
    ".lokr_w": "a LoKR adapter",
    "lyric_encoder.layers.0.": "an ACE-Step 1.5 model",
    "layers.0.cross_attn.q_proj.weight": "an ACE-Step 1.5 decoder without its condition encoder",
    "genre_embedder.weight": "an ACE-Step 1.0 model",
    "snake1.alpha": "an audio VAE",
    "decoder.layers.1.layers.0.beta": "an audio VAE",
    "decoder.conv_in.weight": "an image VAE",
    "input_blocks.0.0.weight": "a Stable Diffusion model",
    "double_blocks.0.": "an image model",
    "text_model.encoder.layers.0.": "a CLIP text encoder",
    "layers.0.self_attn.q_norm.weight": "a Qwen3 language model or text encoder",
}
"""Part of a weight's name -> kind of a wrong file; the first match counts."""


@dataclass(frozen=True)
class ComponentFiles:
    """Location of a component: its files, and the prefix of its weights in them."""

    files: tuple[Path, ...]
    prefix: str

    def weights(self) -> Weights:
        return Weights.open(self.files, self.prefix)


def locate(component: Component, path: Path) -> ComponentFiles:
    """Locate a component in a file or a folder; CheckpointError names what is there instead."""
    files = weight_files(path) if path.is_dir() else (path,)
    names = tensor_names(files)
    prefix = component.prefix_in(names)
    if prefix is None:
        kinds = (kind for part, kind in OTHER_MODELS.items() if any(part in name for name in names))
        what = next(kinds, "no part of ACE-Step 1.5")
        raise CheckpointError(f"{path.name} is {what}, not {component.title}. {component.advice}")
    return ComponentFiles(files, prefix)


def locate_in(component: Component, other: ComponentFiles) -> ComponentFiles | None:
    """Locate a component in the files of another one, as in an all-in-one checkpoint."""
    prefix = component.prefix_in(tensor_names(other.files))
    return None if prefix is None else ComponentFiles(other.files, prefix)


def tensor_names(files: tuple[Path, ...]) -> frozenset[str]:
    """Return the names of all tensors in the files."""
    return frozenset(name for file in files for name in open_file(file).stored)


def check_text_encoder(text: Weights, model: Weights) -> None:
    """Raise CheckpointError unless this is the text encoder that the model was trained with, not a language model."""
    vocabulary, width = text.shape("embed_tokens.weight")
    if vocabulary != VOCABULARY:
        raise CheckpointError(
            f"{text.label} is a language model with {vocabulary} tokens, not the text encoder, which has {VOCABULARY}. "
            + TEXT_ENCODER.advice
        )
    expected = model.shape("encoder.text_projector.weight")[1]
    if width != expected:
        raise CheckpointError(
            f"{text.label} is {width} wide, but {model.label} wants a text encoder {expected} wide. "
            + TEXT_ENCODER.advice
        )


def check_vae(vae: Weights) -> None:
    """Raise CheckpointError for Stable Audio's VAE, which has the same names: ACE-Step's second upsampling is by 6,
    with kernel 12."""
    kernels = {
        "decoder.layers.2.layers.1.weight_v", "decoder.layers.2.layers.1.parametrizations.weight.original1",
        "decoder.block.1.conv_t1.weight_v", "decoder.block.1.conv_t1.parametrizations.weight.original1",
    }  # fmt: skip
    sizes = {vae.shape(name)[-1] for name in kernels & vae.names}
    if sizes != {12}:
        raise CheckpointError(f"{vae.label} is the VAE of another audio model, not of ACE-Step 1.5. {VAE.advice}")
