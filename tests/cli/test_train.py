"""Trainings from the command line: results, stops, continuations, and what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidestep_core.adapters.file import facts_of
from sidestep_core.adapters.formats import read
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import open_checkpoint
from sidestep_core.model.standalone import OfficialModels
from sidestep_core.runs import files, influence
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.train import train

from .conftest import Run, World

ROOT = Path(__file__).parents[2]


def adapter_of(out: Path) -> Path:
    return out / f"{out.name}.safetensors"


def test_adapter_equals_the_librarys(run: Run, world: World, tmp_path: Path) -> None:
    ended = run(*world.training(tmp_path / "cli", "--max-steps", 4))
    assert ended.code == 0
    folder = world.checkpoints / "acestep-v15-turbo"
    config = TrainConfig(max_steps=4, learning_rate=3e-3, gradient_accumulation=2, heldout_songs=1, heldout_every=4,
                         device="cpu")
    ours = train(OfficialModels(folder), open_checkpoint(folder), open_dataset(world.tensors),
                 LoraConfig(rank=4, alpha=8.0), config, tmp_path / "run", tmp_path / "a.safetensors")
    assert adapter_of(tmp_path / "cli").read_bytes() == ours.path.read_bytes()
    assert facts_of(ours.path)["trigger_word"] == "mystyle"


def test_results_open_in_peft(run: Run, world: World, tmp_path: Path) -> None:
    run(*world.training(tmp_path / "mine", "--max-steps", 2))
    names = {path.name for path in (tmp_path / "mine").iterdir() if path.is_file()}
    assert names >= {"mine.safetensors", "adapter_config.json", "adapter_model.safetensors"}
    assert len(read(tmp_path / "mine").modules) == len(read(adapter_of(tmp_path / "mine")).modules) > 0
    [log] = (tmp_path / "mine" / "runs").glob("*/side-step.log")
    assert "Training 16 modules" in log.read_text(encoding="utf-8")


def test_summary_names_what_will_happen(run: Run, world: World, tmp_path: Path) -> None:
    ended = run(*world.training(tmp_path / "mine", "--max-steps", 2, "--json"))
    [table] = [event for event in ended.events if event["event"] == "table"]
    assert set(table["rows"]) >= {"Model", "Songs", "Steps", "Time", "Memory", "Adapter file", "Run"}
    assert table["rows"]["Steps"].startswith("2; each song is heard 2 times")
    assert ended.events[-1]["event"] == "result"
    assert ended.events[-1]["steps"] == 2
    assert [event["step"] for event in ended.events if "loss" in event] == [1, 2]


def test_epochs_count_as_in_side_step(run: Run, world: World, tmp_path: Path) -> None:
    """Two songs are trained on, so a step of two samples is an epoch."""
    ended = run(*world.training(tmp_path / "a", "--epochs", 3, "--save-every", 2, "--keep-checkpoints", "all",
                                "--sample-every-n-epochs", 2))
    assert ended.code == 0
    assert "No preview is generated every 2 steps" in ended.text
    saved = sorted(path.name for path in (tmp_path / "a" / "runs").glob("*/checkpoint-step-*"))
    assert saved == ["checkpoint-step-2", "checkpoint-step-3"]


def test_preset_and_lokr(run: Run, world: World, tmp_path: Path) -> None:
    ended = run(*world.training(tmp_path / "a", "--preset", "quick_test", "--adapter-type", "lokr", "--lokr-factor",
                                "4", "--max-steps", "2"))
    assert ended.code == 0
    assert "rank, alpha of a lora is not used" in ended.text
    facts = facts_of(adapter_of(tmp_path / "a"))
    assert facts["adapter"]["kind"] == "lokr"
    assert facts["adapter"]["factor"] == 4
    assert facts["train"]["max_steps"] == 2


def test_selective_trains_chosen_modules(run: Run, world: World, tmp_path: Path) -> None:
    file = tmp_path / "estimate.json"
    ended = run("estimate", "--checkpoint-dir", world.checkpoints, "--dataset-dir", world.tensors, "--device", "cpu",
                "--estimate-batches", 4, "--top-k", 3, "--output", file, "--heat-map", tmp_path / "map.png")
    assert ended.code == 0
    assert "3 of 22 modules" in ended.text
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    ended = run(*world.training(tmp_path / "a", "--max-steps", 1, "--module-config", file, "--top-k", 3,
                                command="selective"))
    assert ended.code == 0
    assert len(read(adapter_of(tmp_path / "a")).modules) == 3
    ended = run(*world.training(tmp_path / "b", "--max-steps", 1, "--auto-estimate", "--estimate-batches", 4, "--top-k",
                                2, command="selective"))
    assert ended.code == 0
    assert len(read(adapter_of(tmp_path / "b")).modules) == 2
    compared = run("compare-configs", "--configs", file, file, "--top-k", 3)
    assert compared.code == 0
    assert "Rank correlation" in compared.text
    assert run(*world.training(tmp_path / "c", command="selective")).code == 1


def test_influence_is_kept_beside_the_run(run: Run, world: World, tmp_path: Path) -> None:
    assert run(*world.training(tmp_path / "a", "--max-steps", "2")).code == 0
    file = adapter_of(tmp_path / "a")
    words = ("influence", "--checkpoint-dir", world.checkpoints, "--dataset-dir", world.tensors, "--device", "cpu",
             "--draws", 4, "--adapter")
    ended = run(*words, file, "--json")
    assert ended.code == 0
    assert sum(event["event"] == "progress" and event["stage"] == "estimate" for event in ended.events) == 3 * 4
    (folder,) = (tmp_path / "a" / "runs").iterdir()
    found = influence.read(folder / files.INFLUENCE)
    assert found is not None
    assert (found.step, len(found.songs)) == (2, 2)
    assert [song["song"] for song in ended.events[-1]["songs"]] == [song.song for song in found.songs]
    assert ended.events[-1]["songs"][0]["verdict"] in ("helps", "neutral", "harms")
    listed = run("runs", "--output-dir", tmp_path / "a")
    assert f"Harmful songs  {', '.join(found.named('harms')) or 'none'}" in re.sub(" {3,}", "  ", listed.text)
    elsewhere = shutil.copy(file, tmp_path / "alone.safetensors")
    alone = run(*words, elsewhere)
    assert alone.code == 0
    assert "Give --run with its folder" in alone.text
    assert found.songs[0].song in alone.text
    assert run(*words, elsewhere, "--run", tmp_path).code == 1


@pytest.mark.parametrize(("words", "message"), [
    ("fixed --checkpoint-dir nowhere --dataset-dir d --output-dir o", "nowhere does not exist"),
    ("fixed --checkpoint-dir {models} --dataset-dir nowhere --output-dir o", "holds no dataset"),
    ("fixed --checkpoint-dir {models} --model-variant xl --dataset-dir d --output-dir o", "there is no model 'xl'"),
    ("fixed --checkpoint-dir {models} --output-dir o", "--dataset-dir is missing"),
    ("fixed --checkpoint-dir {models} --dataset-dir {tensors}", "--output-dir is missing"),
    ("fixed --checkpoint-dir {models} --dataset-dir {tensors} --output-dir o --epochs 2 --max-steps 3", "both set"),
    ("fixed --checkpoint-dir {models} --dataset-dir {tensors} --output-dir o --device cuda:9", "not available"),
    ("fixed --checkpoint-dir {models} --dataset-dir {tensors} --output-dir o --preset mine", "no preset 'mine'"),
])
def test_errors_are_exit_1_with_advice(run: Run, world: World, words: str, message: str) -> None:
    ended = run(*words.format(models=world.checkpoints, tensors=world.tensors).split())
    assert ended.code == 1
    assert message in ended.err


def test_message_names_the_command(run: Run, world: World, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    ended = run("fixed", "--checkpoint-dir", world.checkpoints, "--dataset-dir", tmp_path, "--output-dir", "o")
    assert "Preprocess the songs again (side-step preprocess)" in ended.err


def test_vanilla_says_what_replaces_it(run: Run) -> None:
    ended = run("vanilla")
    assert ended.code == 0
    assert "--timestep-mode discrete --cfg-ratio 0" in ended.text


def started(words: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "sidestep_cli", *words, "--json"], cwd=folder, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8")


def test_interrupt_keeps_and_continues(run: Run, world: World, tmp_path: Path) -> None:
    """Ctrl-C in a process of its own, then the same command: the result is that of an undisturbed run."""
    words = [*world.training(tmp_path / "a"), "--max-steps", "40", "--save-every-steps", "1000"]
    with started(words, tmp_path) as process:
        assert process.stdout is not None
        kept = ""
        for line in process.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("step") == 5 and "loss" in event:
                process.send_signal(signal.SIGINT)
            kept = event.get("text", kept)
    assert process.returncode == 130
    assert "The same command continues." in kept
    ended = run(*words, "--json")
    assert ended.code == 0
    steps = [event["step"] for event in ended.events if "loss" in event]
    assert 5 <= steps[0] <= 40
    assert steps[-1] == 40
    assert run(*world.training(tmp_path / "b" / "a"), "--max-steps", "40").code == 0
    one, other = (read_tensors(adapter_of(folder)) for folder in (tmp_path / "a", tmp_path / "b" / "a"))
    assert all(one[name].equal(other[name]) for name in one)
    assert "finished already" in run(*words, "--json").text
