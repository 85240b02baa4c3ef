"""Presets of other trainers: the flat files of Side-Step (0.8 to 1.1) and of ace-lora-trainer.

Each setting is translated, or named in a note with the reason if it has no counterpart.  A setting that neither of the
two has is an error.  Missing settings keep the default of this trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..adapters.config import MLP_PROJECTIONS, AdapterConfig
from ..adapters.registry import config_from_json, configs
from ..errors import ConfigError
from ..training.config import TrainConfig
from .text import parse_setting

Settings = dict[str, Any]
Found = tuple[Settings, list[str]]
"""Settings under the names of this trainer, and notes."""

SONGS = 10
"""Songs for which intervals in epochs are converted to steps."""

LATENT_FRAMES = 25
"""Latent frames per second, the unit of other trainers' max_latent_length."""

TRAIN = {
    "learning_rate": "learning_rate", "batch_size": "batch_size", "gradient_accumulation": "gradient_accumulation",
    "gradient_accumulation_steps": "gradient_accumulation", "warmup_steps": "warmup_steps", "seed": "seed",
    "weight_decay": "weight_decay", "max_grad_norm": "max_grad_norm", "optimizer_type": "optimizer",
    "scheduler_type": "schedule", "cosine_restarts_count": "restarts", "ema_decay": "ema_decay",
    "timestep_mode": "timestep_mode", "timestep_mu": "timestep_mu", "timestep_sigma": "timestep_sigma",
    "cfg_ratio": "cfg_ratio", "cfg_dropout_prob": "cfg_ratio", "loss_weighting": "loss_weighting",
    "snr_gamma": "snr_gamma", "log_every": "log_every", "log_every_n_steps": "log_every",
    "log_heavy_every": "log_heavy_every", "shift": "shift", "num_inference_steps": "inference_steps",
    "precision": "precision", "mixed_precision": "precision", "sample_prompt": "preview_caption",
    "sample_lyrics": "preview_lyrics", "sample_duration": "preview_seconds",
}  # fmt: skip
"""Settings of the training: foreign name -> ours."""

PLACEMENT = {
    "attention_type": "attention_type", "target_modules_str": "target_modules", "target_modules": "target_modules",
    "self_target_modules_str": "self_target_modules", "cross_target_modules_str": "cross_target_modules",
    "self_target_modules": "self_target_modules", "cross_target_modules": "cross_target_modules",
    "target_mlp": "target_mlp", "train_mlp": "target_mlp",
}  # fmt: skip

ADAPTERS = {
    "lora": {"rank": "rank", "lora_r": "rank", "lora_rank": "rank", "alpha": "alpha", "lora_alpha": "alpha",
             "dropout": "dropout", "lora_dropout": "dropout", "use_dora": "dora"},
    "lokr": {"lokr_linear_dim": "linear_dim", "lokr_linear_alpha": "alpha", "lokr_factor": "factor",
             "lokr_decompose_both": "decompose_both", "lokr_use_tucker": "use_tucker", "lokr_use_scalar": "use_scalar",
             "lokr_weight_decompose": "weight_decompose", "lokr_dropout": "dropout"},
    "loha": {"loha_linear_dim": "rank", "loha_linear_alpha": "alpha", "loha_use_scalar": "use_scalar"},
}  # fmt: skip
"""Settings of each kind of adapter."""

NAMES = ("name", "preset_name", "description", "_description", "_comment")
CONVERTED = ("adapter_type", "epochs", "max_epochs", "max_steps", "dataset_repeats", "save_every",
             "save_every_n_epochs", "early_stop_patience", "early_stop_enabled", "sample_enabled",
             "sample_every_n_epochs", "crop_mode", "chunk_duration", "max_latent_length", "gradient_checkpointing",
             "gradient_checkpointing_ratio", "genre_ratio")

NOT_HERE = {
    "training loads nothing but the decoder, so there is no encoder to move away":
        ("offload_encoder", "encoder_offloading"),
    "the encoded songs are in memory, and no other process reads them":
        ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers"),
    "the adapted layers have no bias": ("bias",),
    "the adapter of the lowest held-out loss is always kept in the run's folder; publish selects it":
        ("save_best", "save_best_after", "auto_save_best_after", "save_best_every_n_steps"),
    "there the loss of single steps steers the learning rate; target_loss here is a held-out loss, of other numbers":
        ("target_loss", "target_loss_floor", "target_loss_warmup", "target_loss_smoothing"),
    "it is chosen outside of the settings":
        ("model_variant", "model_type", "base_model", "checkpoint_dir", "dataset_dir", "output_dir", "run_name",
         "log_dir", "resume_from", "strict_resume", "device", "vram_profile"),
    "the loss is always the mean squared error of the velocity":
        ("loss_fn", "huber_delta", "channel_balance", "dynamic_channel_balance", "vae_channel_prior", "latent_noise",
         "t_bias", "legacy_loss"),
    "the base model is used as its file has it, in the precision that is set": ("weight_quantize", "weight_qtype"),
    "warm-up starts at 10 % and a cosine ends at 1 % of the learning rate":
        ("warmup_start_factor", "cosine_eta_min_ratio"),
    "formulas are not run": ("scheduler_formula",),
    "the moving average warms up automatically": ("ema_start_step",),
    "heldout_songs counts songs; by default one in ten is held out": ("val_split",),
    "it has no effect at batch size 1 there": ("adaptive_timestep_ratio",),
    "it has no effect there": ("data_proportion", "dynamic_shift"),
    "crops are spread evenly over a song automatically": ("chunk_decay_every",),
    "it depends on the computer; compile is off until it is set": ("torch_compile",),
    "it is not offered": ("oft_block_size", "oft_coft", "oft_eps"),
    "it belongs to generating": ("guidance_scale",),
    "the first loss that is not a number is an error": ("nan_detection_max",),
    "it is set where songs are preprocessed": ("audio_normalization", "normalize"),
    "previews have a caption, lyrics and a length": (
        "sample_bpm", "sample_key", "sample_time_signature", "sample_strengths", "sample_inference_steps",
        "sample_guidance_scale", "sample_shift", "sample_seed"),
    "a LoHA of these layers has neither": ("loha_factor", "loha_use_tucker"),
}  # fmt: skip
"""Reason -> settings that have no counterpart."""

OTHER_VALUES: dict[str, dict[Any, tuple[Any, str]]] = {
    "scheduler_type": {"custom": ("cosine", "scheduler_type: formulas are not run; it is cosine here.")},
    "loss_weighting": {"flow_snr": ("none", "loss_weighting: flow_snr changes nothing at batch size 1; it is none "
                                            "here.")},
    "shift": {3.0: (None, "shift: 3.0 is written for every variant there; here it is that of the checkpoint's.")},
    "num_inference_steps": {8: (None, "num_inference_steps: 8 is written for every variant there; here it is that of "
                                      "the checkpoint's.")},
}  # fmt: skip
"""Values with another counterpart: foreign value -> (ours, note)."""


@dataclass(frozen=True, kw_only=True)
class Translated:
    """Result of translating a foreign preset."""

    name: str
    description: str
    adapter: AdapterConfig
    train: TrainConfig
    notes: tuple[str, ...]


def translate(values: Mapping[str, Any]) -> Translated:
    """Translate the settings of a foreign preset.  ConfigError names unknown settings and wrong values."""
    _check_known(values)
    given = {key: value for key, value in values.items() if value is not None and value != ""}
    adapter, notes = _adapter(given)
    settings: Settings = {}
    for part in (_same_meaning, _length, _crop, _checkpointing, _timesteps, _genre):
        more, more_notes = part(given)
        settings |= more
        notes += more_notes
    if settings.get("optimizer") == "prodigy" and settings.get("schedule", "constant") != "constant":
        notes.append(f"scheduler_type: constant for prodigy, not {settings['schedule']}; choose cosine to let it fall.")
        settings["schedule"] = "constant"
    train = TrainConfig.from_json(settings)
    intervals, interval_notes = _intervals(given, train)
    return Translated(
        name=str(given.get("name", given.get("preset_name", ""))),
        description=str(given.get("description", given.get("_description", ""))),
        adapter=adapter, train=replace(train, **intervals), notes=(*notes, *interval_notes, *_reasons(given)),
    )


def _check_known(values: Mapping[str, Any]) -> None:
    tables = [TRAIN, PLACEMENT, *ADAPTERS.values()]
    not_here = {key for keys in NOT_HERE.values() for key in keys}
    known = {key for table in tables for key in table} | {*NAMES, *CONVERTED} | not_here
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"This is a preset of neither Side-Step nor ace-lora-trainer: {', '.join(unknown)} is known "
                          "to neither of them. Remove it, or correct its name.")
    if not set(values) - set(NAMES):
        raise ConfigError("This preset holds no setting.")


def _reasons(given: Settings) -> list[str]:
    found = {reason: [key for key in keys if key in given] for reason, keys in NOT_HERE.items()}
    return [f"{', '.join(keys)}: not used, {reason}." for reason, keys in found.items() if keys]


def _renamed(table: Mapping[str, str], kind: Any, given: Settings) -> Found:
    """Rename the settings of the table; numbers that were saved as text become numbers."""
    settings: Settings = {}
    notes = []
    for key, ours in table.items():
        if key not in given:
            continue
        if ours in settings:
            raise ConfigError(f"{key} and another name for it are both in this preset. Remove one of them.")
        value = given[key]
        if isinstance(value, str):
            value = parse_setting(kind, ours, value)
        other = OTHER_VALUES.get(key, {})
        if not isinstance(value, (list, dict)) and value in other:
            value, note = other[value]
            notes.append(note)
        settings[ours] = value
    return settings, notes


def _adapter(given: Settings) -> tuple[AdapterConfig, list[str]]:
    name = given.get("adapter_type", "lora")
    kind = "lora" if name == "dora" else name
    if not isinstance(kind, str) or kind not in configs():
        raise ConfigError(f"adapter_type is {name!r}; there are lora, dora, lokr and loha. Choose one of them.")
    settings, notes = _renamed(ADAPTERS.get(kind, {}) | PLACEMENT, configs()[kind], given)
    if name == "dora":
        settings["dora"] = True
    if settings.get("dora"):
        notes.append("use_dora: the length of each input column is trained, where others train that of output rows: "
                     "only so is the file exact in ComfyUI.")
    if kind != "lora" and "dropout" not in settings:
        settings["dropout"] = 0.0
        notes.append(f"dropout: 0, as {kind} has none there.")
    others = [key for other, table in ADAPTERS.items() if other != kind for key in table
              if key in given and not (key == "dropout" and kind != "lora")]
    if others:
        notes.append(f"{', '.join(others)}: not used, of another kind of adapter than {kind}.")
    targets = settings.get("target_modules", ())
    if isinstance(targets, (tuple, list)) and any(target in MLP_PROJECTIONS for target in targets):
        settings["target_modules"] = [target for target in targets if target not in MLP_PROJECTIONS]
        settings["target_mlp"] = True
        notes.append(f"target_modules: {', '.join(MLP_PROJECTIONS)} are target_mlp here, all of them.")
    return config_from_json({"kind": kind, **settings}), notes


def _same_meaning(given: Settings) -> Found:
    return _renamed(TRAIN, TrainConfig, given)


def _length(given: Settings) -> Found:
    epochs = _whole(given, "epochs") or _whole(given, "max_epochs")
    steps, repeats = _whole(given, "max_steps"), _whole(given, "dataset_repeats")
    if steps:
        unused = [key for key in ("epochs", "max_epochs", "dataset_repeats") if key in given]
        notes = [f"{', '.join(unused)}: not used, as max_steps ends the run."] if unused else []
        return {"max_steps": steps, "epochs": 0}, notes
    notes = [f"dataset_repeats: {epochs} x {repeats} epochs of each song once."] if repeats > 1 else []
    return {"epochs": epochs * max(1, repeats)} if epochs else {}, notes


def _crop(given: Settings) -> Found:
    mode = given.get("crop_mode", "")
    if mode not in ("", "full", "seconds", "latent"):
        raise ConfigError(f"crop_mode is {mode!r}; there are full, seconds and latent. Choose one of them.")
    units = {"chunk_duration": "seconds", "max_latent_length": "latent"}
    lengths = {name: length for name in units if (length := _whole(given, name))}
    unused = [name for name in lengths if mode not in ("", units[name])]
    notes = [f"{', '.join(unused)}: not used, as crop_mode is {mode}."] if unused else []
    used = {name: length for name, length in lengths.items() if name not in unused}
    seconds = used["max_latent_length"] / LATENT_FRAMES if "max_latent_length" in used else used.get("chunk_duration")
    return {} if seconds is None else {"chunk_duration": seconds}, notes


def _checkpointing(given: Settings) -> Found:
    on, share = (_plain(given.get(key), ours) for key, ours in (
        ("gradient_checkpointing", "tensorboard"), ("gradient_checkpointing_ratio", "ema_decay")))
    if not isinstance(on, bool | None) or not isinstance(share, int | float | None):
        raise ConfigError("gradient_checkpointing must be true or false, and its ratio a number; got "
                          f"{on!r} and {share!r}.")
    if on is False or (share is not None and share <= 0):
        return {"gradient_checkpointing": "off"}, []
    if share is not None and share < 1:
        return {"gradient_checkpointing": "auto"}, [
            "gradient_checkpointing_ratio: the number of layers is chosen by the free memory."]
    return ({} if on is None and share is None else {"gradient_checkpointing": "on"}), []


def _timesteps(given: Settings) -> Found:
    """Set custom for a mean and deviation other than those of every checkpoint."""
    usual = given.get("timestep_mu", -0.4) == -0.4 and given.get("timestep_sigma", 1.0) == 1.0
    return ({} if usual else {"timestep_preset": "custom"}), []


def _genre(given: Settings) -> Found:
    percent = _whole(given, "genre_ratio")
    return ({"genre_ratio": percent / 100} if percent else {}), []


def _whole(given: Settings, key: str) -> int:
    """Return a count of the preset; 0 if missing."""
    value = _plain(given.get(key, 0), "max_steps")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 0:
        raise ConfigError(f"{key} must be a whole number, 0 or more, got {value!r}.")
    return int(value)


def _plain(value: Any, like: str) -> Any:
    """Convert a value that was saved as text to the type of this setting of the training; return others unchanged."""
    return parse_setting(TrainConfig, like, value) if isinstance(value, str) else value


def _intervals(given: Settings, train: TrainConfig) -> Found:
    """Convert intervals in epochs to steps, for SONGS songs."""
    save = _whole(given, "save_every") or _whole(given, "save_every_n_epochs")
    patience = _whole(given, "early_stop_patience") if given.get("early_stop_enabled", True) else 0
    preview = _whole(given, "sample_every_n_epochs") or save if given.get("sample_enabled") else 0
    epochs = {"save_every": save, "preview_every": preview}
    settings = {name: _steps(count, train) for name, count in epochs.items() if count}
    notes = [f"{name}: {epochs[name]} epochs there, {steps} steps here, as for {SONGS} songs."
             for name, steps in settings.items()]
    if patience:
        settings["early_stopping"] = max(1, round(_steps(patience, train) / train.heldout_every))
        notes.append(f"early_stop_patience: {patience} epochs of the training loss there; here "
                     f"{settings['early_stopping']} held-out losses, which is as long for {SONGS} songs.")
    return settings, notes


def _steps(epochs: int, train: TrainConfig) -> int:
    return max(1, round(epochs * SONGS / train.samples_per_step))
