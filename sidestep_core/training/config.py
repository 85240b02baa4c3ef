"""Settings of a training, with Side-Step's defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..config import BasePrecision, Config, Precision, require
from ..model.attention import Choice
from ..model.compilation import Choice as Compile
from ..model.flow_matching import FRAMES_PER_SECOND

Optimizer = Literal["adamw", "adamw8bit", "adafactor", "prodigy", "adamw_schedulefree"]
Schedule = Literal["auto", "cosine", "cosine_restarts", "linear", "constant", "constant_with_warmup"]
TimestepMode = Literal["auto", "continuous", "logit_normal", "discrete", "sampler"]
TimestepSampling = Literal["stratified", "independent"]
CropLyrics = Literal["timed", "estimated", "whole"]
TimestepPreset = Literal["model", "detail", "structure", "wide", "tight", "custom"]
DiscreteShift = Literal["1", "2", "3", "mixed"]
LossWeighting = Literal["none", "min_snr", "min_snr_flow"]
ContextMode = Literal["silence", "codes", "mixed"]
Checkpointing = Literal["auto", "on", "off"]
Offload = Literal["auto", "on", "off"]
Publish = Literal["last", "best"]
Devices = Literal["one", "all"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Settings of a training as people give them; None and "auto" are settled by `resolve.resolve`.

    The unit of time is the optimizer step.
    """

    max_steps: int = 1000
    epochs: int = 0
    """Length of the run in passes over the songs; 0: max_steps counts."""

    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-4
    """prodigy finds the rate itself and always runs at 1.0."""
    schedule: Schedule = "auto"
    """auto: cosine, or constant with prodigy.  adamw_schedulefree averages its weights instead, and always runs at
    constant_with_warmup."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises from 10 % to 100 %; at most a tenth of the run."""
    restarts: int = 4
    """Number of cosines in a run of schedule cosine_restarts."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    batch_size: int = 1
    """Samples per forward pass; only samples of equal length share one, so nothing is ever padded."""
    gradient_accumulation: int = 4
    """Forward passes per optimizer step."""
    ema_decay: float = 0.0
    """Decay of the moving average of the adapter's weights, which is then measured and published; 0: no average."""

    timestep_mode: TimestepMode = "auto"
    """continuous: the model's own law, the larger of two logit-normal draws.  logit_normal: one draw.  discrete: the
    eight times of turbo's sampler.  sampler: those of a sampler of many steps.  auto: discrete on turbo, else
    continuous."""
    timestep_preset: TimestepPreset = "model"
    """Mean and deviation of the logit-normal draws: the checkpoint's own, one of Side-Step's, or the two below."""
    timestep_mu: float = -0.4
    timestep_sigma: float = 1.0
    discrete_shift: DiscreteShift = "mixed"
    """Shift of the sampler whose times discrete and sampler train; mixed draws one of the three each time."""
    loss_weighting: LossWeighting = "none"
    """min_snr damps nearly clean times; min_snr_flow is the same idea derived for a velocity target."""
    snr_gamma: float = 5.0

    cfg_ratio: float | None = None
    """Chance that a sample trains without its caption and lyrics, needed for classifier-free guidance.  None: 0.15, or
    0 with a sampler's times on turbo, which samples without guidance."""
    genre_ratio: float | None = None
    """Chance that a draw uses a song's genre in place of its caption, if it has both.  None: the dataset's own ratio,
    0 unless it was built with one."""
    context_mode: ContextMode = "silence"
    """Source latents in the decoder's context: silence, the song's own audio codes, or a mix of both."""
    codes_ratio: float = 0.5
    """Chance of codes if context_mode is mixed."""
    chunk_duration: float = 0.0
    """Seconds of the random crop drawn from each song; 0 trains on whole songs."""

    heldout_songs: int | None = None
    """Songs never trained on, for the held-out loss.  All sections of a song are in or out together.  None: one in ten;
    below ten songs the last tenth of each song of 20 s or more instead, if crops are trained, or if early_stopping,
    target_loss or publish judge by it."""
    heldout_every: int = 50
    """Steps between two held-out losses; the first and the last step always have one."""
    early_stopping: int = 0
    """Number of held-out losses, none lower by more than its error, after which the run stops; 0: never."""
    target_loss: float = 0.0
    """Stop when the held-out loss is no higher than this and has stopped falling; 0: never."""
    publish: Publish = "last"
    """Adapter put into the LoRA folder: that of the last step, or that of the lowest held-out loss."""

    save_every: int = 100
    """Steps between two checkpoints of the run."""
    save_minutes: float = 10.0
    """Minutes after which another checkpoint is saved, whatever the steps; 0: only save_every counts."""
    keep_checkpoints: int = 2
    """Number of latest checkpoints that stay; 0 keeps all."""
    tensorboard: bool = False
    log_every: int = 10
    """Steps between two entries of loss and learning rate in TensorBoard."""
    log_heavy_every: int = 50
    """Steps between two entries of gradient norms per layer and of the timestep histogram in TensorBoard."""
    preview_every: int = 0
    """Steps between two previews generated with the adapter so far; 0: none."""
    preview_caption: str = ""
    """Caption of the previews; empty takes that of the first song."""
    preview_lyrics: str = ""
    preview_seconds: float = 20.0

    shift: float | None = None
    """Shift for sampling with the adapter, used by previews and metadata only.  None: turbo 3, base and sft 1."""
    inference_steps: int | None = None
    """Steps for sampling with the adapter, used by previews and metadata only.  None: turbo 8, base and sft 50."""

    seed: int = 42
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps or xpu."""
    precision: Precision = "auto"
    """Precision of the frozen base model; auto: bf16 on accelerators that have it, else fp32. The adapter is always
    fp32."""
    gradient_checkpointing: Checkpointing = "auto"
    """Recompute layers in the backward pass: much less memory, about a third more time, the same numbers.  auto: as
    many layers as the free memory asks for."""
    attention: Choice = "auto"
    """Kernel of the attention; see model.attention.  auto: the fastest that runs on the device and is right there."""

    timestep_sampling: TimestepSampling = "stratified"
    """stratified: the times of a step, and those of a song from step to step, are spread evenly over their
    distribution.  independent: every time is drawn for itself.  The distribution is the same."""
    preserve: float = 0.0
    """Chance that a draw trains the adapter to change nothing, at a sampler's times and without the trigger word: the
    target is the prediction of the model without the adapter."""
    guidance: float = 0.0
    """Scale of the guidance that is built into a distilled model, which its targets then have too: the prediction
    without condition and without adapter, plus the scale times the rest.  0: as recorded."""
    base_precision: BasePrecision = "as_file"
    """Precision in which the frozen base model is held; its products are computed in `precision`.  as_file: fp8 and
    int8 as in the file, unpacked layer by layer, everything else in `precision`."""
    offload: Offload = "auto"
    """Keep frozen layers in host memory and copy them to the device when they are needed: less memory, more time, the
    same numbers.  auto: as many layers as do not fit with every layer recomputed."""
    allow_fewer_bits: bool = False
    """Hold the base model in fewer bits if memory runs out and nothing else is left; this changes the numbers."""

    crop_lyrics: CropLyrics = "timed"
    """Lyrics that a crop is told.  timed: those sung in it where they have times, else all of the song's.  estimated:
    without times, as large a share of the lines as the crop is of the song.  whole: all, whatever is sung."""
    lyrics_dropout: float = 0.0
    """Chance that a draw is told no lyrics, but its caption."""
    caption_dropout: float = 0.0
    """Chance that a draw is told no caption, but its lyrics."""
    lora_plus_ratio: float = 0.0
    """Learning rate of a LoRA's B over that of its A (LoRA+, arXiv 2402.12354); lengths of DoRA have that of A.  0: the
    same for both."""
    devices: Devices = "one"
    """all: also the machine's other devices of the same type, each in a process of its own; see parallel/launch.py."""
    compile: Compile = "off"
    """Compile the decoder layer: fewer kernels, the same numbers but for rounding.  auto: on CUDA, for long runs, where
    a compiler is; see model.compilation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_steps", "restarts", "batch_size", "gradient_accumulation", "heldout_every", "save_every",
                     "log_every", "log_heavy_every"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("epochs", "warmup_steps", "weight_decay", "seed", "early_stopping", "target_loss",
                     "save_minutes", "keep_checkpoints", "preview_every"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("learning_rate", "max_grad_norm", "timestep_sigma", "snr_gamma"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}.")
        for name, share in (("codes_ratio", self.codes_ratio), ("preserve", self.preserve),
                            ("lyrics_dropout", self.lyrics_dropout), ("caption_dropout", self.caption_dropout)):
            require(0 <= share <= 1, f"{name} must lie between 0 and 1, got {share}.")
        require(self.guidance == 0 or self.guidance >= 1,
                f"guidance must be 0 (off) or at least 1, got {self.guidance}.")
        require(self.lora_plus_ratio == 0 or self.lora_plus_ratio >= 1,
                f"lora_plus_ratio must be 0 (off) or at least 1, got {self.lora_plus_ratio}.")
        self._check_automatic()
        require(0 <= self.ema_decay < 1, f"ema_decay must be at least 0 and below 1, got {self.ema_decay}.")
        require(self.chunk_duration == 0 or self.chunk_duration >= 1,
                f"chunk_duration must be 0 (whole songs) or at least 1, got {self.chunk_duration}.")
        require(1 <= self.preview_seconds <= 600, f"preview_seconds must be 1 to 600, got {self.preview_seconds}.")

    def _check_automatic(self) -> None:
        """Check the settings that None leaves to the model or the dataset."""
        for name, value in (("cfg_ratio", self.cfg_ratio), ("genre_ratio", self.genre_ratio)):
            require(value is None or 0 <= value <= 1,
                    f"{name} must lie between 0 and 1, or be left out (automatic), got {value}.")
        require(self.heldout_songs is None or self.heldout_songs >= 0,
                f"heldout_songs must be 0 or more, or be left out (automatic), got {self.heldout_songs}.")
        require(self.shift is None or self.shift > 0,
                f"shift must be above 0, or be left out (automatic), got {self.shift}.")
        require(self.inference_steps is None or self.inference_steps >= 1,
                f"inference_steps must be at least 1, or be left out (automatic), got {self.inference_steps}.")

    @property
    def chunk_frames(self) -> int:
        """Length of the crop in latent frames; 0 for whole songs."""
        return round(self.chunk_duration * FRAMES_PER_SECOND)

    @property
    def samples_per_step(self) -> int:
        return self.batch_size * self.gradient_accumulation

    def total_steps(self, epoch: int) -> int:
        """Optimizer steps of a run whose epoch has `epoch` draws; the last step takes the rest of the last epoch."""
        return -(-self.epochs * epoch // self.samples_per_step) if self.epochs else self.max_steps


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(TrainConfig):
    """Settings of one training on one checkpoint and dataset, as `resolve.resolve` makes them: none is automatic.

    The times' mean and deviation are those in use, whatever the preset.  Device and precision stay as requested: the
    chosen ones are in `Resolved`, so that a run continued on another device is the same run.
    """

    schedule: Literal["cosine", "cosine_restarts", "linear", "constant", "constant_with_warmup"] = field()
    timestep_mode: Literal["continuous", "logit_normal", "discrete", "sampler"] = field()
    cfg_ratio: float = field()
    genre_ratio: float = field()
    heldout_songs: int = field()
    heldout_sections: bool = field()
    """True if the ends of songs are held out, instead of songs."""
    shift: float = field()
    inference_steps: int = field()
