"""Commands beside training: songs, merged models, runs, presets, models of every layout, and outputs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch

from demo.synthetic_model import write_tiny_all_in_one, write_tiny_models, write_tiny_official
from demo.synthetic_tensors import Geometry
from sidestep_cli import console, models
from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.errors import CheckpointError
from sidestep_core.model.checkpoint import open_checkpoint
from sidestep_core.progress import Progress
from tests.tiny import write_byte_tokenizer
from tests.tolerance import FP32, deviation

from .conftest import Run, World

SAMPLES = 1920
SIZE = Geometry(vae_channels=128, vae_widths=(1, 1, 1, 1, 1, 1))


def test_fixed_preprocesses_first(run: Run, world: World, tmp_path: Path) -> None:
    words = ["fixed", "--checkpoint-dir", world.checkpoints, "--preprocess", "--audio-dir", world.one_song,
             "--tensor-output", tmp_path / "t", "--max-duration", 1]
    ended = run(*words)
    assert ended.code == 0
    dataset = open_dataset(tmp_path / "t")
    assert [sample.frames for sample in dataset.samples] == [25]
    ended = run(*words, "--json", "--output-dir", tmp_path / "o", "--max-steps", 1, "--device", "cpu")
    assert ended.code == 0
    results = [event for event in ended.events if event["event"] == "result"]
    assert [results[0]["encoded"], results[-1]["steps"]] == [0, 1]


def test_shards_merge_into_the_whole(run: Run, world: World, tmp_path: Path) -> None:
    words = ["preprocess", "--checkpoint-dir", world.checkpoints, "--audio-dir", world.music, "--tag", "mystyle"]
    for number in (1, 2):
        ended = run(*words, "--tensor-output", tmp_path / f"{number}", "--shard", f"{number}/2", "--json")
        assert ended.code == 0
        assert ended.events[-1]["shard"] == f"{number}/2"
        assert f"of 3 songs, those of shard {number} of 2, ready" in ended.events[-1]["text"]
    ended = run("fixed", "--checkpoint-dir", world.checkpoints, "--dataset-dir", tmp_path / "1", "--output-dir",
                tmp_path / "out", "--device", "cpu", "--yes")
    assert ended.code == 1
    assert "Merge the shards (side-step merge-datasets), and use the result." in ended.err
    assert run("merge-datasets", tmp_path / "1", "--output", tmp_path / "all").code == 1
    ended = run("merge-datasets", tmp_path / "2", tmp_path / "1", "--output", tmp_path / "all")
    assert (ended.code, ended.out[-1]) == (0, f"3 songs of 2 shards ready in {tmp_path / 'all'}.")
    assert {path.name: path.read_bytes() for path in (tmp_path / "all").iterdir()} == {
        path.name: path.read_bytes() for path in world.tensors.iterdir()}


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_impossible_shard_is_refused(run: Run, world: World, tmp_path: Path, shard: str) -> None:
    ended = run("preprocess", "--checkpoint-dir", world.checkpoints, "--audio-dir", world.music, "--tensor-output",
                tmp_path, f"--shard={shard}")
    assert ended.code == 2
    assert "--shard" in ended.err


def test_build_dataset_lists_the_songs(run: Run, world: World, tmp_path: Path) -> None:
    target = tmp_path / "dataset.json"
    words = ["build-dataset", "-i", world.music, "--tag", "word", "--tag-position", "append", "--genre-ratio", 25,
             "--name", "mine", "--output", target]
    assert run(*words).code == 0
    content = json.loads(target.read_text(encoding="utf-8"))
    assert content["metadata"]["custom_tag"] == "word"
    assert content["metadata"]["tag_position"] == "append"
    assert content["metadata"]["genre_ratio"] == 25
    assert [sample["caption"] for sample in content["samples"]] == ["song 0", "song 1", "song 2"]
    target.write_text('{"samples": []}', encoding="utf-8")
    ended = run(*words)
    assert ended.code == 1
    assert "exists already" in ended.err
    assert run(*words, "--yes").code == 0


def test_merge_writes_a_model(run: Run, world: World, tmp_path: Path) -> None:
    assert run(*world.training(tmp_path / "a", "--max-steps", 2)).code == 0
    words = ["apply", "--checkpoint-dir", world.checkpoints, "--adapter", tmp_path / "a" / "a.safetensors", "--output",
             tmp_path / "merged", "--strength", 0.5]
    ended = run(*words, "--json")
    assert ended.code == 0
    assert ended.events[-1]["model"] == str(tmp_path / "merged_turbo.safetensors")
    assert ended.events[-1]["weights"] == 16
    before = open_checkpoint(world.checkpoints / "acestep-v15-turbo").model_weights()
    folder = world.checkpoints
    after = open_checkpoint(tmp_path / "merged_turbo.safetensors", vae=folder / "vae",
                            text_encoder=folder / "Qwen3-Embedding-0.6B").model_weights()
    changed = [name for name in before.names if not before.tensor(name, torch.float32, torch.device("cpu")).equal(
        after.tensor(name, torch.float32, torch.device("cpu")))]
    assert len(changed) == 16
    assert run(*words, "--json").events[-1]["model"] == str(tmp_path / "merged_turbo.safetensors")
    assert run(*words, "--strength", 1, 2).code == 1


def test_runs_are_listed(run: Run, world: World, tmp_path: Path) -> None:
    assert run("runs", "--output-dir", tmp_path).code == 1
    assert run(*world.training(tmp_path / "a", "--max-steps", 2)).code == 0
    ended = run("runs", "--output-dir", tmp_path / "a", "--json")
    assert (ended.events[0]["status"], ended.events[0]["step"]) == ("finished", 2)
    assert "finished at step 2 of 2" in run("runs", "--output-dir", tmp_path / "a").text


def test_presets_are_shown_and_saved(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "vram_8gb" in run("preset").text
    assert json.loads(run("preset", "quick_test").text)["adapter"]["rank"] == 16
    assert run("preset", "quick_test", "--set", "rank: 8", "--save", "mine").code == 0
    assert json.loads(run("preset", "mine").text)["adapter"]["rank"] == 8
    assert run("preset", "--save", "mine").code == 1
    assert run("preset", "--save", "quick_test").code == 1


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder like ComfyUI's, with split files and one all-in-one file."""
    root = tmp_path_factory.mktemp("comfyui")
    for name in ("diffusion_models", "text_encoders", "vae", "checkpoints"):
        (root / "models" / name).mkdir(parents=True)
    split = write_tiny_models(root, SIZE, dtype=torch.float32)
    split.model.rename(root / "models/diffusion_models/acestep_v1.5_turbo.safetensors")
    split.text_encoder.rename(root / "models/text_encoders/qwen_0.6b_ace15.safetensors")
    split.vae.rename(root / "models/vae/ace_1.5_vae.safetensors")
    aio = write_tiny_all_in_one(root, SIZE)
    aio.model.rename(root / "models/checkpoints/ace_step_1.5_sft_aio.safetensors")
    write_byte_tokenizer(root / "comfy/text_encoders/qwen25_tokenizer")
    return root


@pytest.mark.parametrize("variant", ["turbo", "sft"])
def test_files_of_comfyui_train(run: Run, world: World, comfyui: Path, tmp_path: Path, variant: str) -> None:
    words = ["fixed", "--checkpoint-dir", comfyui / "models", "--model-variant", variant, "--preprocess", "--audio-dir",
             world.one_song, "--tensor-output", tmp_path / "t", "--output-dir", tmp_path / "o", "--max-steps", 1,
             "--device", "cpu"]
    assert run(*words).code == 0
    assert (tmp_path / "o" / "o.safetensors").is_file()


def test_vae_of_files_equals_the_official(comfyui: Path, tmp_path: Path) -> None:
    from sidestep_core.model.standalone import LooseFiles, OfficialModels

    official = write_tiny_official(tmp_path, SIZE)
    wave = torch.randn(1, 2, 12 * SAMPLES, generator=torch.Generator().manual_seed(0)) / 4
    cpu, split = torch.device("cpu"), open_checkpoint(
        comfyui / "models/diffusion_models/acestep_v1.5_turbo.safetensors",
        text_encoder=comfyui / "models/text_encoders/qwen_0.6b_ace15.safetensors",
        vae=comfyui / "models/vae/ace_1.5_vae.safetensors")
    theirs = OfficialModels(official.model).audio_encoder(open_checkpoint(official.model), cpu)(wave)
    source = LooseFiles(split, tmp_path)
    found = source.audio_encoder(split, cpu)
    assert deviation(found(wave).bfloat16(), theirs.bfloat16()) <= 2 ** -5
    assert deviation(found(wave / 2), theirs) > 2 ** -5
    silence = source.silence_latent(60)
    assert silence.shape == (60, 64)
    assert deviation(silence, found(torch.zeros(1, 2, 80 * SAMPLES))[0].T[:60]) <= FP32


def test_ambiguous_models_are_named(comfyui: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model 'base'; it holds acestep_v1.5_turbo"):
        models.find_model(comfyui / "models", "base")
    with pytest.raises(CheckpointError, match="no model 'turbo'; it holds no model"):
        models.find_model(tmp_path, "turbo")


def test_rich_output_has_a_curve() -> None:
    from rich.console import Console

    file = io.StringIO()
    output = console.Rich(Console(file=file, force_terminal=True, width=120, color_system=None))
    output.table("Training", [("Songs", "3")])
    for step in range(1, 40):
        output.progress(Progress(stage="train", step=step, total=40, metrics={
            "loss": 1 / step, "smoothed": 1 / step, "eta_seconds": 90.0}))
    output.progress(Progress(stage="train", step=39, total=40, notice="Mind this."))
    output.result({}, "Done.")
    text = file.getvalue()
    assert "Songs" in text
    assert "Mind this." in text
    assert text.rstrip().endswith("Done.")
    assert "\u2588\u2581" in text.replace("\u2582", "\u2581") or "\u2588" in text


def test_curve_keeps_its_shape() -> None:
    assert console.curve([4, 3, 2, 1]) == "\u2588\u2586\u2583\u2581"
    assert len(console.curve(list(range(1000)))) == console.CURVE_WIDTH
    assert console.curve([1.0]) == ""


def test_plain_output_is_chosen_without_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(console.choose(plain=False, as_json=False), console.Plain)
    assert isinstance(console.choose(plain=True, as_json=True), console.Lines)
    assert os.linesep


@pytest.mark.parametrize(("seconds", "text"), [(8, "8 s"), (90, "2 min"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text
