"""Settings of a gradient estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..adapters.config import AttentionType
from ..config import Config, require
from ..training.config import TrainConfig
from .result import Score

MIN_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class EstimateConfig(Config):
    """Modules to score, kind of score, and amount of samples."""

    score: Score = "signal"
    """signal: squared mean gradient, relative to the variation of single samples in each direction, which is what AdamW
    can use.  gain: first-order drop of the loss by plain descent on a LoRA there.  gradient_norm: mean norm of the
    weight's gradient; gradient_norm_per_size: over the square root of the weight's size; fisher: mean square of its
    elements.
    """
    estimate_batches: int = 0
    """Most samples to measure; measuring ends earlier once the ranking is stable.  0: ten of each song, 24 to 400."""
    attention_type: AttentionType = "both"
    target_mlp: bool = True
    """Also score gate, up and down projection of every MLP."""
    chunk_duration: float = 60.0
    """Seconds of the random crop measured in each draw; 0 for whole songs."""
    seed: int = 42
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps or xpu."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.estimate_batches == 0 or self.estimate_batches >= MIN_BATCHES,
                f"estimate_batches must be 0 (automatic) or at least {MIN_BATCHES}, got {self.estimate_batches}.")
        require(self.chunk_duration == 0 or self.chunk_duration >= 1,
                f"chunk_duration must be 0 (whole songs) or at least 1, got {self.chunk_duration}.")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}.")

    def training(self) -> TrainConfig:
        """Return the training whose samples, crops, times and noise are measured: batch size 1, no dropped captions."""
        return TrainConfig(batch_size=1, gradient_accumulation=1, heldout_songs=0, cfg_ratio=0.0, seed=self.seed,
                           chunk_duration=self.chunk_duration, max_steps=1_000_000, device=self.device,
                           precision=self.precision)
