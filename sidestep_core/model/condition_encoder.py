"""From caption, lyrics and timbre to the condition that the decoder attends to, exactly as a sampler is fed it.

What counts is what the decoder will be fed when people generate, so this reproduces, to token and hidden state,

    comfyui     ComfyUI: no limit on words, no windows in the encoders, its closing tokens masked
    official    the official program and diffusers: 256 tokens of caption and 2048 of lyrics at most, windows of 128 in
                every other layer of the lyric and timbre encoders, and in XL a token of its own that reads the timbre

and in both nothing is padded.  Shapes: B batch, L text token, D width, T latent frame, C channel, S condition token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import optional
from .layers import AttentionShape, EncoderLayer, Mask, RMSNorm, Rotation, additive, fill, sliding_window
from .prompts import COMFYUI, OFFICIAL, Prompt
from .weights import Weights

END_OF_TEXT = 151643
"""Token id of <|endoftext|>."""
CAPTION_TOKENS = 256
LYRICS_TOKENS = 2048
"""The most that the official program reads, its closing token included; what is longer is cut."""


class SequenceEncoder(nn.Module):
    """Transformer layers over the whole sequence and a final norm, sized by their weights."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        shape = AttentionShape.read(weights)
        mlp = weights.shape("layers.0.mlp.gate_proj.weight")[0]
        self.head_width = shape.head_width
        self.layers = nn.ModuleList(EncoderLayer(shape, mlp) for _ in range(weights.depth()))
        self.norm = RMSNorm(shape.width)

    def encode(self, x_BLD: Tensor, masks: Sequence[Mask | None] = (None,)) -> Tensor:
        """Hidden states [B, L, D]; the layers take the masks in turns."""
        rotation = Rotation.of(x_BLD.shape[1], self.head_width, x_BLD)
        for number, layer in enumerate(self.layers):
            x_BLD = layer(x_BLD, rotation, masks[number % len(masks)])
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
        return self.encode(x_BLD, (additive(seen, x_BLD),))


class TextEncoder:
    """Tokens of a prompt; hidden states of its caption, bare embeddings of its lyrics, in float32 as in the host.

    Qwen3 is built from this package's own blocks, which it is made of; transformers is asked for its tokenizer only,
    so that any of its versions will do.
    """

    def __init__(self, weights: Weights, tokenizer_folder: Path, device: torch.device) -> None:
        with optional.imports("transformers", "Reading text"):
            from transformers import Qwen2Tokenizer

        self._device = device
        self._tokenizer = Qwen2Tokenizer.from_pretrained(tokenizer_folder)
        with torch.device("meta"):
            self._model = Qwen3(weights)
        fill(self._model, weights, torch.float32, device)

    def tokens(self, text: str) -> list[int]:
        """Token ids, without any added at either end."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def caption_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of the caption text, as the program of the prompt's style reads them."""
        return self._ids(prompt.caption_text, prompt.style, CAPTION_TOKENS)

    def lyrics_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of the lyrics text, as the program of the prompt's style reads them."""
        return self._ids(prompt.lyrics_text, prompt.style, LYRICS_TOKENS)

    def _ids(self, text: str, style: str, limit: int) -> list[int]:
        ids = self.tokens(text)
        return [*ids[:limit - 1], END_OF_TEXT] if style == OFFICIAL else ids

    @torch.no_grad()
    def caption(self, prompt: Prompt) -> Tensor:
        """Final hidden states [1, L, D] of the caption text.

        In ComfyUI keys from the first <|endoftext|> on are masked, so the closing tokens see only the text.
        """
        ids = self.caption_ids(prompt)
        visible = len(ids) if prompt.style == OFFICIAL else ids.index(END_OF_TEXT)
        hidden: Tensor = self._model(torch.tensor([ids], device=self._device), visible=visible)
        return hidden

    def lyrics(self, prompt: Prompt) -> Tensor:
        """Embedding rows [1, L, D] of the lyrics text; the lyric encoder is what reads them."""
        return self.rows(self.lyrics_ids(prompt))

    @torch.no_grad()
    def rows(self, ids: Sequence[int]) -> Tensor:
        """Embedding rows [1, L, D] of tokens."""
        rows: Tensor = self._model.embed_tokens(torch.tensor([list(ids)], device=self._device))
        return rows


class ProjectedEncoder(SequenceEncoder):
    """A projection of the input, then the layers; `windowed`: in every other layer, from the first on, positions at
    most 128 apart see each other."""

    def __init__(self, weights: Weights, *, windowed: bool = False) -> None:
        super().__init__(weights)
        width, source = weights.shape("embed_tokens.weight")
        self.embed_tokens = nn.Linear(source, width)
        self.windowed = windowed

    def forward(self, source_BLD: Tensor) -> Tensor:
        return self.read(self.embed_tokens(source_BLD))

    def read(self, x_BLD: Tensor) -> Tensor:
        """The layers' hidden states of what has been projected."""
        return self.encode(x_BLD, (sliding_window(x_BLD.shape[1], x_BLD), None) if self.windowed else (None,))


class TimbreTokenEncoder(ProjectedEncoder):
    """A token of its own before the reference latents reads their timbre: the official XL models.

    2B files hold such a token too, which nothing uses; diffusers and ComfyUI leave it out of XL as well.
    """

    def __init__(self, weights: Weights, *, windowed: bool = False) -> None:
        super().__init__(weights, windowed=windowed)
        self.special_token = nn.Parameter(torch.empty(weights.shape("special_token")))

    def forward(self, source_BLD: Tensor) -> Tensor:
        token_B1D = self.special_token.expand(len(source_BLD), -1, -1)
        return self.read(torch.cat((token_B1D, self.embed_tokens(source_BLD)), dim=1))


class ConditionEncoder(nn.Module):
    """Packs lyrics, one timbre token and caption into the condition, in this order."""

    def __init__(self, weights: Weights, *, windowed: bool, timbre_token: bool) -> None:
        super().__init__()
        width, text_width = weights.shape("text_projector.weight")
        self.text_projector = nn.Linear(text_width, width, bias=False)
        self.lyric_encoder = ProjectedEncoder(weights.under("lyric_encoder."), windowed=windowed)
        reader = TimbreTokenEncoder if timbre_token else ProjectedEncoder
        self.timbre_encoder = reader(weights.under("timbre_encoder."), windowed=windowed)

    def forward(self, caption_BLD: Tensor, lyrics_BLD: Tensor, timbre_BTC: Tensor) -> Tensor:
        """The condition [B, S, D], S = lyrics + 1 + caption tokens; `timbre_BTC` is reference latents [B, T, 64]."""
        return self.pack(caption_BLD, self.lyric_encoder(lyrics_BLD), self.timbre(timbre_BTC))

    def timbre(self, timbre_BTC: Tensor) -> Tensor:
        """The timbre token [B, 1, D] of reference latents: what the first position says."""
        token_B1D: Tensor = self.timbre_encoder(timbre_BTC)[:, :1]
        return token_B1D

    def pack(self, caption_BLD: Tensor, lyrics_BLD: Tensor, timbre_B1D: Tensor) -> Tensor:
        """The condition [B, S, D] of caption states, of lyrics and of a timbre that have been encoded."""
        return torch.cat((lyrics_BLD, timbre_B1D, self.text_projector(caption_BLD)), dim=1)


def load_condition_encoder(weights: Weights, dtype: torch.dtype, device: torch.device, *, style: str = COMFYUI,
                           timbre_token: bool = False) -> ConditionEncoder:
    """The condition encoder of a checkpoint (names without `encoder.`), to be run as a program of this style does.

    `timbre_token`: the checkpoint is XL, whose official program gives the timbre a token of its own.  For 2B the
    official style is proven against diffusers.  diffusers leaves out XL's token: there it is proven against diffusers
    with the token put in front, as the official XL code does, not against that code itself.
    """
    official = style == OFFICIAL
    with torch.device("meta"):
        encoder = ConditionEncoder(weights, windowed=official, timbre_token=official and timbre_token)
    fill(encoder, weights, dtype, device)
    return encoder.eval()
