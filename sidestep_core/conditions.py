"""From caption, lyrics and timbre to the condition that the decoder attends to, exactly as ComfyUI's sampler makes it.

What counts is what the decoder will be fed when people generate, so this reproduces the host to the token and to the
hidden state: its prompt templates, no padding, no windows and no masks in the encoders, a silent timbre reference as
long as the song.  Shapes: B batch, L text token, D width, T latent frame, C channel, S condition token.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .layers import AttentionShape, EncoderLayer, RMSNorm, Rotation, additive, fill
from .weights import Weights

END_OF_TEXT = 151643
"""Token id of <|endoftext|>."""

CAPTION_TEMPLATE = (
    "# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n"
    "# Caption\n{caption}\n\n# Metas\n{metas}\n<|endoftext|>\n<|endoftext|>"
)
LYRICS_TEMPLATE = "# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|><|endoftext|>"
UNKNOWN = "N/A"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The fields of the host's text node, as a person would fill them in for this song."""

    caption: str
    lyrics: str
    language: str
    bpm: int | None
    key: str
    signature: str
    seconds: float

    @property
    def caption_text(self) -> str:
        """What the text encoder reads: instruction, caption and metas."""
        metas = {
            "bpm": UNKNOWN if self.bpm is None else str(self.bpm),
            # The host's node offers beats per bar only: "4/4" and "6/8" are its 4 and 6.
            "timesignature": self.signature.split("/")[0].strip() or UNKNOWN,
            "keyscale": _spelled_out(self.key) or UNKNOWN,
            "duration": f"{math.ceil(self.seconds)} seconds",
        }
        lines = "\n".join(f"- {name}: {value}" for name, value in metas.items())
        return _plain_parentheses(CAPTION_TEMPLATE.format(caption=self.caption.strip(), metas=lines))

    @property
    def lyrics_text(self) -> str:
        """What the lyric encoder reads: language and lyrics."""
        return _plain_parentheses(LYRICS_TEMPLATE.format(language=self.language.strip().lower(), lyrics=self.lyrics))


def _spelled_out(key: str) -> str:
    """A key as the host's node offers it: "Am" and "a min" are "A minor"; what is no key stays as it is."""
    match = re.fullmatch(r"([A-Ga-g])([#b]?)\s*(?:(m|[Mm]in|[Mm]inor)|M|[Mm]aj|[Mm]ajor|)", key.strip())
    if match is None:
        return key.strip()
    return f"{match[1].upper()}{match[2]} {'minor' if match[3] else 'major'}"


def _plain_parentheses(text: str) -> str:
    """The host's prompts use \\( for a literal parenthesis, also where weights are switched off."""
    return text.replace("\\)", ")").replace("\\(", "(")


class SequenceEncoder(nn.Module):
    """Transformer layers over the whole sequence and a final norm, sized by their weights."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        shape = AttentionShape.read(weights)
        mlp = weights.shape("layers.0.mlp.gate_proj.weight")[0]
        self.head_width = shape.head_width
        self.layers = nn.ModuleList(EncoderLayer(shape, mlp) for _ in range(weights.depth()))
        self.norm = RMSNorm(shape.width)

    def encode(self, x_BLD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states [B, L, D]; `mask` is additive, [L, L]."""
        rotation = Rotation.of(x_BLD.shape[1], self.head_width, x_BLD)
        for layer in self.layers:
            x_BLD = layer(x_BLD, rotation, mask)
        normed: Tensor = self.norm(x_BLD)
        return normed


class Qwen3(SequenceEncoder):
    """The text model: token embeddings, and layers in which each token sees itself and those before it."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        vocabulary, width = weights.shape("embed_tokens.weight")
        self.embed_tokens = nn.Embedding(vocabulary, width)

    def forward(self, ids_BL: Tensor, visible: int) -> Tensor:
        """Final hidden states [B, L, D]; only the first `visible` tokens can be seen by any other."""
        x_BLD = self.embed_tokens(ids_BL)
        position = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        seen = (position[None, :] <= position[:, None]) & (position[None, :] < visible)
        return self.encode(x_BLD, additive(seen, x_BLD))


class TextEncoder:
    """Hidden states of the caption, bare token embeddings of the lyrics; in float32, as the host computes them.

    Qwen3 is built from this package's own blocks, which it is made of; transformers is asked for its tokenizer only,
    so that any of its versions will do.
    """

    def __init__(self, weights: Weights, tokenizer_folder: Path, device: torch.device) -> None:
        from transformers import Qwen2Tokenizer

        self._device = device
        self._tokenizer = Qwen2Tokenizer.from_pretrained(tokenizer_folder)
        with torch.device("meta"):
            self._model = Qwen3(weights)
        fill(self._model, weights, torch.float32, device)

    def tokens(self, text: str) -> list[int]:
        """Token ids, without any added at either end."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def caption(self, prompt: Prompt) -> Tensor:
        """Final hidden states [1, L, D] of the caption text.

        As in the host, keys from the first <|endoftext|> on are masked, so the closing tokens see only the text.
        """
        ids = self.tokens(prompt.caption_text)
        hidden: Tensor = self._model(torch.tensor([ids], device=self._device), visible=ids.index(END_OF_TEXT))
        return hidden

    @torch.no_grad()
    def lyrics(self, prompt: Prompt) -> Tensor:
        """Embedding rows [1, L, D] of the lyrics text; the lyric encoder is what reads them."""
        ids = torch.tensor([self.tokens(prompt.lyrics_text)], device=self._device)
        rows: Tensor = self._model.embed_tokens(ids)
        return rows


class ProjectedEncoder(SequenceEncoder):
    """A projection of the input, then the layers."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        width, source = weights.shape("embed_tokens.weight")
        self.embed_tokens = nn.Linear(source, width)

    def forward(self, source_BLD: Tensor) -> Tensor:
        return self.encode(self.embed_tokens(source_BLD))


class ConditionEncoder(nn.Module):
    """Packs lyrics, one timbre token and caption into the condition, in this order."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        width, text_width = weights.shape("text_projector.weight")
        self.text_projector = nn.Linear(text_width, width, bias=False)
        self.lyric_encoder = ProjectedEncoder(weights.under("lyric_encoder."))
        self.timbre_encoder = ProjectedEncoder(weights.under("timbre_encoder."))

    def forward(self, caption_BLD: Tensor, lyrics_BLD: Tensor, timbre_BTC: Tensor) -> Tensor:
        """The condition [B, S, D], S = lyrics + 1 + caption tokens; `timbre_BTC` is reference latents [B, T, 64]."""
        timbre_B1D = self.timbre_encoder(timbre_BTC)[:, :1]
        return torch.cat((self.lyric_encoder(lyrics_BLD), timbre_B1D, self.text_projector(caption_BLD)), dim=1)


def load_condition_encoder(weights: Weights, dtype: torch.dtype, device: torch.device) -> ConditionEncoder:
    """The condition encoder of a checkpoint (names without `encoder.`)."""
    with torch.device("meta"):
        encoder = ConditionEncoder(weights)
    fill(encoder, weights, dtype, device)
    return encoder.eval()
