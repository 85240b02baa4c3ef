"""One widget for each setting of a training, under the same name and with the same default.

Types, choices and defaults come from TrainConfig; here is what it does not know: ranges for a page, and words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import get_args, get_type_hints

from comfy_api.latest import io

from ..sidestep_core.training.config import TrainConfig

BASIC = ("max_steps", "learning_rate", "chunk_duration", "seed")
"""What everyone may want to set; the rest is for the curious."""

AUTOMATIC: Mapping[str, float] = {"cfg_ratio": -1.0, "genre_ratio": -1.0, "heldout_songs": -1, "shift": 0.0,
                                 "inference_steps": 0}
"""Number that stands for an automatic setting (None) in a widget."""

MANY = 1_000_000


@dataclass(frozen=True)
class Widget:
    """What a person reads about a setting, and for a number what the page lets them enter."""

    tooltip: str
    low: float = 0
    high: float = 1
    step: float = 1
    round: float | None = None


def share(tooltip: str, low: float = 0.0) -> Widget:
    """Of a number up to 1."""
    return Widget(tooltip, low, 1.0, 0.01)


WIDGETS: Mapping[str, Widget] = {
    "max_steps": Widget(
        "Optimizer steps. 1000 is a good first try; listen, then take more if the style is weak. Another number of "
        "steps is another run, from the start. Not used where epochs is above 0.", 1, MANY),
    "epochs": Widget(
        "Length of the run in passes over all songs, as Side-Step counts. 0: max_steps counts.", 0, 100_000),
    "optimizer": Widget(
        "adamw: the usual one. adamw8bit: the same with a quarter of the memory for its state (pip install "
        "bitsandbytes). adafactor: hardly any state. prodigy finds the learning rate itself and always runs at 1.0 and "
        "a constant schedule, whatever is set (pip install prodigyopt). A missing package is an error."),
    "learning_rate": Widget(
        "How far each step goes. 0.0001 is the usual value; lower it if the loss jumps. prodigy always runs at 1.0.",
        1e-8, 1.0, 1e-6, 1e-8),
    "schedule": Widget(
        "How the learning rate goes on after warm-up. cosine and linear fall to 1 % at the end; cosine_restarts does "
        "so several times; constant and constant_with_warmup stay. prodigy is always constant."),
    "warmup_steps": Widget(
        "The learning rate rises from 10 % over these steps; never more than a tenth of the run.", 0, 100_000),
    "restarts": Widget("How many cosines a run of schedule cosine_restarts has.", 1, 100),
    "weight_decay": Widget("Pulls the adapter's weights towards zero.", 0.0, 1.0, 0.001),
    "max_grad_norm": Widget("Steps with a larger gradient are scaled down to this.", 0.01, 1000.0, 0.01),
    "batch_size": Widget(
        "Songs per forward pass where their lengths agree (chunk_duration makes them agree); others run one by one. "
        "Costs memory.", 1, 64),
    "gradient_accumulation": Widget(
        "Forward passes per step. More makes each step steadier and slower, at no memory.", 1, 256),
    "ema_decay": Widget(
        "Also keep a moving average of the adapter, and measure and publish that: 0.99 to 0.999 for runs of hundreds "
        "to thousands of steps. 0 keeps none.", 0.0, 0.9999, 0.0001),
    "timestep_mode": Widget(
        "At which amounts of noise it trains. continuous: the model's own law, the larger of two draws. logit_normal: "
        "one draw, as the formula in Side-Step's guide reads; more time on nearly clean music. discrete: the eight "
        "times of turbo's sampler only. auto: continuous. For turbo, Side-Step has used both: discrete fits the usual "
        "8 steps, continuous every sampler and number of steps."),
    "timestep_preset": Widget(
        "Mean and spread of those draws. model: the checkpoint's own. detail: less noise. structure: more noise. wide, "
        "tight: more or less spread. custom: the two numbers below. Not used by discrete."),
    "timestep_mu": Widget("Mean, where timestep_preset is custom; lower is less noise.", -10.0, 10.0, 0.05),
    "timestep_sigma": Widget("Spread, where timestep_preset is custom.", 0.01, 10.0, 0.01),
    "discrete_shift": Widget(
        "Which of turbo's tables timestep_mode discrete uses: that of the shift you sample with (3 is usual), or all "
        "of them, mixed."),
    "loss_weighting": Widget(
        "none: every amount of noise counts the same, as the model was trained. min_snr: Side-Step's formula; it damps "
        "nearly clean times, not the noisy ones as widely described. min_snr_flow: the same idea derived for this "
        "model's loss; it damps both ends."),
    "snr_gamma": Widget("Where the damping of loss_weighting sets in; lower is more.", 0.01, 100.0, 0.1),
    "cfg_ratio": share(
        "Share of samples trained without caption and lyrics; guidance (CFG) needs some. -1: 0.15 as the model was "
        "trained, or 0 on turbo at discrete times. Sources disagree for turbo: it samples without guidance, so 0 "
        "wastes nothing; it was trained with 0.15, so 0.15 changes least.", -1.0),
    "genre_ratio": share(
        "Chance that a song is shown with its genre in place of its caption, where it has both. -1: what the dataset "
        "was built with, which is 0 if nothing was said.", -1.0),
    "context_mode": Widget(
        "What the model is told about the music to come. silence: nothing, as when ComfyUI's text node has "
        "generate_audio_codes off. codes: the song's own audio codes; ComfyUI's text node feeds codes by default. "
        "mixed: now this, now that. silence is the default until the difference is measured."),
    "codes_ratio": share("Chance of codes where context_mode is mixed."),
    "chunk_duration": Widget(
        "Train on random pieces of so many seconds: much less memory and time. 60 is recommended, below it may hurt. "
        "0 uses whole songs.", 0.0, 600.0, 1.0),
    "max_latent_length": Widget(
        "The same in latent frames, 25 per second; 1500 is a minute. Counts instead of chunk_duration where it is not "
        "0.", 0, 15_000, 25),
    "heldout_songs": Widget(
        "Songs kept aside to measure progress honestly. -1: one in ten, none below four songs (then the songs trained "
        "on are measured).", -1, 1000),
    "heldout_every": Widget("Steps between two such measurements.", 1, 100_000),
    "early_stopping": Widget(
        "Stop after so many held-out losses without a new lowest one. 0: never. Needs songs kept aside.", 0, 10_000),
    "target_loss": Widget(
        "Stop when the held-out loss is this low and falls no more. 0: never. Needs songs kept aside.", 0.0, 100.0,
        0.001),
    "publish": Widget(
        "Which adapter is put into the LoRA folder: that of the last step, or the best by held-out loss. Both stay in "
        "the run's folder. best needs songs kept aside."),
    "save_every": Widget("Steps between two checkpoints, from which a run continues after a crash.", 1, 100_000),
    "save_minutes": Widget(
        "Minutes after which there is another checkpoint, however slow the steps are. 0: only save_every counts.",
        0.0, 1440.0, 1.0),
    "keep_checkpoints": Widget("So many of the latest checkpoints stay; 0 keeps all, which takes space.", 0, 1000),
    "tensorboard": Widget("Also write curves for TensorBoard into the run's folder (pip install tensorboard)."),
    "log_every": Widget("Steps between two points in TensorBoard.", 1, 100_000),
    "log_heavy_every": Widget(
        "Steps between two histograms of the noise and gradient norms of each layer in TensorBoard.", 1, 100_000),
    "preview_every": Widget(
        "Steps between two short previews with the adapter so far, and one before. 0: none. Each takes the time of a "
        "generation.", 0, 100_000),
    "preview_caption": Widget("What the previews are to sound like. Empty: the caption of the first song."),
    "preview_lyrics": Widget("What is sung in the previews. Empty: they are instrumental."),
    "preview_seconds": Widget("Length of a preview.", 5.0, 600.0, 1.0),
    "shift": Widget(
        "Of previews, and noted in the adapter's metadata; training never uses it. 0 takes the usual: turbo 3, base "
        "and sft 1.", 0.0, 20.0, 0.1),
    "inference_steps": Widget(
        "Of previews, and noted in the adapter's metadata; training never uses it. 0 takes the usual: turbo 8, base "
        "and sft 50.", 0, 1000),
    "seed": Widget("The same seed, songs and settings give the same adapter.", 0, 2**53),
    "device": Widget("auto, cpu, cuda, cuda:1, mps or xpu."),
    "precision": Widget(
        "Of the frozen model; the adapter is always trained in fp32. auto: bf16 where the device has it, else fp32. "
        "fp16 is for older graphics cards."),
    "gradient_checkpointing": Widget(
        "Compute parts twice instead of keeping them: much less memory, up to a third more time, the same result. "
        "auto: for as many layers as the free memory asks for."),
}  # fmt: skip


def method_inputs() -> list[io.Input]:
    """The widgets, basic ones first, then the others in the order of TrainConfig, as advanced ones.

    The advanced ones are optional, so that a prompt need not name them all.
    """
    settings = {field.name: field for field in fields(TrainConfig)}
    others = [name for name in settings if name not in BASIC]
    return [_input(settings[name], advanced=name in others) for name in (*BASIC, *others)]


def to_config(widgets: Mapping[str, object]) -> TrainConfig:
    """Settings of a training from the values of its widgets."""
    return TrainConfig.from_json({name: None if AUTOMATIC.get(name) == value else value
                                  for name, value in widgets.items()})


def to_widgets(config: TrainConfig) -> dict[str, object]:
    """Values of the widgets that show these settings."""
    return {name: AUTOMATIC.get(name) if value is None else value for name, value in config.to_json().items()}


def _input(setting: Field[object], *, advanced: bool) -> io.Input:
    name, kind, widget = setting.name, get_type_hints(TrainConfig)[setting.name], WIDGETS[setting.name]
    default = AUTOMATIC.get(name) if setting.default is None else setting.default
    usual = {"default": default, "tooltip": widget.tooltip, "advanced": advanced or None, "optional": advanced}
    if name in AUTOMATIC:
        kind = type(AUTOMATIC[name])
    if choices := get_args(kind):
        return io.Combo.Input(name, options=list(choices), **usual)
    if kind is bool:
        return io.Boolean.Input(name, **usual)
    if kind is int:
        # The page would give a seed a widget that randomises it after each run, which would train anew each time.
        return io.Int.Input(name, min=int(widget.low), max=int(widget.high), step=int(widget.step),
                            control_after_generate=False if name == "seed" else None, **usual)
    if kind is float:
        return io.Float.Input(name, min=widget.low, max=widget.high, step=widget.step, round=widget.round, **usual)
    return io.String.Input(name, multiline=name == "preview_lyrics", **usual)
