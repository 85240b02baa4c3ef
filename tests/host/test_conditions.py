"""Cached conditions equal the input of ComfyUI's sampler: token for token, hidden state for hidden state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from demo.synthetic_model import DEMO_LANGUAGE_MODEL, DEMO_MODEL, DEMO_TEXT_ENCODER, DEMO_VAE
from sidestep_core.audio.decode import decode
from sidestep_core.dataset import latents
from sidestep_core.dataset.latents import encode_tiled
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.condition_encoder import ConditionEncoder, TextEncoder, load_condition_encoder
from sidestep_core.model.prompts import Prompt
from tests.host.pack import pack_module
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
LYRICS = "[Verse]\nLanterns over (quiet) water\n\n[Chorus]\nHold the light, hold the light\n"
PROMPTS = [
    Prompt(caption="warm analog synth pop, 80s drums", lyrics=LYRICS, language="en", bpm=112, key="A minor",
           signature="4/4", seconds=5.0),
    Prompt(caption="  taiko, koto \\(solo\\) \u266b ", lyrics="[Instrumental]", language="unknown", bpm=None, key="",
           signature="", seconds=4.2),
    Prompt(caption="", lyrics="\u6625\u306e\u590c\u306e\u5922\n" * 40, language="ja", bpm=90, key="F# major",
           signature="6/8", seconds=6.0),
]


@dataclass
class Host:
    """The host's own models of the demo checkpoint."""

    clip: Any
    model: Any
    vae: Any


@pytest.fixture(scope="module")
def host(comfy: ModuleType, demo_models: Path) -> Host:
    clip = comfy.sd.load_clip([str(demo_models / DEMO_TEXT_ENCODER), str(demo_models / DEMO_LANGUAGE_MODEL)],
                              clip_type=comfy.sd.CLIPType.ACE)
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(demo_models / DEMO_VAE)), dtype=torch.float32)
    return Host(clip=clip, model=comfy.sd.load_diffusion_model(str(demo_models / DEMO_MODEL)), vae=vae)


@pytest.fixture(scope="module")
def source(comfy: ModuleType) -> Any:
    return pack_module("nodes.host.models").HostModels()


@pytest.fixture(scope="module")
def text_encoder(checkpoint: Checkpoint, source: Any) -> TextEncoder:
    return TextEncoder(checkpoint.text_encoder_weights(), source.tokenizer_folder, CPU)


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> ConditionEncoder:
    return load_condition_encoder(checkpoint.model_weights().under("encoder."), torch.float32, CPU)


def tokens_of_host(clip: Any, prompt: Prompt) -> dict[str, Any]:
    """Text that the node TextEncodeAceStepAudio1.5 makes, without unknown fields."""
    known = {"bpm": prompt.bpm, "keyscale": prompt.key or None,
             "timesignature": int(prompt.signature.split("/")[0]) if prompt.signature else None}
    fields = {name: value for name, value in known.items() if value is not None}
    return clip.tokenize(prompt.caption, lyrics=prompt.lyrics, duration=prompt.seconds, language=prompt.language,
                         generate_audio_codes=False, seed=0, **fields)


@pytest.mark.parametrize("prompt", PROMPTS, ids=["full", "bare", "foreign"])
def test_token_ids_match_host(host: Host, text_encoder: TextEncoder, prompt: Prompt) -> None:
    tokens = tokens_of_host(host.clip, prompt)
    assert text_encoder.tokenize(prompt.caption_text) == [token for token, *_ in tokens["qwen3_06b"][0]]
    assert text_encoder.tokenize(prompt.lyrics_text) == [token for token, *_ in tokens["lyrics"][0]]


def captured_from_sampling(host: Host, prompt: Prompt, frames: int) -> tuple[Tensor, Tensor]:
    """Condition and context that the host's decoder gets while its own sampler runs one step."""
    import comfy.sample

    seen: dict[str, Tensor] = {}

    def capture(module: torch.nn.Module, args: tuple[()], kwargs: dict[str, Tensor]) -> None:
        seen.update(kwargs)

    positive = host.clip.encode_from_tokens_scheduled(tokens_of_host(host.clip, prompt))
    hook = host.model.model.diffusion_model.decoder.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        latent = torch.zeros(1, 64, frames)
        noise = comfy.sample.prepare_noise(latent, 1)
        comfy.sample.sample(host.model, noise, 1, 1.0, "euler", "simple", positive, positive, latent, seed=1)
    finally:
        hook.remove()
    return seen["encoder_hidden_states"], seen["context_latents"]


@pytest.mark.parametrize("prompt", PROMPTS, ids=["full", "bare", "foreign"])
@torch.no_grad()
def test_condition_and_context_match_host(host: Host, source: Any, text_encoder: TextEncoder, encoder: ConditionEncoder,
                                          prompt: Prompt) -> None:
    frames = round(prompt.seconds * flow_matching.FRAMES_PER_SECOND)
    condition, context = captured_from_sampling(host, prompt, frames)
    silence = source.silence_latent(frames)[None]
    ours = encoder(text_encoder.encode_caption(prompt), text_encoder.embed_lyrics(prompt), silence)
    assert deviation(ours, condition.float()) <= FP32
    assert deviation(ours * (1 + PERTURBED), condition.float()) > FP32
    assert torch.equal(flow_matching.context_latents(silence), context.float())


@torch.no_grad()
def test_tiled_latents_match_host_mean(host: Host, source: Any, checkpoint: Checkpoint, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from demo.songs import write_demo_songs

    write_demo_songs(tmp_path)
    song = min((path for path in tmp_path.rglob("*") if path.suffix in (".wav", ".flac", ".ogg")),
               key=lambda path: decode(path).shape[1])
    waveform = decode(song)[:, :26 * 1920]
    mean = host.vae.first_stage_model.encoder(waveform[None]).chunk(2, dim=1)[0][0].T
    encode = source.audio_encoder(checkpoint, CPU)
    assert deviation(encode_tiled(encode, waveform, 60.0), mean) <= FP32
    assert deviation(encode_tiled(encode, waveform, 0.52), mean) <= FP32
    monkeypatch.setattr(latents, "TILE_OVERLAP", 2)
    assert deviation(encode_tiled(encode, waveform, 0.52), mean) > FP32
