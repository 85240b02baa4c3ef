"""From caption, lyrics and timbre to the condition that the decoder attends to, exactly as ComfyUI's sampler makes it.

What counts is what the decoder will be fed when people generate, so this reproduces the host to the token and to the
hidden state: its prompt templates, no padding, no windows and no masks in the encoders, a silent timbre reference as
long as the song.  Shapes: B batch, L text token, D width, T latent frame, C channel, S condition token.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .layers import AttentionShape, EncoderLayer, RMSNorm, Rotation, additive, fill
from .prompts import Prompt
from .weights import Weights

STYLE = "comfyui"
"""Whose conditions these are; recorded with what is made of them."""
END_OF_TEXT = 151643
"""Token id of <|endoftext|>."""


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
