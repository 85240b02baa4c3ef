"""Names that Side-Step's command line has for settings, and the groups that its help shows them in."""

from __future__ import annotations

from collections.abc import Mapping

from .flags import Names

TRAINING: Names = {
    "learning_rate": ("--lr", "--learning-rate"),
    "optimizer": ("--optimizer-type", "--optimizer"),
    "schedule": ("--scheduler-type", "--schedule"),
    "inference_steps": ("--num-inference-steps", "--inference-steps"),
    "save_every": ("--save-every-steps",),
}
"""--save-every itself counts epochs, as in Side-Step."""

KINDS: Mapping[str, Names] = {
    "lora": {"rank": ("--rank", "-r")},
    "lokr": {"linear_dim": ("--lokr-linear-dim",), "alpha": ("--lokr-linear-alpha",)},
    "loha": {},
}
"""Kind of adapter -> flags of its own settings; others of LoKR and LoHA have the kind in front."""
SHARED = {"loha": ("rank", "alpha")}
"""Settings of a kind that have the flag of a LoRA's."""

PREPROCESS: Names = {
    "trigger_word": ("--trigger-word", "--tag"),
    "trigger_position": ("--trigger-position", "--tag-position"),
    "max_seconds": ("--max-duration", "--max-seconds"),
    "normalise": ("--normalize", "--normalise"),
}
BUILD: Names = {
    "trigger_word": ("--tag", "--trigger-word"),
    "trigger_position": ("--tag-position", "--trigger-position"),
}
"""--genre-ratio is made by hand: in Side-Step it is a percentage."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Device / Platform": ("device", "devices", "precision"),
    "Training": (),
    "Corrected Training": ("cfg_ratio", "loss_weighting", "snr_gamma", "timestep_mode", "timestep_preset",
                           "timestep_mu", "timestep_sigma", "discrete_shift", "genre_ratio", "context_mode",
                           "codes_ratio"),
    "Held-out songs": ("heldout_songs", "heldout_every", "early_stopping", "target_loss", "publish"),
    "Checkpointing": ("save_every", "save_minutes", "keep_checkpoints"),
    "Logging / TensorBoard": ("tensorboard", "log_every", "log_heavy_every", "preview_every", "preview_caption",
                              "preview_lyrics", "preview_seconds"),
}
"""Group -> settings of a training; a setting that is in none is in Training."""

WITHOUT_EFFECT: Mapping[str, str] = {
    "--num-workers": "encoded songs are in memory, so no worker process reads them",
    "--pin-memory": "encoded songs are in memory, so nothing needs pinning",
    "--no-pin-memory": "encoded songs are in memory, so nothing needs pinning",
    "--prefetch-factor": "encoded songs are in memory, so nothing is fetched",
    "--persistent-workers": "encoded songs are in memory, so there are no workers",
    "--no-persistent-workers": "encoded songs are in memory, so there are no workers",
    "--offload-encoder": "training loads only the decoder, so there is no encoder to move away",
    "--no-offload-encoder": "training loads only the decoder, so there is no encoder on the device",
    "--bias": "the adapted layers have no bias",
}
"""Flag of Side-Step -> the reason why it changes nothing here; it is taken, and the reason shown."""
