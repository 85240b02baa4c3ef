"""Takes of a comparison: the same conditioning, noise and settings with other weights, by ComfyUI's own nodes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....sidestep_core.audio import decode, loudness
from ....sidestep_core.compare.comparison import Take
from ....sidestep_core.errors import ConfigError
from ....sidestep_core.io import strict_json
from ....sidestep_core.io.record import parse
from ....sidestep_core.runs import files
from ....sidestep_core.runs import previews as on_disk
from .. import models, previews

log = logging.getLogger(__name__)

TEXTS = ("tags", "lyrics")
"""Widgets of ComfyUI's text node for ACE-Step."""
PREVIEW_FACTS = {"caption": str, "seed": int}
"""Settings of previews that the page shows."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of ComfyUI's KSampler and VAEDecodeAudio that all takes share."""

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    positive: Any
    negative: Any
    latent: Mapping[str, Any]
    vae: Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """Take to make, and the file that it is made with; None for the base."""

    take: Take
    path: Path | None = None


def generate(model: Any, row: Row, sampling: Sampling) -> Tensor:
    """Generate the waveform [2, samples] of a row: exactly that of Apply Adapter, KSampler and VAE Decode Audio.

    The model itself is never changed: the row gets a clone, whose patches ComfyUI takes off again with the next one.
    """
    from comfy_extras.nodes_audio import vae_decode_audio

    from nodes import common_ksampler

    patched = model if row.path is None else models.patch(model, row.path, row.take.strength)[0]
    [latent] = common_ksampler(patched, sampling.seed, sampling.steps, sampling.cfg, sampling.sampler,
                               sampling.scheduler, sampling.positive, sampling.negative, sampling.latent,
                               denoise=sampling.denoise)
    audio = vae_decode_audio(sampling.vae, latent)
    if audio["sample_rate"] != decode.SAMPLE_RATE:
        raise ConfigError(f"The VAE makes audio at {audio['sample_rate']} Hz instead of {decode.SAMPLE_RATE}. "
                          "Connect ace_1.5_vae.safetensors.")
    waveform: Tensor = audio["waveform"][0]
    return waveform


def require_one(latent: Mapping[str, Any]) -> None:
    """Raise ConfigError for a batch: takes are compared one by one."""
    count = latent["samples"].shape[0]
    if count != 1:
        raise ConfigError(f"The latent has a batch of {count}. Set batch_size to 1 on the empty latent.")


def require_sound(waveform: Tensor, take: Take) -> Tensor:
    """Return the waveform; ConfigError naming the take if it is not finite."""
    if not torch.isfinite(waveform).all():
        raise ConfigError(f"{label(take)} is not finite (NaN or infinity): the strength is too high, or the adapter is "
                          "broken. Leave it out, or lower its strength.")
    return waveform


def label(take: Take) -> str:
    """Name a take for people: "my_lora at 0.7"."""
    return f"{take.name} at {take.strength:g}" if take.strength else take.name


def measured(waveform: Tensor) -> float | None:
    """Measure the loudness of a take in LUFS, to a hundredth."""
    lufs = loudness.metered(waveform)
    return None if lufs is None else round(lufs, 2)


def preview_facts(run: Path) -> dict[str, Any]:
    """Prompt, seed, loudness and blind votes of a run's previews, for the page."""
    try:
        made = strict_json.as_object(strict_json.read(run / files.PREVIEWS / previews.SETTINGS), previews.SETTINGS)
        known = {name: parse(made.get(name), kind, name) for name, kind in PREVIEW_FACTS.items()}
    except strict_json.BadJson as error:
        log.warning("The prompt of the previews of %s is not shown: %s", run.name, error)
        known = {"caption": "", "seed": None}
    paths = [(step, path) for step in on_disk.made(run) if (path := on_disk.file(run, step)) is not None]
    votes = _votes(run)
    return {"prompt": known["caption"], "seed": known["seed"], "previews": [
        {"step": step, "lufs": _lufs(path, path.stat().st_mtime_ns), "votes": votes.get(step, 0)}
        for step, path in paths]}


def _votes(run: Path) -> Mapping[int, int]:
    try:
        return on_disk.votes(run)
    except strict_json.BadJson as error:
        log.warning("The votes for the previews of %s are not shown: %s", run.name, error)
        return {}


@lru_cache(maxsize=4096)
def _lufs(path: Path, _written: int) -> float | None:
    """Measure the loudness of a file, once for each time that it is written."""
    lufs = loudness.metered(decode.decode(path))
    return None if lufs is None else round(lufs, 2)


def texts(prompt: Mapping[str, Mapping[str, Any]], node_id: str) -> dict[str, str]:
    """Find prompt and lyrics of the node that the input `positive` comes from; empty where they are not typed there."""
    for inputs in _upstream(prompt, prompt.get(node_id, {}).get("inputs", {}).get("positive")):
        if TEXTS[0] in inputs:
            return {name: inputs[name] if isinstance(inputs.get(name), str) else "" for name in TEXTS}
    return dict.fromkeys(TEXTS, "")


def _upstream(prompt: Mapping[str, Mapping[str, Any]], link: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs of the nodes before a link, nearest first."""
    waiting, seen = [link], set()
    while waiting:
        link = waiting.pop(0)
        if not isinstance(link, Sequence) or isinstance(link, str) or str(link[0]) in seen:
            continue
        seen.add(str(link[0]))
        inputs = prompt.get(str(link[0]), {}).get("inputs", {})
        yield inputs
        waiting += list(inputs.values())
