"""Audio codes, five per second: tokenizer and detokenizer of a checkpoint.

ComfyUI's text node generates codes by default, decodes them to latents with the checkpoint's detokenizer, and puts
these in place of silence into the decoder's context; condition and mask stay the same.  The checkpoint's tokenizer
encodes a recording, so that training can use that context too.

Shapes: N code (five frames), T latent frame, P frame of a code, C latent channel, D width, Q digit of a code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from .condition_encoder import ProjectedEncoder
from .flow_matching import FRAMES_PER_CODE
from .layers import load_frozen
from .weights import Weights

LEVELS = (8, 8, 8, 5, 5, 5)
"""Values of each digit of a code, the least significant first; 64,000 codes in all."""
CODES_PER_BATCH = 500
"""Codes computed together, 100 seconds; they are independent, so this affects memory only."""


class FiniteScalarQuantizer(nn.Module):
    """Finite scalar quantisation: vectors to digits and back."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        digits, width = weights.shape("project_in.weight")
        if digits != len(LEVELS):
            raise CheckpointError(f"The audio codes of {weights.label} have {digits} digits, not {len(LEVELS)}; it is "
                                  "not ACE-Step 1.5.")
        self.project_in = nn.Linear(width, digits)
        self.project_out = nn.Linear(digits, width)

    def digits(self, x_ND: Tensor) -> Tensor:
        """Quantise to the nearest value of each digit, int64 [N, Q].

        As in the official model: soft-clamped by tanh once, then rounded in equal steps.  ComfyUI's own quantiser
        applies tanh twice and finds other codes; generation does not use it.
        """
        z_NQ: Tensor = self.project_in(x_ND)
        steps_Q = torch.tensor(LEVELS, device=z_NQ.device) - 1
        reach_Q = 1 + 1 / steps_Q
        clamped_NQ = ((z_NQ / reach_Q).tanh() * reach_Q).clamp(-1, 1)
        return (steps_Q * (clamped_NQ + 1) / 2 + 0.5).floor().long()

    def vectors(self, digits_NQ: Tensor) -> Tensor:
        """Return the vectors [N, D] of digits."""
        steps_Q = torch.tensor(LEVELS, device=digits_NQ.device) - 1
        vectors_ND: Tensor = self.project_out(digits_NQ * (2.0 / steps_Q) - 1)
        return vectors_ND


class AttentionPooler(ProjectedEncoder):
    """Pool five frames to one vector, the hidden state of a special token."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.special_token = nn.Parameter(torch.empty(weights.shape("special_token")))

    def forward(self, frames_NPD: Tensor) -> Tensor:
        token_N1D = self.special_token.expand(len(frames_NPD), -1, -1)
        pooled_ND: Tensor = self.encode(torch.cat((token_N1D, self.embed_tokens(frames_NPD)), dim=1))[:, 0]
        return pooled_ND


class AudioTokenizer(nn.Module):
    """Latents to digits of codes."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        width, channels = weights.shape("audio_acoustic_proj.weight")
        self.audio_acoustic_proj = nn.Linear(channels, width)
        self.attention_pooler = AttentionPooler(weights.under("attention_pooler."))
        self.quantizer = FiniteScalarQuantizer(weights.under("quantizer."))

    def forward(self, latents_NPC: Tensor) -> Tensor:
        """Compute digits [N, Q] of groups of five frames."""
        return self.quantizer.digits(self.attention_pooler(self.audio_acoustic_proj(latents_NPC)))


class AudioDetokenizer(ProjectedEncoder):
    """Vectors of codes to latents: each is repeated for its five frames, which differ by a learned token."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        channels, width = weights.shape("proj_out.weight")
        self.special_tokens = nn.Parameter(torch.empty(weights.shape("special_tokens")))
        self.proj_out = nn.Linear(width, channels)

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Compute latents [N, P, C]."""
        latents_NPC: Tensor = self.proj_out(self.encode(self.embed_tokens(vectors_ND)[:, None] + self.special_tokens))
        return latents_NPC


class AudioCodec(nn.Module):
    """Tokenizer and detokenizer of a checkpoint, in float32: half precision would choose other codes."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.tokenizer = AudioTokenizer(weights.under("tokenizer."))
        self.detokenizer = AudioDetokenizer(weights.under("detokenizer."))

    @torch.no_grad()
    def encode(self, latents_TC: Tensor, silence_TC: Tensor) -> Tensor:
        """Encode latents to codes, int64 [N] below 64,000; the last code is padded with the start of the silence."""
        missing = -len(latents_TC) % FRAMES_PER_CODE
        whole_NPC = torch.cat((latents_TC, silence_TC[:missing])).unflatten(0, (-1, FRAMES_PER_CODE))
        digits_NQ = torch.cat([self.tokenizer(group) for group in whole_NPC.split(CODES_PER_BATCH)])
        return (digits_NQ * _place_values(digits_NQ)).sum(dim=-1)

    @torch.no_grad()
    def decode(self, codes_N: Tensor) -> Tensor:
        """Decode codes to latents [5 N, C]."""
        digits_NQ = codes_N[:, None] // _place_values(codes_N) % torch.tensor(LEVELS, device=codes_N.device)
        vectors_ND = self.tokenizer.quantizer.vectors(digits_NQ)
        return torch.cat([self.detokenizer(group) for group in vectors_ND.split(CODES_PER_BATCH)]).flatten(0, 1)


def _place_values(like: Tensor) -> Tensor:
    """Return the place value of each digit in a code, [Q]."""
    return F.pad(torch.tensor(LEVELS[:-1]).cumprod(0), (1, 0), value=1).to(like.device)


def load_audio_codec(weights: Weights, device: torch.device) -> AudioCodec:
    """Load the tokenizer and detokenizer of a model.  CheckpointError if its file lacks them, as some copies do."""
    for name in ("tokenizer.quantizer.project_in.weight", "detokenizer.special_tokens"):
        if name not in weights.names:
            raise CheckpointError(f"{weights.label} has no weight {name!r}: it was saved without its audio tokenizer, "
                                  "which context_mode 'codes' and 'mixed' need. Choose the complete file of the model, "
                                  "or context_mode 'silence'.")
    frames = weights.shape("detokenizer.special_tokens")[1]
    if frames != FRAMES_PER_CODE:
        raise CheckpointError(f"An audio code of {weights.label} has {frames} frames, not {FRAMES_PER_CODE}; it is not "
                              "ACE-Step 1.5.")
    with torch.device("meta"):
        codec = AudioCodec(weights)
    load_frozen(codec, weights, torch.float32, device)
    return codec.eval()
