"""Without ComfyUI the VAE gives the very latents that it gives inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from demo.synthetic_model import diffusers_vae
from demo.synthetic_tensors import DEMO, STRIDES
from sidestep_core.io.atomic import write_json
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.standalone import OfficialModels
from tests.host.pack import pack_module
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
FRAMES = 5


@torch.no_grad()
def test_standalone_latents_match_host(comfy: ModuleType, checkpoint: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    write_tensors(file, diffusers_vae(read_tensors(checkpoint.vae)))
    write_json(file.parent / "config.json", {
        "encoder_hidden_size": DEMO.vae_channels, "downsampling_ratios": list(STRIDES),
        "channel_multiples": list(DEMO.vae_widths[1:]), "decoder_channels": DEMO.vae_channels,
        "decoder_input_channels": 64, "audio_channels": 2, "sampling_rate": 48000})
    wave = torch.randn(1, 2, FRAMES * 1920, generator=torch.Generator().manual_seed(0)) / 4
    expected = pack_module("nodes.host.models").HostModels().audio_encoder(checkpoint, CPU)(wave)
    found = OfficialModels(tmp_path / "model").audio_encoder(replace(checkpoint, vae=file, vae_prefix=""), CPU)(wave)
    assert found.shape == (1, 64, FRAMES)
    assert deviation(found, expected) <= FP32
    assert deviation(found * (1 + PERTURBED), expected) > FP32
