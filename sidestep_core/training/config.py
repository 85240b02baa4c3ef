"""How an adapter is trained: every setting, with Side-Step's defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import Config, Precision, require
from ..model.flow_matching import FRAMES_PER_SECOND

Optimizer = Literal["adamw", "adamw8bit", "adafactor", "prodigy"]
Schedule = Literal["cosine", "cosine_restarts", "linear", "constant", "constant_with_warmup"]
TimestepMode = Literal["auto", "continuous", "logit_normal", "discrete"]
TimestepPreset = Literal["model", "detail", "structure", "wide", "tight", "custom"]
DiscreteShift = Literal["1", "2", "3", "mixed"]
LossWeighting = Literal["none", "min_snr", "min_snr_flow"]
ContextMode = Literal["silence", "codes", "mixed"]
Checkpointing = Literal["auto", "on", "off"]
Publish = Literal["last", "best"]

AUTO = -1.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How an adapter is trained.  The unit is the optimizer step."""

    max_steps: int = 1000
    epochs: int = 0
    """Length of the run in visits of every song; 0: max_steps counts, else this does."""

    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-4
    """prodigy finds the rate itself and always runs at 1.0."""
    schedule: Schedule = "cosine"
    """prodigy always runs at constant."""
    warmup_steps: int = 100
    """The learning rate climbs from 10 % to 100 % over these; never more than a tenth of the run."""
    restarts: int = 4
    """How many cosines a run of schedule cosine_restarts has."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    batch_size: int = 1
    """Samples per forward pass; only samples of equal length share one, so nothing is ever padded."""
    gradient_accumulation: int = 4
    """Forward passes per optimizer step."""
    ema_decay: float = 0.0
    """Of the moving average of the adapter's weights, which is what is measured and published then; 0 keeps none."""

    timestep_mode: TimestepMode = "auto"
    """continuous: the model's own law, the larger of two logit-normal draws.  logit_normal: one draw.  discrete: the
    eight times of turbo's sampler.  auto: continuous."""
    timestep_preset: TimestepPreset = "model"
    """Mean and deviation of the logit-normal draws: the checkpoint's own, one of Side-Step's, or the two below."""
    timestep_mu: float = -0.4
    timestep_sigma: float = 1.0
    discrete_shift: DiscreteShift = "3"
    """Which of turbo's tables; mixed draws one of the three each time."""
    loss_weighting: LossWeighting = "none"
    """min_snr damps nearly clean times; min_snr_flow is the same idea derived for a velocity target."""
    snr_gamma: float = 5.0

    cfg_ratio: float = AUTO
    """Chance that a sample trains without its caption and lyrics, which classifier-free guidance needs.  -1: 0.15, or
    0 where times are discrete on turbo, which samples without guidance."""
    genre_ratio: float = AUTO
    """Chance that a visit uses a song's genre in place of its caption, where it has both.  -1: what the dataset says,
    which is 0 where nobody said anything."""
    context_mode: ContextMode = "silence"
    """What the decoder is told about the output: silence, the song's own audio codes, or each of them at times."""
    codes_ratio: float = 0.5
    """Chance of codes where context_mode is mixed."""
    chunk_duration: float = 0.0
    """Train on a random window of so many seconds of each song, another one each visit; 0 trains on whole songs."""
    max_latent_length: int = 0
    """The same window in latent frames (25 per second); where it is not 0 it counts instead of chunk_duration."""

    heldout_songs: int = -1
    """Songs never trained on, for the held-out loss; -1: one in ten, none below four songs.  All sections of a song
    are in or out together."""
    heldout_every: int = 50
    """Steps between two held-out losses; the first step and the last always have one."""
    early_stopping: int = 0
    """Stop after so many held-out losses without a new lowest; 0 never does."""
    target_loss: float = 0.0
    """Stop when the held-out loss is no higher than this and has stopped falling; 0 never does."""
    publish: Publish = "last"
    """Which adapter is put into the LoRA folder: that of the last step, or that of the lowest held-out loss."""

    save_every: int = 100
    """Steps between two checkpoints of the run."""
    save_minutes: float = 10.0
    """Minutes after which there is another checkpoint, whatever the steps; 0: only save_every counts."""
    keep_checkpoints: int = 2
    """So many of the latest checkpoints stay; 0 keeps all."""
    tensorboard: bool = False
    log_every: int = 10
    """Steps between two entries of loss and learning rate in TensorBoard."""
    log_heavy_every: int = 50
    """Steps between two entries of gradient norms per layer and of the timestep histogram in TensorBoard."""
    preview_every: int = 0
    """Steps between two short pieces generated with the adapter so far; 0 generates none."""
    preview_caption: str = ""
    """What they are to sound like; empty takes the caption of the first song."""
    preview_lyrics: str = ""
    preview_seconds: float = 20.0

    shift: float = 0.0
    """Of sampling with the adapter, for previews and metadata, never for training; 0: turbo 3, base and sft 1."""
    inference_steps: int = 0
    """Of sampling with the adapter, for previews and metadata, never for training; 0: turbo 8, base and sft 50."""

    seed: int = 42
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps or xpu."""
    precision: Precision = "auto"
    """Of the frozen base model; auto is bf16 on accelerators that have it, else fp32. The adapter is always fp32."""
    gradient_checkpointing: Checkpointing = "auto"
    """Recompute layers in the backward pass: much less memory, about a third more time, the same numbers.  auto: as
    many layers as the free memory asks for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_steps", "restarts", "batch_size", "gradient_accumulation", "heldout_every", "save_every",
                     "log_every", "log_heavy_every"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("epochs", "warmup_steps", "weight_decay", "seed", "early_stopping", "target_loss", "shift",
                     "save_minutes", "keep_checkpoints", "preview_every", "inference_steps"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("learning_rate", "max_grad_norm", "timestep_sigma", "snr_gamma"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}.")
        require(0 <= self.codes_ratio <= 1, f"codes_ratio must lie between 0 and 1, got {self.codes_ratio}.")
        for name in ("cfg_ratio", "genre_ratio"):
            require(getattr(self, name) == AUTO or 0 <= getattr(self, name) <= 1,
                    f"{name} must lie between 0 and 1, or be -1 (automatic), got {getattr(self, name)}.")
        require(0 <= self.ema_decay < 1, f"ema_decay must be at least 0 and below 1, got {self.ema_decay}.")
        require(self.chunk_duration == 0 or self.chunk_duration >= 1,
                f"chunk_duration must be 0 (whole songs) or at least 1, got {self.chunk_duration}.")
        require(self.max_latent_length == 0 or self.max_latent_length >= FRAMES_PER_SECOND,
                f"max_latent_length must be 0 (chunk_duration counts) or at least {FRAMES_PER_SECOND}, got "
                f"{self.max_latent_length}.")
        require(self.heldout_songs >= -1, f"heldout_songs must be -1 (automatic) or more, got {self.heldout_songs}.")
        require(5 <= self.preview_seconds <= 600, f"preview_seconds must be 5 to 600, got {self.preview_seconds}.")

    @property
    def chunk_frames(self) -> int:
        """Length of the window in latent frames; 0 for whole songs."""
        return self.max_latent_length or round(self.chunk_duration * FRAMES_PER_SECOND)

    @property
    def samples_per_step(self) -> int:
        return self.batch_size * self.gradient_accumulation

    def total_steps(self, epoch: int) -> int:
        """Optimizer steps of the whole run, where an epoch has so many visits; the last step takes what is left of the
        last epoch."""
        return -(-self.epochs * epoch // self.samples_per_step) if self.epochs else self.max_steps
