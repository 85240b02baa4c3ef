"""The parts of a checkpoint: how a file is recognised as one of them, and what it is when it is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .weights import Weights, open_file, weight_files

VOCABULARY = 151669
"""Tokens of the text encoder.  The language model, which looks the same otherwise, has more."""


@dataclass(frozen=True)
class Part:
    """How a part of the model is recognised: one weight it always has, and the prefixes in use before it."""

    title: str
    marks: tuple[str, ...]
    prefixes: tuple[str, ...]
    advice: str

    def prefix_in(self, names: frozenset[str]) -> str | None:
        """The prefix of this part's weights among `names`; None where the part is absent."""
        found = (prefix for prefix in self.prefixes for mark in self.marks if prefix + mark in names)
        return next(found, None)


MODEL = Part(
    "an ACE-Step 1.5 model",
    ("encoder.lyric_encoder.layers.0.input_layernorm.weight",),
    ("", "model.diffusion_model.", "diffusion_model.", "model.", "net."),
    "Choose an ACE-Step 1.5 model such as acestep_v1.5_turbo.safetensors, or the folder acestep-v15-turbo.",
)
TEXT_ENCODER = Part(
    "the text encoder",
    ("layers.0.self_attn.q_norm.weight",),
    ("text_encoders.qwen3_06b.transformer.model.", "model.", ""),
    "Choose qwen_0.6b_ace15.safetensors, or the folder Qwen3-Embedding-0.6B.",
)
VAE = Part(
    "the VAE",
    ("encoder.layers.1.layers.0.layers.0.alpha", "encoder.block.0.res_unit1.snake1.alpha"),
    ("", "vae."),
    "Choose ace_1.5_vae.safetensors, or the folder vae.",
)
STRANGERS = {
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
"""What the wrong file is, by a piece of one of its names; the first match counts."""


@dataclass(frozen=True)
class Found:
    """Where a part lies: its files and the prefix of its weights in them."""

    files: tuple[Path, ...]
    prefix: str

    def weights(self) -> Weights:
        return Weights.open(self.files, self.prefix)


def locate(part: Part, path: Path) -> Found:
    """The part in a file or a folder; CheckpointError saying what is there when it is something else."""
    files = weight_files(path) if path.is_dir() else (path,)
    names = names_in(files)
    prefix = part.prefix_in(names)
    if prefix is None:
        kinds = (kind for piece, kind in STRANGERS.items() if any(piece in name for name in names))
        what = next(kinds, "no part of ACE-Step 1.5")
        raise CheckpointError(f"{path.name} is {what}, not {part.title}. {part.advice}")
    return Found(files, prefix)


def locate_inside(part: Part, other: Found) -> Found | None:
    """The part in the files of another one, as in an all-in-one checkpoint."""
    prefix = part.prefix_in(names_in(other.files))
    return None if prefix is None else Found(other.files, prefix)


def names_in(files: tuple[Path, ...]) -> frozenset[str]:
    """Every name stored in the files."""
    return frozenset(name for file in files for name in open_file(file).stored)


def check_text_encoder(text: Weights, model: Weights) -> None:
    """CheckpointError unless this text encoder, and no language model like it, is what the model was trained with."""
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
    """CheckpointError for Stable Audio's VAE, which has the same names: ACE-Step's second upsampling is by 6, its
    kernel 12."""
    kernels = {
        "decoder.layers.2.layers.1.weight_v", "decoder.layers.2.layers.1.parametrizations.weight.original1",
        "decoder.block.1.conv_t1.weight_v", "decoder.block.1.conv_t1.parametrizations.weight.original1",
    }  # fmt: skip
    sizes = {vae.shape(name)[-1] for name in kernels & vae.names}
    if sizes != {12}:
        raise CheckpointError(f"{vae.label} is the VAE of another audio model, not of ACE-Step 1.5. {VAE.advice}")
