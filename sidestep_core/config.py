"""Every setting of every stage.  A config that exists is valid; it travels as JSON and comes back equal.

Defaults are Side-Step's (rank 64, alpha 128, learning rate 1e-4, accumulation 4, CFG dropout 0.15, seed 42).
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from .errors import ConfigError

Attention = Literal["both", "self", "cross"]
TriggerPosition = Literal["prepend", "append", "replace"]
Precision = Literal["auto", "bf16", "fp32"]
Schedule = Literal["cosine", "constant"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _fits(value: object, annotation: Any) -> bool:
    """Whether a JSON value may stand in a field of this type (an int may stand for a float, never a bool)."""
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    if get_origin(annotation) is types.UnionType:
        return any(_fits(value, option) for option in get_args(annotation))
    if get_origin(annotation) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(annotation)[0]) for item in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the configs share: types are checked on creation, JSON goes in and out, unknown keys are named."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            _require(not isinstance(value, float) or math.isfinite(value), f"{field.name} must be finite, got {value}.")
            if not _fits(value, hints[field.name]):
                expected = getattr(hints[field.name], "__name__", None) or str(hints[field.name])
                choices = get_args(hints[field.name]) if get_origin(hints[field.name]) is Literal else expected
                raise ConfigError(f"{field.name} must be {choices}, got {value!r}.")

    def to_json(self) -> dict[str, Any]:
        """A dict that json.dumps accepts and `from_json` turns back into an equal config."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Raises ConfigError naming every key this config does not have."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"{cls.__name__} has no setting {', '.join(unknown)}. Remove it or correct its name.")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(Config):
    """How a folder of songs becomes a dataset."""

    trigger_word: str = ""
    """Trigger word put into every caption; a song's own tag (sidecar) takes its place."""
    trigger_position: TriggerPosition = "prepend"
    """Where the trigger word goes; `replace` makes it the whole caption."""
    max_seconds: float = 0.0
    """Only the first seconds of longer songs are used; 0 uses whole songs."""
    tile_seconds: float = 10.0
    """How much audio the VAE encodes at once; affects memory, never the result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.max_seconds == 0 or self.max_seconds >= 1,
                 f"max_seconds must be 0 (whole songs) or at least 1, got {self.max_seconds}.")
        _require(self.tile_seconds >= 1, f"tile_seconds must be at least 1, got {self.tile_seconds}.")
        _require(self.trigger_position != "replace" or bool(self.trigger_word.strip()),
                 "trigger_position is 'replace' but trigger_word is empty, so every caption would be empty. Set one.")


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Config):
    """Low-rank adapters on the decoder's attention projections: W + (alpha / rank) * B @ A."""

    rank: int = 64
    alpha: float = 128.0
    """Scale of the learned change is alpha / rank; it is written into the file, so strength 1.0 means this."""
    dropout: float = 0.1
    """Chance that an input feature of an adapter is dropped in a training step."""
    attention: Attention = "both"
    """self: how moments of the music relate; cross: how they follow caption and lyrics; both."""
    projections: tuple[str, ...] = PROJECTIONS

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.rank >= 1, f"rank must be at least 1, got {self.rank}.")
        _require(self.alpha > 0, f"alpha must be above 0, got {self.alpha}.")
        _require(0 <= self.dropout < 1, f"dropout must be at least 0 and below 1, got {self.dropout}.")
        unknown = [name for name in self.projections if name not in PROJECTIONS]
        _require(not unknown, f"projections has {', '.join(unknown)}; an attention has {', '.join(PROJECTIONS)}.")
        _require(len(self.projections) > 0, "projections is empty; nothing would be trained. Name at least one.")
        _require(len(set(self.projections)) == len(self.projections),
                 f"projections names one twice: {', '.join(self.projections)}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How an adapter is trained.  The unit is the optimizer step."""

    max_steps: int = 1000
    learning_rate: float = 1e-4
    schedule: Schedule = "cosine"
    warmup_steps: int = 100
    """The learning rate climbs from 10 % to 100 % over these; never more than a tenth of max_steps."""
    batch_size: int = 1
    """Samples per forward pass; only samples of equal length share one, so nothing is ever padded."""
    gradient_accumulation: int = 4
    """Forward passes per optimizer step."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    cfg_ratio: float = 0.15
    """Chance that a sample trains without its caption and lyrics, which classifier-free guidance needs."""
    timestep_mu: float | None = None
    """Logit-normal mean of the timesteps; None takes the checkpoint's own (-0.4)."""
    timestep_sigma: float | None = None
    """Logit-normal deviation of the timesteps; None takes the checkpoint's own (1.0)."""
    crop_seconds: float = 0.0
    """Train on a random window of this length of each song, a new one each visit; 0 trains on whole songs."""
    heldout_songs: int = -1
    """Songs never trained on, for the held-out loss; -1: one in ten, none below four songs."""
    heldout_every: int = 50
    """Steps between two held-out losses; the first step and the last always have one."""
    save_every: int = 100
    """Steps between two checkpoints of the run."""
    seed: int = 42
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps or xpu."""
    precision: Precision = "auto"
    """Of the frozen base model; auto is bf16 on accelerators that have it, else fp32. The adapter is always fp32."""
    gradient_checkpointing: bool = True
    """Recompute each layer in the backward pass: much less memory, about a third more time, the same numbers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_steps", "batch_size", "gradient_accumulation", "heldout_every", "save_every"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("warmup_steps", "weight_decay", "seed", "crop_seconds"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}.")
        _require(self.learning_rate > 0, f"learning_rate must be above 0, got {self.learning_rate}.")
        _require(self.max_grad_norm > 0, f"max_grad_norm must be above 0, got {self.max_grad_norm}.")
        _require(0 <= self.cfg_ratio <= 1, f"cfg_ratio must lie between 0 and 1, got {self.cfg_ratio}.")
        _require(self.timestep_sigma is None or self.timestep_sigma > 0,
                 f"timestep_sigma must be above 0, got {self.timestep_sigma}.")
        _require(self.crop_seconds == 0 or self.crop_seconds >= 1,
                 f"crop_seconds must be 0 (whole songs) or at least 1, got {self.crop_seconds}.")
        _require(self.heldout_songs >= -1, f"heldout_songs must be -1 (automatic) or more, got {self.heldout_songs}.")
