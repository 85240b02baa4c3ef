"""Without ComfyUI, an official folder and diffusers give the same model source."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from demo.synthetic_model import write_tiny_all_in_one, write_tiny_official
from demo.synthetic_tensors import Geometry
from sidestep_core.adapters.file import open_adapter
from sidestep_core.adapters.formats import read
from sidestep_core.dataset.latents import encode_tiled
from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.errors import CheckpointError, MissingDependency
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.condition_encoder import TextEncoder
from sidestep_core.model.standalone import OfficialModels
from tests.tiny import SAMPLES_PER_FRAME, write_byte_tokenizer
from tests.tolerance import FP32, PERTURBED, deviation
from tests.tones import encode as write_audio
from tests.tones import tone

CPU = torch.device("cpu")
GUIDE = Path(__file__).parents[3] / "docs" / "standalone.md"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the folder of a model, with its siblings."""
    folder = tmp_path_factory.mktemp("work") / "checkpoints"
    paths = write_tiny_official(folder, Geometry(vae_channels=128, vae_widths=(1, 1, 1, 1, 1, 1)))
    write_byte_tokenizer(paths.text_encoder)
    return paths.model


@pytest.fixture(scope="module")
def checkpoint(official: Path) -> Checkpoint:
    return open_checkpoint(official)


@pytest.fixture
def copied(official: Path, tmp_path: Path) -> Path:
    """Copy of the folder, for damage."""
    shutil.copytree(official.parent, tmp_path / "checkpoints")
    return tmp_path / "checkpoints" / official.name


def test_latents_are_posterior_means(official: Path, checkpoint: Checkpoint) -> None:
    from diffusers import AutoencoderOobleck

    theirs = AutoencoderOobleck.from_pretrained(official.parent / "vae").eval()
    wave = torch.randn(1, 2, 20 * SAMPLES_PER_FRAME, generator=torch.Generator().manual_seed(0)) / 4
    with torch.no_grad():
        posterior = theirs.encode(wave).latent_dist
        encode = OfficialModels(official).audio_encoder(checkpoint, CPU)
        found = encode(wave)
        assert found.shape == (1, 64, 20)
        assert deviation(found, posterior.mean) <= FP32
        assert deviation(found * (1 + PERTURBED), posterior.mean) > FP32
        assert deviation(posterior.sample(), posterior.mean) > PERTURBED
        assert deviation(encode_tiled(encode, wave[0], 0.4), posterior.mean[0].T) <= FP32


def test_silence_comes_from_folder(official: Path) -> None:
    stored = torch.load(official / "silence_latent.pt", weights_only=True)[0].T
    models = OfficialModels(official)
    assert torch.equal(models.silence_latent(750), stored[:750])
    longer = models.silence_latent(15007)
    assert torch.equal(longer[:15000], stored)
    assert torch.equal(longer[15000:], stored[:7])


def test_guide_runs(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the code of docs/standalone.md, except for the number of steps."""
    shutil.copytree(official.parent, tmp_path / "checkpoints")
    music = tmp_path / "music"
    music.mkdir()
    for pitch in (220, 330):
        write_audio(music / f"{pitch}.wav", tone(48000, 1.0, pitch, pitch), 48000, "pcm_s16le", "s16")
    monkeypatch.chdir(tmp_path)
    guide = GUIDE.read_text(encoding="utf-8")
    block = re.search(r"```python\n(.+?)```", guide, re.DOTALL)
    assert block is not None
    assert "max_steps=1000" in block[1]
    exec(block[1].replace("max_steps=1000", "max_steps=2"), {})  # noqa: S102
    adapter = open_adapter(tmp_path / "my_lora.safetensors")
    assert (adapter.steps, adapter.trigger_word) == (2, "mystyle")
    assert read(adapter.path).total > 0
    assert open_dataset(tmp_path / "dataset").style == "official"


def test_missing_package_is_named(official: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    models = OfficialModels(official)
    with pytest.raises(MissingDependency, match="pip install diffusers"):
        models.audio_encoder(checkpoint, CPU)
    with pytest.raises(MissingDependency, match="pip install --upgrade transformers"):
        TextEncoder(checkpoint.text_encoder_weights(), models.tokenizer_folder, CPU)


def test_missing_tokenizer_is_named(copied: Path) -> None:
    (copied.parent / "Qwen3-Embedding-0.6B" / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no tokenizer .*Download the whole folder Qwen3-Embedding-0\.6B"):
        _ = OfficialModels(copied).tokenizer_folder


def test_other_vae_layout_is_refused(official: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_all_in_one(tmp_path).model)
    with pytest.raises(CheckpointError, match="is not the VAE of an official folder"):
        OfficialModels(official).audio_encoder(checkpoint, CPU)


@pytest.mark.parametrize("content", [b"", b"rubbish", torch.zeros(1, 3, 7), torch.zeros(1, 64, 0), {"silence": 1}])
def test_damaged_silence_is_named(copied: Path, content: object) -> None:
    path = copied / "silence_latent.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"silence_latent\.pt .*Download the official folder again"):
        OfficialModels(copied).silence_latent(10)


def test_missing_silence_is_named(copied: Path) -> None:
    (copied / "silence_latent.pt").unlink()
    with pytest.raises(CheckpointError, match=r"There is no silence_latent\.pt in .*Download"):
        OfficialModels(copied).silence_latent(10)
