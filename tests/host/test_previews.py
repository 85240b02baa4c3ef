"""Previews during training: what the plain workflow generates with that adapter, and nothing else is changed by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters import file as adapter_file
from sidestep_core.audio.decode import SAMPLE_RATE, decode, flac
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress
from sidestep_core.training.config import TrainConfig
from tests.host.pack import pack_module

SECONDS = 1.0
STEPS, SHIFT, GUIDANCE = 2, 1.0, 6.0
CAPTION = "calm piano, rain"
CONFIG = TrainConfig(preview_every=10, preview_seconds=SECONDS, inference_steps=STEPS, seed=7)
NODE = "4"
HEARD = 0.01
"""A difference, or a loudness, that no rounding makes."""


@pytest.fixture(scope="module")
def previews(comfy: ModuleType) -> ModuleType:
    """nodes/host/previews.py in this process, with a server that nobody is connected to."""
    import server

    server.PromptServer(asyncio.new_event_loop())
    return pack_module("nodes.host.previews")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def adapter(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that changes the model a lot."""
    random = torch.Generator().manual_seed(1)
    tensors = {}
    weights = checkpoint.model_weights()
    for name in ("q_proj", "v_proj"):
        rows, columns = weights.shape(f"decoder.layers.0.self_attn.{name}.weight")
        for factor, shape in (("A", (4, columns)), ("B", (rows, 4))):
            tensors[f"base_model.model.layers.0.self_attn.{name}.lora_{factor}.weight"] = torch.randn(
                shape, generator=random) / 4
        tensors[f"base_model.model.layers.0.self_attn.{name}.alpha"] = torch.tensor(4.0)
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    adapter_file.write(path, tensors, {})
    return path


@pytest.fixture(scope="module")
def listeners() -> list[Callable[[Progress], None]]:
    """Listeners to the progress of sampling."""
    return []


@pytest.fixture(scope="module")
def make_preview(previews: ModuleType, checkpoint: Checkpoint, run: Path,
            listeners: list[Callable[[Progress], None]]) -> Any:
    """One for all tests, as for a whole training."""
    def report(progress: Progress) -> None:
        for listener in listeners:
            listener(progress)

    # Of the base variant, which is sampled with guidance: then the negative prompt is heard too.
    return previews.preview_maker(NODE, run, replace(checkpoint, variant="base"), CONFIG, CAPTION, report)


@pytest.fixture(scope="module")
def after(make_preview: Any, run: Path, adapter: Path) -> Tensor:
    """The preview with the adapter; the one without is made along with it, as it is missing."""
    state = torch.random.get_rng_state()
    make_preview(adapter, 10)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    return decode(run / "previews" / "step-000010.flac")


@pytest.fixture(scope="module")
def before(run: Path, after: Tensor) -> Tensor:
    """The preview of the model alone."""
    return decode(run / "previews" / "step-000000.flac")


def history(previews: ModuleType) -> Any:
    return previews.events._histories[NODE]


def plain_workflow(comfy: ModuleType, checkpoint: Checkpoint, text_encoders: list[str]) -> Tensor:
    """Audio that ComfyUI's own nodes make of this prompt and seed, as a person connects them."""
    from comfy_extras import nodes_ace, nodes_audio, nodes_model_advanced

    import nodes

    with torch.inference_mode():
        clip = comfy.sd.load_clip(text_encoders, clip_type=comfy.sd.CLIPType.ACE)
        [positive] = nodes_ace.TextEncodeAceStepAudio15.execute(
            clip, tags=CAPTION, lyrics="[Instrumental]", seed=0, bpm=120, duration=SECONDS, timesignature="4",
            language="en", keyscale="C major", generate_audio_codes=False, cfg_scale=2.0, temperature=0.85, top_p=0.9,
            top_k=0, min_p=0.0).args
        [negative] = nodes.ConditioningZeroOut().zero_out(positive)
        [latent] = nodes_ace.EmptyAceStep15LatentAudio.execute(seconds=SECONDS, batch_size=1).args
        model = comfy.sd.load_diffusion_model(str(checkpoint.model[0]))
        [model] = nodes_model_advanced.ModelSamplingAuraFlow().patch_aura(model, SHIFT)
        [latent] = nodes.KSampler().sample(model, CONFIG.seed, STEPS, GUIDANCE, "euler", "simple", positive, negative,
                                           latent)
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(checkpoint.vae)))
        [sound] = nodes_audio.VAEDecodeAudio.execute(vae, latent).args
    return sound["waveform"][0]


def test_first_preview_equals_plain_workflow(comfy: ModuleType, before: Tensor, checkpoint: Checkpoint,
                                             demo_models: Path, tmp_path: Path) -> None:
    encoders = [str(path) for path in sorted((demo_models / "text_encoders").glob("*.safetensors"))]
    expected = plain_workflow(comfy, checkpoint, encoders)
    (tmp_path / "expected.flac").write_bytes(flac(expected))
    assert torch.equal(before, decode(tmp_path / "expected.flac"))


def test_preview_has_requested_length(before: Tensor) -> None:
    assert before.shape == (2, round(SECONDS * SAMPLE_RATE))
    assert float(before.abs().max()) > HEARD


def test_adapter_changes_the_preview(previews: ModuleType, before: Tensor, after: Tensor) -> None:
    assert after.shape == before.shape
    assert float((after - before).abs().max()) > HEARD
    assert [(preview.step, preview.message) for preview in history(previews).previews] == [(0, ""), (10, "")]


def test_models_are_unloaded_afterwards(comfy: ModuleType, before: Tensor) -> None:
    assert comfy.model_management.current_loaded_models == []


def test_earlier_previews_are_shown(previews: ModuleType, checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "previews").mkdir()
    for name in ("step-000000.flac", "step-000040.flac", "notes.flac"):
        (tmp_path / "previews" / name).touch()
    previews.preview_maker("5", tmp_path, checkpoint, TrainConfig(), CAPTION)
    assert [preview.step for preview in previews.events._histories["5"].previews] == [0, 40]


def test_sampling_follows_the_variant(previews: ModuleType, checkpoint: Checkpoint) -> None:
    def sampling(variant: str, config: TrainConfig) -> tuple[int, float, float]:
        settings = previews._settings(replace(checkpoint, variant=variant), config, "first song")
        return settings.steps, settings.shift, settings.cfg

    assert sampling("turbo", TrainConfig()) == (8, 3.0, 1.0)
    assert sampling("base", TrainConfig()) == (50, 1.0, 6.0)
    assert sampling("sft", TrainConfig(inference_steps=30, shift=3.0)) == (30, 3.0, 7.0)
    assert previews._settings(checkpoint, TrainConfig(), "first song").caption == "first song"
    assert previews._settings(checkpoint, TrainConfig(preview_caption="mine"), "first song").caption == "mine"


def test_other_prompt_hides_old_previews(previews: ModuleType, checkpoint: Checkpoint, run: Path,
                                         before: Tensor) -> None:
    def shown(node: str, config: TrainConfig) -> list[int]:
        previews.preview_maker(node, run, replace(checkpoint, variant="base"), config, CAPTION)
        found = previews.events._histories.get(node)
        return [] if found is None else [preview.step for preview in found.previews]

    assert shown("6", CONFIG) == [0, 10]
    assert shown("7", replace(CONFIG, preview_every=20)) == [0, 10]
    assert shown("8", replace(CONFIG, preview_caption="loud drums")) == []


def test_cancelling_leaves_no_preview(make_preview: Any, run: Path,
                                      listeners: list[Callable[[Progress], None]]) -> None:
    cancelled = pack_module("sidestep_core.progress").Cancelled
    steps: list[int] = []

    def cancel_at_step_1(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 1:
            raise cancelled("Stopped.")

    listeners.append(cancel_at_step_1)
    with pytest.raises(cancelled):
        make_preview(None, 30)
    listeners.clear()
    assert steps == [0, 0, 1]
    assert not (run / "previews" / "step-000030.flac").exists()


def test_comfyui_interrupt_cancels_preview(comfy: ModuleType, make_preview: Any, run: Path) -> None:
    """Its sampler takes the interrupt for itself, so nobody else hears of it."""
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(pack_module("sidestep_core.progress").Cancelled):
        make_preview(None, 30)
    assert not (run / "previews" / "step-000030.flac").exists()


def test_failed_preview_lets_training_continue(previews: ModuleType, make_preview: Any, run: Path,
                                               tmp_path: Path) -> None:
    make_preview(tmp_path / "missing.safetensors", 40)
    failed = history(previews).previews[-1]
    assert (failed.step, failed.file) == (40, None)
    assert "missing.safetensors" in failed.message
    assert pack_module("sidestep_core.runs.previews").failed(run) == ((40, failed.message),)
