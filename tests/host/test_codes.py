"""With audio codes, ComfyUI's sampler feeds the decoder what we train on: their latents where silence was, no more."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from demo.synthetic_model import DEMO_MODEL
from sidestep_core import rng
from sidestep_core.model import flow_matching
from sidestep_core.model.audio_codes import AudioCodec, load_audio_codec
from sidestep_core.model.checkpoint import Checkpoint
from tests.host.pack import pack_module
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
LENGTHS = (113, 760)
"""Frames: an incomplete last code, and longer than the 750 frames to which the host cuts its timbre reference."""


@pytest.fixture(scope="module")
def model(comfy: ModuleType, checkpoint: Checkpoint) -> Any:
    """The demo model as the host loads it."""
    assert checkpoint.model[0].name == DEMO_MODEL.name
    return comfy.sd.load_diffusion_model(str(checkpoint.model[0]))


@pytest.fixture(scope="module")
def codes(checkpoint: Checkpoint) -> AudioCodec:
    return load_audio_codec(checkpoint.model_weights(), CPU)


def song(frames: int) -> Tensor:
    return 2 * torch.randn(frames, 64, generator=rng.generator("codes", frames))


def fed(model: Any, frames: int, audio_codes: list[int] | None) -> tuple[Tensor, Tensor]:
    """Condition and context that the host's decoder gets while its own sampler runs one step, with codes or without."""
    import comfy.sample

    seen: dict[str, Tensor] = {}

    def capture(module: torch.nn.Module, args: tuple[()], kwargs: dict[str, Tensor]) -> None:
        seen.update(kwargs)

    random = rng.generator("words")
    caption, lyrics = torch.randn(1, 9, 1024, generator=random), torch.randn(1, 7, 1024, generator=random)
    settings: dict[str, Any] = {"conditioning_lyrics": lyrics}
    if audio_codes is not None:
        # As the text node leaves what its language model wrote.
        settings["audio_codes"] = [audio_codes]
    positive = [[caption, settings]]
    hook = model.model.diffusion_model.decoder.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        latent = torch.zeros(1, 64, frames)
        noise = comfy.sample.prepare_noise(latent, 1)
        comfy.sample.sample(model, noise, 1, 1.0, "euler", "simple", positive, positive, latent, seed=1)
    finally:
        hook.remove()
    return seen["encoder_hidden_states"].float(), seen["context_latents"].float()


@pytest.mark.parametrize("frames", LENGTHS)
@torch.no_grad()
def test_codes_replace_context_only(model: Any, codes: AudioCodec, frames: int) -> None:
    silence = pack_module("nodes.host.models").HostModels().silence_latent(frames)
    found = codes.encode(song(frames), silence)
    condition, context = fed(model, frames, found.tolist())
    condition_without, context_without = fed(model, frames, None)
    ours = flow_matching.context_latents(codes.decode(found)[None, :frames])
    assert deviation(ours, context) <= FP32
    assert deviation(ours * (1 + PERTURBED), context) > FP32
    assert torch.equal(flow_matching.context_latents(silence[None]), context_without)
    assert torch.equal(condition, condition_without)


@torch.no_grad()
def test_other_codes_change_context(model: Any, codes: AudioCodec) -> None:
    ours = flow_matching.context_latents(codes.decode(codes.encode(song(25), song(5)))[None])
    assert deviation(ours, fed(model, 25, [1, 2, 3, 4, 5])[1]) > PERTURBED


@torch.no_grad()
def test_host_tokenizer_differs_from_official(model: Any, codes: AudioCodec) -> None:
    """It takes tanh twice.  Nothing asks it for codes of a song but a reference audio; once this fails it is mended."""
    theirs = model.model.diffusion_model.tokenizer.tokenize(song(500)[None])[1].flatten()
    assert (theirs != codes.encode(song(500), song(5))).float().mean() > 0.5
