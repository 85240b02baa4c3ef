"""How a dataset's gradient is measured: every setting of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..adapters.config import AttentionType
from ..config import Config, require
from ..training.config import TrainConfig
from .result import Score

FEWEST_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class EstimateConfig(Config):
    """Which modules are scored, by what, and on how much of the dataset."""

    score: Score = "signal"
    """signal: how much of the gradient all samples agree on, for how much they differ in each direction, which is what
    AdamW can use.  gain: how much the loss falls to first order by plain descent on a LoRA there.  gradient_norm: mean
    length of the weight's gradient; the same per square root of the weight's size; fisher: mean square of its elements.
    """
    estimate_batches: int = 0
    """Samples to measure at most; fewer where the ranking is stable before.  0: ten of each song, 24 to 400 in all."""
    attention_type: AttentionType = "both"
    target_mlp: bool = True
    """Also score gate, up and down projection of every MLP."""
    chunk_duration: float = 60.0
    """Of each song a random window of so many seconds is measured; 0 measures whole songs."""
    seed: int = 42
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps or xpu."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.estimate_batches == 0 or self.estimate_batches >= FEWEST_BATCHES,
                f"estimate_batches must be 0 (automatic) or at least {FEWEST_BATCHES}, got {self.estimate_batches}.")
        require(self.chunk_duration == 0 or self.chunk_duration >= 1,
                f"chunk_duration must be 0 (whole songs) or at least 1, got {self.chunk_duration}.")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}.")

    def training(self) -> TrainConfig:
        """The training whose samples, windows, times and noise are measured: one sample a step, no caption dropped."""
        return TrainConfig(batch_size=1, gradient_accumulation=1, heldout_songs=0, cfg_ratio=0.0, seed=self.seed,
                           chunk_duration=self.chunk_duration, max_steps=1_000_000, device=self.device,
                           precision=self.precision)
