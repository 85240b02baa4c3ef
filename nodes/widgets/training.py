"""Widgets for the settings of a training, with their names and defaults.

Types, choices and defaults come from TrainConfig; tooltips and ranges are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import get_args, get_type_hints

from comfy_api.latest import io

from ...sidestep_core.presets.text import WORDS, spelled
from ...sidestep_core.training.config import TrainConfig
from . import words

OWN = ("max_steps", "learning_rate", "chunk_duration", "seed", "preview_every")
"""Settings that Train LoRA (ACE-Step) has itself; Training Settings has the others."""
BASIC = ("epochs", "optimizer", "schedule", "warmup_steps", "batch_size", "gradient_accumulation", "timestep_mode",
         "cfg_ratio", "heldout_songs", "early_stopping", "publish", "save_every", "preview_caption", "preview_lyrics",
         "preview_seconds", "gradient_checkpointing")
"""Settings of Training Settings that are not folded away as advanced."""
MULTILINE = ("preview_lyrics",)

MANY = 1_000_000


@dataclass(frozen=True)
class Widget:
    """Tooltip of a setting, and the range of a number."""

    tooltip: str
    low: float = 0
    high: float = 1
    step: float = 1
    round: float | None = None


WIDGETS: Mapping[str, Widget] = {
    "max_steps": Widget(
        "Length of the training in optimizer steps. 1000 is a good first try; listen, then take more if the style is "
        "weak. Another number of steps is another run, from the start.", 1, MANY),
    "epochs": Widget(
        "Length of the training in passes over all songs, in place of max_steps on Train LoRA (ACE-Step)."),
    "optimizer": Widget(
        "adamw: the usual one. adamw8bit: a quarter of the memory for its state (pip install bitsandbytes). adafactor: "
        "hardly any state. prodigy finds the learning rate itself: it always runs at 1.0 and a constant schedule (pip "
        "install prodigyopt). A missing package is an error."),
    "learning_rate": Widget(
        "Size of each step. 0.0001 is usual; lower it if the loss jumps. prodigy always runs at 1.0.",
        1e-8, 1.0, 1e-6, 1e-8),
    "schedule": Widget(
        "Course of the learning rate after warm-up. cosine and linear fall to 1 % at the end; cosine_restarts does so "
        "several times; constant and constant_with_warmup stay. prodigy is always constant."),
    "warmup_steps": Widget(
        "Steps in which the learning rate rises from 10 % to 100 %; at most a tenth of the run.", 0, 100_000),
    "restarts": Widget("Number of cosines with schedule cosine_restarts.", 1, 100),
    "weight_decay": Widget("Strength of the pull of the adapter's weights towards zero.", 0.0, 1.0, 0.001),
    "max_grad_norm": Widget("Largest norm of a gradient; larger ones are scaled down to it.", 0.01, 1000.0, 0.01),
    "batch_size": Widget(
        "Songs per forward pass, if their lengths agree (chunk_duration makes them agree); others run one by one. "
        "Costs memory.", 1, 64),
    "gradient_accumulation": Widget(
        "Forward passes per step. More makes each step steadier and slower, and costs no memory.", 1, 256),
    "ema_decay": Widget(
        "Decay of a moving average of the adapter, which is then measured and published: 0.99 to 0.999 for runs of "
        "hundreds to thousands of steps, or off."),
    "timestep_mode": Widget(
        "Noise levels to train at. continuous: the model's own distribution, the larger of two draws. logit_normal: "
        "one draw, as in Side-Step's guide; more time on nearly clean music. discrete: the eight times of turbo's "
        "sampler only. auto: continuous. For turbo, Side-Step has used both: discrete fits the usual 8 steps, "
        "continuous every sampler and number of steps."),
    "timestep_preset": Widget(
        "Mean and spread of the noise levels. model: the checkpoint's own. detail: less noise. structure: more noise. "
        "wide, tight: more or less spread. custom: the two numbers below. Not used by discrete."),
    "timestep_mu": Widget("Mean with timestep_preset custom; lower is less noise.", -10.0, 10.0, 0.05),
    "timestep_sigma": Widget("Spread with timestep_preset custom.", 0.01, 10.0, 0.01),
    "discrete_shift": Widget(
        "Shift of turbo's time table with timestep_mode discrete: the one you generate with (3 is usual), or all of "
        "them, mixed."),
    "loss_weighting": Widget(
        "none: all noise levels count the same, as the model was trained. min_snr: Side-Step's formula; it damps "
        "nearly clean times, not the noisy ones as widely described. min_snr_flow: the same idea derived for this "
        "model's loss; it damps both ends."),
    "snr_gamma": Widget("Threshold of loss_weighting's damping; lower damps more.", 0.01, 100.0, 0.1),
    "cfg_ratio": Widget(
        "Share of samples trained without caption and lyrics, from 0 to 1; guidance (CFG) needs some. automatic: 0.15 "
        "as the model was trained, or 0 on turbo at discrete times. Sources disagree for turbo: it generates without "
        "guidance, so 0 wastes nothing; it was trained with 0.15, so 0.15 changes least."),
    "genre_ratio": Widget(
        "Chance that a song is trained with its genre in place of its caption, if it has both. automatic: as the "
        "dataset was built, 0 unless it says otherwise."),
    "context_mode": Widget(
        "Context given to the model. silence: none, as with generate_audio_codes off in ComfyUI's text node. codes: "
        "the song's own audio codes; ComfyUI's text node feeds codes by default. mixed: both in turn. silence is the "
        "default until the difference is measured."),
    "codes_ratio": Widget("Chance of codes with context_mode mixed.", 0.0, 1.0, 0.01),
    "chunk_duration": Widget(
        "Seconds of the random crop drawn from each song: much less memory and time than whole songs. 60 is "
        "recommended, below it may hurt."),
    "heldout_songs": Widget(
        "Songs kept aside to measure progress honestly. automatic: one in ten, none below four songs (then the songs "
        "trained on are measured)."),
    "heldout_every": Widget("Steps between two such measurements.", 1, 100_000),
    "early_stopping": Widget(
        "Number of held-out losses without a new lowest after which the training stops. Needs songs kept aside."),
    "target_loss": Widget(
        "Held-out loss at which the training stops once it falls no more. Needs songs kept aside."),
    "publish": Widget(
        "Adapter put into the LoRA folder: that of the last step, or the best by held-out loss. Both stay in the "
        "run's folder. best needs songs kept aside."),
    "save_every": Widget("Steps between two checkpoints, from which a run continues after a crash.", 1, 100_000),
    "save_minutes": Widget("Minutes after which another checkpoint is saved, however slow the steps are."),
    "keep_checkpoints": Widget("Number of latest checkpoints that stay; all takes space."),
    "tensorboard": Widget("Write curves for TensorBoard into the run's folder (pip install tensorboard)."),
    "log_every": Widget("Steps between two points in TensorBoard.", 1, 100_000),
    "log_heavy_every": Widget(
        "Steps between two histograms of the noise and gradient norms of each layer in TensorBoard.", 1, 100_000),
    "preview_every": Widget(
        "Steps between two short previews with the adapter so far; one is made before the training. Each takes the "
        "time of a generation."),
    "preview_caption": Widget("Caption of the previews. Empty: that of the first song."),
    "preview_lyrics": Widget("Lyrics of the previews. Empty: instrumental."),
    "preview_seconds": Widget("Length of a preview in seconds.", 1.0, 600.0, 1.0),
    "shift": Widget(
        "Shift of previews, also noted in the adapter's metadata; training never uses it. automatic: turbo 3, base "
        "and sft 1."),
    "inference_steps": Widget(
        "Steps of previews, also noted in the adapter's metadata; training never uses them. automatic: turbo 8, base "
        "and sft 50."),
    "seed": Widget("The same seed, songs and settings give the same adapter.", 0, 2**53),
    "device": Widget("Device of the training: auto, cpu, cuda, cuda:1, mps or xpu."),
    "precision": Widget(
        "Precision of the frozen model; the adapter is always trained in fp32. auto: bf16 if the device has it, else "
        "fp32. fp16 is for older graphics cards."),
    "gradient_checkpointing": Widget(
        "Recompute layers in the backward pass: much less memory, up to a third more time, the same result. auto: as "
        "many layers as the free memory asks for."),
}  # fmt: skip


def own_inputs() -> list[io.Input]:
    """Widgets of Train LoRA (ACE-Step) itself."""
    settings = {field.name: field for field in fields(TrainConfig)}
    return [_input(settings[name]) for name in OWN]


def other_inputs() -> list[io.Input]:
    """Widgets of Training Settings, in the order of TrainConfig; optional, so that a prompt need not name them all."""
    return [_input(field, optional=True, advanced=field.name not in BASIC or None) for field in fields(TrainConfig)
            if field.name not in OWN]


def values(widgets: Mapping[str, object]) -> dict[str, object]:
    """Convert what widgets hold to values of TrainConfig."""
    return words.parsed(TrainConfig, widgets)


def own_of(config: TrainConfig) -> dict[str, object]:
    """Settings of a config that Train LoRA (ACE-Step) has itself."""
    return {name: value for name, value in config.to_json().items() if name in OWN}


def shown(config: TrainConfig) -> dict[str, object]:
    """Convert a config to what the widgets hold."""
    return spelled(config)


def _input(setting: Field[object], **options: object) -> io.Input:
    name, kind, widget = setting.name, get_type_hints(TrainConfig)[setting.name], WIDGETS[setting.name]
    usual = {"default": setting.default, "tooltip": widget.tooltip, **options}
    if name in WORDS:
        return words.setting_input(TrainConfig, name, widget.tooltip, **options)
    if choices := get_args(kind):
        return io.Combo.Input(name, options=list(choices), **usual)
    if kind is bool:
        return io.Boolean.Input(name, **usual)
    if kind is int:
        # The page would give a seed a widget that randomises it after each run, which would train again each time.
        return io.Int.Input(name, min=int(widget.low), max=int(widget.high), step=int(widget.step),
                            control_after_generate=False if name == "seed" else None, **usual)
    if kind is float:
        return io.Float.Input(name, min=widget.low, max=widget.high, step=widget.step, round=widget.round, **usual)
    return io.String.Input(name, multiline=name in MULTILINE, **usual)
