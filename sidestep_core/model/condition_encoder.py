"""Condition encoder: caption, lyrics and timbre to the condition that the decoder attends to.

Training uses the condition that the decoder gets at generation, so this reproduces, to token and hidden state,

    comfyui     ComfyUI: unlimited text, no sliding windows in the encoders, its closing tokens masked
    official    the official program and diffusers: at most 256 tokens of caption and 2048 of lyrics, sliding windows of
                128 in every other layer of the lyric and timbre encoders, and in XL a special token for the timbre

without padding in both.  Shapes: B batch, L text token, D width, T latent frame, C channel, S condition token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import optional
from .attention import Mask, additive_mask, sliding_window
from .layers import AttentionShape, EncoderLayer, RMSNorm, RotaryEmbedding, load_frozen
from .prompts import COMFYUI, OFFICIAL, Prompt
from .weights import Weights

END_OF_TEXT = 151643
"""Id of the token <|endoftext|>."""
CAPTION_TOKENS = 256
LYRICS_TOKENS = 2048
"""Limits of the official program, including its closing token; longer text is truncated."""


class TransformerEncoder(nn.Module):
    """Transformer layers and a final norm, sized by their weights."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        shape = AttentionShape.from_weights(weights)
        mlp = weights.shape("layers.0.mlp.gate_proj.weight")[0]
        self.head_width = shape.head_width
        self.layers = nn.ModuleList(EncoderLayer(shape, mlp) for _ in range(weights.depth()))
        self.norm = RMSNorm(shape.width)

    def encode(self, x_BLD: Tensor, masks: Sequence[Mask | None] = (None,)) -> Tensor:
        """Compute hidden states [B, L, D]; the layers use the masks in turn."""
        rotation = RotaryEmbedding.of(x_BLD.shape[1], self.head_width, x_BLD)
        for number, layer in enumerate(self.layers):
            x_BLD = layer(x_BLD, rotation, masks[number % len(masks)])
        normed: Tensor = self.norm(x_BLD)
        return normed


class Qwen3(TransformerEncoder):
    """Qwen3 text model: token embeddings and causal layers."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        vocabulary, width = weights.shape("embed_tokens.weight")
        self.embed_tokens = nn.Embedding(vocabulary, width)

    def forward(self, ids_BL: Tensor, visible: int) -> Tensor:
        """Compute final hidden states [B, L, D]; only the first `visible` tokens are attended to."""
        x_BLD = self.embed_tokens(ids_BL)
        position = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        visible_LL = (position[None, :] <= position[:, None]) & (position[None, :] < visible)
        return self.encode(x_BLD, (additive_mask(visible_LL, x_BLD),))


class TextEncoder:
    """Text encoder: hidden states of the caption, token embeddings of the lyrics, in float32 as in ComfyUI.

    Qwen3 is built from this package's own blocks; only the tokenizer comes from transformers, so any version will do.
    """

    def __init__(self, weights: Weights, tokenizer_folder: Path, device: torch.device) -> None:
        with optional.imports("transformers", "Reading text"):
            from transformers import Qwen2Tokenizer

        self._device = device
        self._tokenizer = Qwen2Tokenizer.from_pretrained(tokenizer_folder)
        with torch.device("meta"):
            self._model = Qwen3(weights)
        load_frozen(self._model, weights, torch.float32, device)

    def tokenize(self, text: str) -> list[int]:
        """Return token ids, without special tokens at either end."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def caption_ids(self, prompt: Prompt) -> list[int]:
        """Return token ids of the caption text in the prompt's style."""
        return self._ids(prompt.caption_text, prompt.style, CAPTION_TOKENS)

    def lyrics_ids(self, prompt: Prompt) -> list[int]:
        """Return token ids of the lyrics text in the prompt's style."""
        return self._ids(prompt.lyrics_text, prompt.style, LYRICS_TOKENS)

    def _ids(self, text: str, style: str, limit: int) -> list[int]:
        ids = self.tokenize(text)
        return [*ids[:limit - 1], END_OF_TEXT] if style == OFFICIAL else ids

    @torch.no_grad()
    def encode_caption(self, prompt: Prompt) -> Tensor:
        """Compute the final hidden states [1, L, D] of the caption text.

        ComfyUI masks keys from the first <|endoftext|> on, so the closing tokens attend only to the text.
        """
        ids = self.caption_ids(prompt)
        visible = len(ids) if prompt.style == OFFICIAL else ids.index(END_OF_TEXT)
        hidden: Tensor = self._model(torch.tensor([ids], device=self._device), visible=visible)
        return hidden

    def embed_lyrics(self, prompt: Prompt) -> Tensor:
        """Return the token embeddings [1, L, D] of the lyrics text, the input of the lyric encoder."""
        return self.embed(self.lyrics_ids(prompt))

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Return token embeddings [1, L, D]."""
        embeddings: Tensor = self._model.embed_tokens(torch.tensor([list(ids)], device=self._device))
        return embeddings


class ProjectedEncoder(TransformerEncoder):
    """Linear projection of the input, then the layers; `windowed`: sliding-window attention of 128 in every other
    layer, from the first on."""

    def __init__(self, weights: Weights, *, windowed: bool = False) -> None:
        super().__init__(weights)
        width, source = weights.shape("embed_tokens.weight")
        self.embed_tokens = nn.Linear(source, width)
        self.windowed = windowed

    def forward(self, source_BLD: Tensor) -> Tensor:
        return self.encode_projected(self.embed_tokens(source_BLD))

    def encode_projected(self, x_BLD: Tensor) -> Tensor:
        """Compute hidden states of the projected input."""
        return self.encode(x_BLD, (sliding_window(x_BLD.shape[1], x_BLD), None) if self.windowed else (None,))


class LyricEncoder(ProjectedEncoder):
    """Token embeddings of the lyrics [B, L, D] -> hidden states [B, L, D]."""


class TimbreEncoder(ProjectedEncoder):
    """Reference latents [B, T, 64] -> timbre token [B, 1, D], the hidden state of the first position.

    The official XL models prepend a special token.  2B files hold such a token too, unused; diffusers and ComfyUI leave
    it out of XL as well.
    """

    def __init__(self, weights: Weights, *, windowed: bool = False, special_token: bool = False) -> None:
        super().__init__(weights, windowed=windowed)
        shape = weights.shape("special_token") if special_token else ()
        self.special_token = nn.Parameter(torch.empty(shape)) if special_token else None

    def forward(self, source_BLD: Tensor) -> Tensor:
        x_BLD = self.embed_tokens(source_BLD)
        if self.special_token is not None:
            x_BLD = torch.cat((self.special_token.expand(len(source_BLD), -1, -1), x_BLD), dim=1)
        return self.encode_projected(x_BLD)[:, :1]


class ConditionEncoder(nn.Module):
    """Pack lyrics, one timbre token and caption into the condition, in this order."""

    def __init__(self, weights: Weights, *, windowed: bool, timbre_token: bool) -> None:
        super().__init__()
        width, text_width = weights.shape("text_projector.weight")
        self.text_projector = nn.Linear(text_width, width, bias=False)
        self.lyric_encoder = LyricEncoder(weights.under("lyric_encoder."), windowed=windowed)
        self.timbre_encoder = TimbreEncoder(weights.under("timbre_encoder."), windowed=windowed,
                                            special_token=timbre_token)

    def forward(self, caption_BLD: Tensor, lyrics_BLD: Tensor, timbre_BTC: Tensor) -> Tensor:
        """Compute the condition [B, S, D], S = lyrics + 1 + caption tokens, with reference latents [B, T, 64]."""
        return self.pack(caption_BLD, self.lyric_encoder(lyrics_BLD), self.timbre_encoder(timbre_BTC))

    def pack(self, caption_BLD: Tensor, lyrics_BLD: Tensor, timbre_B1D: Tensor) -> Tensor:
        """Pack the condition [B, S, D] from caption states, encoded lyrics and a timbre token."""
        return torch.cat((lyrics_BLD, timbre_B1D, self.text_projector(caption_BLD)), dim=1)


def load_condition_encoder(weights: Weights, dtype: torch.dtype, device: torch.device, *, style: str = COMFYUI,
                           timbre_token: bool = False) -> ConditionEncoder:
    """Load the condition encoder of a checkpoint (names without `encoder.`), in this style.

    `timbre_token`: the checkpoint is XL, whose official program prepends a special token to the timbre.  For 2B the
    official style is verified against diffusers.  diffusers leaves out XL's token: there it is verified against
    diffusers with the token prepended, as in the official XL code, not against that code itself.
    """
    official = style == OFFICIAL
    with torch.device("meta"):
        encoder = ConditionEncoder(weights, windowed=official, timbre_token=official and timbre_token)
    load_frozen(encoder, weights, dtype, device)
    return encoder.eval()
