"""A tiny model distilled with guidance, and songs of two captions to train it on.

Songs of a caption are normal around a mean of their own, so the velocities with and without the caption are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from demo.synthetic_model import write_tiny_models
from sidestep_core import rng
from sidestep_core.dataset import tensor_file
from sidestep_core.dataset.manifest import Dataset, write_manifest
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.decoder import Decoder, load_decoder
from sidestep_core.training.loss import Objective
from tests.tiny import sample_info

CPU = torch.device("cpu")
GUIDANCE = 3.0
"""Scale that is distilled into the model."""
FRAMES, TOKENS, SPREAD = 8, 4, 0.5
DISTILLING_STEPS, TOGETHER = 250, 16
TRIGGER = "hiss"


@dataclass(frozen=True)
class Music:
    """The two kinds of songs."""

    means_KTC: Tensor
    plain_KSD: Tensor
    """Conditions of the captions without the trigger word."""
    spread: float
    """Standard deviation of songs around their mean."""

    @classmethod
    def of(cls, seed: int = 0, frames: int = FRAMES, spread: float = SPREAD) -> Music:
        random = rng.generator("distilled", seed)
        shape = torch.randn(1, 1, 64, generator=random)
        plain_KSD = torch.randn(2, TOKENS, 64, generator=random)
        return cls(torch.cat((shape, -shape)).expand(-1, frames, -1), plain_KSD, spread)

    @property
    def frames(self) -> int:
        return self.means_KTC.shape[1]

    def velocities(self, x_BTC: Tensor, t_B: Tensor, kinds_B: Tensor) -> tuple[Tensor, Tensor]:
        """Expected velocities at noisy latents: with the caption, and without one."""
        t = t_B[:, None, None, None]
        x = x_BTC[:, None]
        variance = t**2 + (1 - t) ** 2 * self.spread**2
        off = x - (1 - t) * self.means_KTC
        each_BKTC = off * (t - (1 - t) * self.spread**2) / variance - self.means_KTC
        likely_BK = (-off.square() / (2 * variance)).sum(dim=(2, 3)).softmax(dim=1)
        return each_BKTC[torch.arange(len(x)), kinds_B], (likely_BK[:, :, None, None] * each_BKTC).sum(1)


def distil(folder: Path, music: Music, guidance: float = GUIDANCE) -> Checkpoint:
    """Write a tiny checkpoint whose decoder predicts the velocity without caption, plus `guidance` times the rest."""
    paths = write_tiny_models(folder, dtype=torch.float32)
    checkpoint = open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)
    weights = checkpoint.model_weights()
    decoder = load_decoder(weights.under("decoder."), torch.float32, CPU).requires_grad_()
    null_11D = weights.tensor("null_condition_emb", torch.float32, CPU)
    random = rng.generator("distilling")
    context = flow_matching.context_latents(torch.zeros(TOGETHER, music.frames, 64))
    optimizer = torch.optim.Adam(decoder.parameters(), 2e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, DISTILLING_STEPS)
    with torch.enable_grad():
        for _ in range(DISTILLING_STEPS):
            kinds_B = torch.randint(2, (TOGETHER,), generator=random)
            t_B = torch.rand(TOGETHER, generator=random)
            x0_BTC = music.means_KTC[kinds_B] + music.spread * torch.randn(TOGETHER, music.frames, 64, generator=random)
            x_BTC = flow_matching.interpolate(x0_BTC, flow_matching.noise_like(x0_BTC, random), t_B)
            with_BTC, without_BTC = music.velocities(x_BTC, t_B, kinds_B)
            free_B = torch.rand(TOGETHER, generator=random)[:, None, None] < 0.3
            condition_BSD = torch.where(free_B, null_11D, music.plain_KSD[kinds_B])
            target_BTC = without_BTC + torch.where(free_B, 0.0, guidance) * (with_BTC - without_BTC)
            (decoder(x_BTC, t_B, condition_BSD, context) - target_BTC).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            slower.step()
    trained = {f"decoder.{name}": parameter.detach() for name, parameter in decoder.named_parameters()}
    stored = read_tensors(paths.model)
    ending = {name: next(key for key in stored if key.endswith(name)) for name in trained}
    write_tensors(paths.model, {key: tensor.clone() for key, tensor in stored.items()}
                  | {ending[name]: tensor for name, tensor in trained.items()}, {})
    return open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)


def write_songs(folder: Path, checkpoint: Checkpoint, music: Music, count: int = 12) -> Dataset:
    """Songs of both kinds with a trigger word, which is two more tokens in front."""
    trigger_SD = torch.randn(2, 64, generator=rng.generator("trigger"))
    infos = tuple(replace(sample_info(number, music.frames), caption=f"{TRIGGER}, kind {number % 2}")
                  for number in range(count))
    dataset = Dataset(folder=folder, checkpoint=checkpoint.fingerprint, style="comfyui", trigger_word=TRIGGER,
                      samples=infos)
    for number, info in enumerate(infos):
        own_TC = music.spread * torch.randn(music.frames, 64, generator=rng.generator("song", number))
        x0_TC = music.means_KTC[number % 2] + own_TC
        tensor_file.write(dataset.latents(info), "latents", x0_TC)
        plain = replace(info.prompt(), caption=f"kind {number % 2}")
        for prompt, condition_SD in ((plain, music.plain_KSD[number % 2]),
                                     (info.prompt(), torch.cat((trigger_SD, music.plain_KSD[number % 2])))):
            tensor_file.write(dataset.condition(prompt), "condition", condition_SD, dataset.prompt_key(prompt))
    tensor_file.write(dataset.silence, "silence", torch.zeros(music.frames, 64))
    write_manifest(dataset)
    return dataset


@torch.no_grad()
def guidance_of(objective: Objective, music: Music, *, trigger: bool = False) -> float:
    """Measure the guidance in a model's predictions: what the caption changes, over what it should change."""
    decoder: Decoder = objective.decoder.eval()
    random = rng.generator("measuring")
    count = 64
    kinds_B = torch.arange(count) % 2
    t_B = 0.75 + 0.25 * torch.rand(count, generator=random)
    x0_BTC = music.means_KTC[kinds_B] + music.spread * torch.randn(count, music.frames, 64, generator=random)
    x_BTC = flow_matching.interpolate(x0_BTC, flow_matching.noise_like(x0_BTC, random), t_B)
    with_BTC, without_BTC = music.velocities(x_BTC, t_B, kinds_B)
    context = flow_matching.context_latents(torch.zeros(count, music.frames, 64))
    condition_BSD = music.plain_KSD[kinds_B]
    if trigger:
        trigger_SD = torch.randn(2, 64, generator=rng.generator("trigger"))
        condition_BSD = torch.cat((trigger_SD.expand(count, -1, -1), condition_BSD), dim=1)
    null = objective.null_condition_11D.expand(count, TOKENS, -1)
    changed = decoder(x_BTC, t_B, condition_BSD, context) - decoder(x_BTC, t_B, null, context)
    wanted = with_BTC - without_BTC
    return float((changed * wanted).sum() / wanted.square().sum())
