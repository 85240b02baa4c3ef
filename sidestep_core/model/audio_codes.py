"""Audio codes: what ComfyUI's language model writes five times a second, and what the decoder is then shown of them.

ComfyUI's text node makes codes by default, turns them into latents by the checkpoint's detokenizer, and puts these in
the place of silence in the decoder's context; condition and mask are the same with and without them.  The checkpoint's
tokenizer makes codes of a recording, so that a song can be trained on in that context too.

Shapes: N code (five frames), T latent frame, P frame of a code, C latent channel, D width, Q digit of a code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from .condition_encoder import ProjectedEncoder
from .flow_matching import FRAMES_PER_CODE
from .layers import fill
from .weights import Weights

LEVELS = (8, 8, 8, 5, 5, 5)
"""Values of each digit of a code; the first counts least.  64,000 codes in all."""
AT_ONCE = 500
"""Codes that are computed together, 100 seconds; each is by itself, so the number changes memory only."""


class Quantizer(nn.Module):
    """Vectors to digits and back: finite scalar quantisation."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        digits, width = weights.shape("project_in.weight")
        if digits != len(LEVELS):
            raise CheckpointError(f"The audio codes of {weights.label} have {digits} digits, not {len(LEVELS)}; it is "
                                  "not ACE-Step 1.5.")
        self.project_in = nn.Linear(width, digits)
        self.project_out = nn.Linear(digits, width)

    def digits(self, x_ND: Tensor) -> Tensor:
        """The nearest value of each digit, int64 [N, Q].

        As in the official model: soft-clamped by tanh once, then rounded in equal steps.  The host's own quantiser
        takes tanh twice and finds other codes; it is not asked for any when it generates.
        """
        z_NQ: Tensor = self.project_in(x_ND)
        steps_Q = torch.tensor(LEVELS, device=z_NQ.device) - 1
        reach_Q = 1 + 1 / steps_Q
        clamped_NQ = ((z_NQ / reach_Q).tanh() * reach_Q).clamp(-1, 1)
        return (steps_Q * (clamped_NQ + 1) / 2 + 0.5).floor().long()

    def vectors(self, digits_NQ: Tensor) -> Tensor:
        """The vectors [N, D] that digits stand for."""
        steps_Q = torch.tensor(LEVELS, device=digits_NQ.device) - 1
        vectors_ND: Tensor = self.project_out(digits_NQ * (2.0 / steps_Q) - 1)
        return vectors_ND


class Pooler(ProjectedEncoder):
    """Five frames to one vector: a token of its own reads them."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.special_token = nn.Parameter(torch.empty(weights.shape("special_token")))

    def forward(self, frames_NPD: Tensor) -> Tensor:
        token_N1D = self.special_token.expand(len(frames_NPD), -1, -1)
        pooled_ND: Tensor = self.encode(torch.cat((token_N1D, self.embed_tokens(frames_NPD)), dim=1))[:, 0]
        return pooled_ND


class Tokenizer(nn.Module):
    """Latents to codes."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        width, channels = weights.shape("audio_acoustic_proj.weight")
        self.audio_acoustic_proj = nn.Linear(channels, width)
        self.attention_pooler = Pooler(weights.under("attention_pooler."))
        self.quantizer = Quantizer(weights.under("quantizer."))

    def forward(self, latents_NPC: Tensor) -> Tensor:
        """Digits [N, Q] of pieces of five frames."""
        return self.quantizer.digits(self.attention_pooler(self.audio_acoustic_proj(latents_NPC)))


class Detokenizer(ProjectedEncoder):
    """Codes' vectors to latents: each is repeated for its five frames, which tell themselves apart by a token."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        channels, width = weights.shape("proj_out.weight")
        self.special_tokens = nn.Parameter(torch.empty(weights.shape("special_tokens")))
        self.proj_out = nn.Linear(width, channels)

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Latents [N, P, C]."""
        latents_NPC: Tensor = self.proj_out(self.encode(self.embed_tokens(vectors_ND)[:, None] + self.special_tokens))
        return latents_NPC


class AudioCodes(nn.Module):
    """The tokenizer and the detokenizer of a checkpoint, in float32: half precision would choose other codes."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(weights.under("tokenizer."))
        self.detokenizer = Detokenizer(weights.under("detokenizer."))

    @torch.no_grad()
    def of(self, latents_TC: Tensor, silence_TC: Tensor) -> Tensor:
        """A recording's codes, int64 [N] below 64,000; its last code is filled up with the head of the silence."""
        missing = -len(latents_TC) % FRAMES_PER_CODE
        whole_NPC = torch.cat((latents_TC, silence_TC[:missing])).unflatten(0, (-1, FRAMES_PER_CODE))
        digits_NQ = torch.cat([self.tokenizer(piece) for piece in whole_NPC.split(AT_ONCE)])
        return (digits_NQ * _place_values(digits_NQ)).sum(dim=-1)

    @torch.no_grad()
    def latents(self, codes_N: Tensor) -> Tensor:
        """What the decoder is shown of codes: latents [5 N, C]."""
        digits_NQ = codes_N[:, None] // _place_values(codes_N) % torch.tensor(LEVELS, device=codes_N.device)
        vectors_ND = self.tokenizer.quantizer.vectors(digits_NQ)
        return torch.cat([self.detokenizer(piece) for piece in vectors_ND.split(AT_ONCE)]).flatten(0, 1)


def _place_values(like: Tensor) -> Tensor:
    """What each digit counts in a code, [Q]."""
    return F.pad(torch.tensor(LEVELS[:-1]).cumprod(0), (1, 0), value=1).to(like.device)


def load_audio_codes(weights: Weights, device: torch.device) -> AudioCodes:
    """The tokenizer and detokenizer of a model.  CheckpointError where its file holds none, as some copies do."""
    for part in ("tokenizer.quantizer.project_in.weight", "detokenizer.special_tokens"):
        if part not in weights.names:
            raise CheckpointError(f"{weights.label} has no weight {part!r}: it was saved without its audio tokenizer, "
                                  "which context_mode 'codes' and 'mixed' need. Choose the complete file of the model, "
                                  "or context_mode 'silence'.")
    frames = weights.shape("detokenizer.special_tokens")[1]
    if frames != FRAMES_PER_CODE:
        raise CheckpointError(f"An audio code of {weights.label} has {frames} frames, not {FRAMES_PER_CODE}; it is not "
                              "ACE-Step 1.5.")
    with torch.device("meta"):
        codes = AudioCodes(weights)
    fill(codes, weights, torch.float32, device)
    return codes.eval()
