"""From a folder of songs to a dataset in a real ComfyUI server: found, analyzed, captioned, encoded, trained on."""

from __future__ import annotations

import csv
import json
import shutil
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.examples import BUILD
from demo.models import model_files, with_models
from demo.server import ComfyUI, Outcome
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL
from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.io.tensors import TensorFile
from sidestep_core.model.checkpoint import Checkpoint
from tests.host.test_pipeline import facts, node_of, ran, with_inputs

SECONDS = 1.0
"""Seconds of each song, in one dataset for all tests of a server: encoded songs are not encoded again."""
SECTION = 20.0
"""Longest."""
NAMES = ["neon drive.wav", "paper waltz.ogg", "slow rain.flac"]
CAPTIONS = ["driving synthwave, bright saw chords, four on the floor drums",
            "playful waltz, music box, light percussion",
            "calm lo-fi, soft electric piano, warm bass, slow drums"]
BUILDING, ANALYZING, PREPROCESSING = "SideStepBuildDataset", "SideStepAnalyzeSongs", "SideStepPreprocessAudioFolder"
TRAINING = "SideStepTrainAdapter"
BUILD_INPUTS = {"folder": "demo_songs", "dataset_name": "built", "trigger_word": "", "trigger_position": "prepend",
                "genre_ratio": 0.0, "prompt_override": "as written", "all_instrumental": False, "language": ""}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def building(**changes: Any) -> dict[str, Any]:
    return node(BUILDING, **(BUILD_INPUTS | changes))


def preprocessing(songs: str, name: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """A checkpoint and the preprocessing of the songs of a node."""
    loader = node("SideStepLoadACEStepCheckpoint", model="diffusion_models/acestep_v1.5_demo_turbo.safetensors",
                  text_encoder="automatic", vae="automatic", variant="automatic")
    inputs = {"checkpoint": ["load", 0], "songs": [songs, 0], "folder": "", "dataset_name": name, "trigger_word": "",
              "trigger_position": "prepend", "max_seconds": SECONDS, "tile_seconds": 10.0}
    return {"load": loader, "encode": node(PREPROCESSING, **(inputs | changes))}


def told(outcome: Outcome, name: str) -> dict[str, Any]:
    """Message of a node, by its id."""
    [found] = outcome.outputs[name]["sidestep"]
    return found


def rows(server: ComfyUI, outcome: Outcome, name: str) -> list[dict[str, Any]]:
    """The table of a node."""
    found: list[dict[str, Any]] = server.get_json(f"/sidestep/songs/{told(outcome, name)['preview']}")["rows"]
    return found


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def write_long_song(folder: Path) -> None:
    """Thirty seconds: a demo song five times over."""
    folder.mkdir()
    with wave.open(str(folder.parent / "demo_songs" / NAMES[0]), "rb") as song:
        facts, frames = song.getparams(), song.readframes(song.getnframes())
    with wave.open(str(folder / "long.wav"), "wb") as song:
        song.setparams(facts)
        song.writeframes(5 * frames)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The example workflow with little to do."""
    prompt = with_models(json.loads(BUILD.prompt.read_text(encoding="utf-8")),
                         model_files(BASE / "models" / DEMO_MODEL))
    return with_inputs(prompt, {
        PREPROCESSING: {"max_seconds": SECONDS, "dataset_name": "demo"},
        TRAINING: {"max_steps": 3, "adapter_name": "whole", "chunk_duration": "whole songs"},
        "SideStepTrainingSettings": {"gradient_accumulation": 1, "heldout_every": 3, "save_every": 100},
    })


@pytest.mark.slow
def test_folder_becomes_an_adapter(server: ComfyUI, whole: dict[str, Any]) -> None:
    music = server.base / "input" / "demo_songs"
    before = files_of(music)
    outcome = ran(server, whole)
    adapter = facts(outcome, whole, TRAINING)
    assert adapter["steps"] == 3
    assert adapter["trigger_word"] == whole[node_of(whole, BUILDING)]["inputs"]["trigger_word"] != ""
    assert len(TensorFile(server.place(adapter["adapter"])).stored) > 0
    written = server.base / "output" / "sidestep" / "songs" / "demo"
    samples = json.loads((written / "dataset.json").read_text(encoding="utf-8"))["samples"]
    assert [sample["caption"] for sample in samples] == CAPTIONS
    with (written / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        report = list(csv.DictReader(file))
    assert [line["name"] for line in report] == NAMES
    assert [float(line["seconds"]) for line in report] == [pytest.approx(6, abs=0.1), pytest.approx(10.8, abs=0.1),
                                                           pytest.approx(8, abs=0.1)]
    dataset = open_dataset(server.base / "output" / "sidestep" / "datasets" / "demo")
    trigger_word = adapter["trigger_word"]
    assert [sample.caption for sample in dataset.samples] == [f"{trigger_word}, {caption}" for caption in CAPTIONS]
    assert [sample.bpm for sample in dataset.samples][:2] == [120, 100]
    assert files_of(music) == before, "running a workflow wrote into the music folder"


@pytest.mark.slow
def test_settings_reach_the_samples(server: ComfyUI) -> None:
    prompt = {"b": building(trigger_word="brand", trigger_position="append", language="de", genre_ratio=0.2),
              **preprocessing("b", "demo", normalise="lufs")}
    ran(server, prompt)
    dataset = open_dataset(server.base / "output" / "sidestep" / "datasets" / "demo")
    assert [sample.caption for sample in dataset.samples] == [f"{caption}, brand" for caption in CAPTIONS]
    assert [sample.language for sample in dataset.samples] == ["en", "en", "de"]
    assert (dataset.trigger_word, dataset.genre_ratio) == ("brand", 0.2)


def test_rejected_songs_are_shown(server: ComfyUI) -> None:
    folder = server.base / "input" / "partly bad"
    shutil.copytree(server.base / "input" / "demo_songs", folder)
    (folder / "empty.mp3").touch()
    outcome = ran(server, {"b": building(folder="partly bad")})
    assert told(outcome, "b")["songs"] == 3
    [problem] = told(outcome, "b")["problems"]
    assert problem["name"] == "empty.mp3"
    assert "0 bytes" in problem["reason"]


def test_changed_sidecar_is_noticed(server: ComfyUI) -> None:
    folder = server.base / "input" / "changing"
    shutil.copytree(server.base / "input" / "demo_songs", folder)
    prompt = {"b": building(folder="changing")}
    key = told(ran(server, prompt), "b")["preview"]
    assert told(ran(server, prompt), "b")["preview"] == key
    (folder / "slow rain.caption.txt").write_text("now it is loud", encoding="utf-8")
    again = ran(server, prompt)
    assert told(again, "b")["preview"] != key
    assert rows(server, again, "b")[2]["caption"] == "now it is loud"


@pytest.mark.slow
def test_analysis_fills_gaps_and_stops(server: ComfyUI) -> None:
    folder = server.base / "input" / "analyzed"
    write_long_song(folder)
    for name in ("written.wav", "silent.wav"):
        shutil.copy(folder / "long.wav", folder / name)
    (folder / "written.txt").write_text("bpm: 99\nkey: B minor", encoding="utf-8")
    (folder / "silent.wav").write_bytes((folder / "long.wav").read_bytes()[:44] + bytes(1_000_000))
    prompt = {"b": building(folder="analyzed", dataset_name="analyzed"),
              "a": node(ANALYZING, songs=["b", 0], dataset_name="analyzed", fill="missing", confidence=0.0),
              "t": node("PreviewAny", source=["a", 1])}
    outcome = ran(server, prompt)
    [analyzed, written] = rows(server, outcome, "a")
    assert (written["bpm"], written["key"]) == ("99", "B minor"), "what was written is kept"
    assert int(analyzed["bpm"]) in (60, 119, 120, 121, 240)
    assert analyzed["key"] != ""
    assert "sure" in written["estimated"]["bpm"]
    assert all("same recording" in " ".join(row["warnings"]) for row in (analyzed, written))
    assert [problem["name"] for problem in told(outcome, "a")["problems"]] == ["silent.wav"]
    assert "long.wav" in outcome.outputs["t"]["text"][0]
    stages = [data["stage"] for kind, data in outcome.events if kind == "sidestep.progress" and data["node_id"] == "a"]
    assert set(stages) == {"analyze"}
    only_told = ran(server, with_inputs(prompt, {ANALYZING: {"fill": "nothing"}}))
    assert [row["bpm"] for row in rows(server, only_told, "a")] == ["", "99"]

    many = server.base / "input" / "many"
    many.mkdir()
    for number in range(40):
        shutil.copy(server.base / "input" / "demo_songs" / "neon drive.wav", many / f"{number}.wav")
        with (many / f"{number}.wav").open("ab") as file:
            file.write(bytes([number]))  # each another file
    asked: list[int] = []

    def stop(event: tuple[str, dict[str, Any]]) -> None:
        kind, data = event
        if kind == "sidestep.progress" and data["step"] >= 1 and not asked:
            asked.append(data["step"])
            server.interrupt()

    long = {"b": building(folder="many"), "a": prompt["a"]}
    outcome = server.wait(server.submit(long), 300, stop)
    assert outcome.status == "interrupted"
    assert asked


def test_captions_come_from_other_nodes(server: ComfyUI) -> None:
    """ComfyUI's own node for text runs once for each of a list: as captioning nodes do with Song Audio's clips."""
    prompt = {"b": building(), "l": node("SideStepSongAudio", songs=["b", 0], seconds=1.0, start=2.0),
              "t": node("StringConcatenate", string_a="a song called", string_b=["l", 1], delimiter=" "),
              "c": node("SideStepCaptionSongs", songs=["l", 2], captions=["t", 0], replace=True)}
    outcome = ran(server, prompt)
    assert [row["caption"] for row in rows(server, outcome, "c")] == [f"a song called {name}" for name in NAMES]
    kept = with_inputs(prompt, {"SideStepCaptionSongs": {"replace": False}})
    assert [row["caption"] for row in rows(server, ran(server, kept), "c")] == CAPTIONS


def test_clip_has_requested_length(server: ComfyUI) -> None:
    prompt = {"b": building(), "l": node("SideStepSongAudio", songs=["b", 0], seconds=1.5, start=600.0),
              "p": node("PreviewAudio", audio=["l", 0])}
    outcome = ran(server, prompt)
    clips = outcome.outputs["p"]["audio"]
    assert len(clips) == len(NAMES)
    from sidestep_core.audio.container import facts as facts_of

    path = server.base / "temp" / clips[0]["subfolder"] / clips[0]["filename"]
    assert facts_of(path).seconds == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(("nodes", "said"), [
    ({"c": node("SideStepCaptionSongs", songs=["b", 0], captions="only one", replace=True)}, "Texts: 1, songs: 3"),
    ({"l": node("SideStepSongAudio", songs=["b", 0], seconds=600.0, start=0.0)}, ""),
    ({"b": building(folder="no such folder")}, "There is no folder"),
    ({"b": building(folder="no text \udcff")}, "not valid Unicode"),
    ({"b": building(dataset_name="../escape")}, "cannot be a file name"),
])
def test_errors_name_the_cause(server: ComfyUI, nodes: dict[str, Any], said: str) -> None:
    prompt = {"b": building(), **nodes}
    if "l" in nodes:
        prompt["p"] = node("PreviewAudio", audio=["l", 0])
    outcome = server.run(prompt, timeout=300)
    assert outcome.status == ("error" if said else "success"), outcome.exception_message
    assert said in outcome.exception_message


def splitting() -> dict[str, Any]:
    return node("SideStepSplitSongs", songs=["b", 0], seconds=SECTION, at="silence")


@pytest.mark.slow
def test_sections_are_encoded_separately(server: ComfyUI) -> None:
    write_long_song(server.base / "input" / "long")
    prompt = {"b": building(folder="long"), "s": splitting(), **preprocessing("s", "sections")}
    outcome = ran(server, prompt)
    found = rows(server, outcome, "s")
    assert [row["section"] for row in found] == [True, True]
    dataset = open_dataset(server.base / "output" / "sidestep" / "datasets" / "sections")
    assert [sample.name for sample in dataset.samples] == [row["name"] for row in found]
    first, second = (dataset.read_latents(sample) for sample in dataset.samples)
    assert first.shape == second.shape
    assert not first.equal(second), "each begins where its section does"


def cache_text(server: ComfyUI, action: str, prompt: Mapping[str, Any]) -> str:
    outcome = ran(server, {**prompt, "cache": node("SideStepDatasetCache", dataset=["encode", 0], action=action)})
    text: str = told(outcome, "cache")["message"]
    return text


@pytest.mark.slow
def test_cache_is_cleaned_on_request(server: ComfyUI) -> None:
    folder = server.base / "output" / "sidestep" / "datasets" / "cached"
    if folder.with_name("demo").is_dir():
        shutil.copytree(folder.with_name("demo"), folder)
    prompt = {"b": building(), **preprocessing("b", "cached", normalise="lufs")}
    cache_text(server, "clean", prompt)
    assert "All of it is needed" in cache_text(server, "report", prompt)
    assert "is whole" in cache_text(server, "verify", prompt)
    changed = with_inputs(prompt, {BUILDING: {"trigger_word": "another"}})
    before = set(folder.iterdir())
    assert "needed by no song" in cache_text(server, "report", changed)
    assert set(folder.iterdir()) >= before
    assert "files removed" in cache_text(server, "clean", changed)
    assert "Nothing to remove" in cache_text(server, "clean", changed)
    dataset = open_dataset(folder)
    damaged = dataset.latents(dataset.samples[0])
    damaged.write_bytes(damaged.read_bytes()[:-7])
    assert dataset.samples[0].name in cache_text(server, "verify", changed)


def test_foreign_tensors_become_a_dataset(server: ComfyUI, checkpoint: Checkpoint) -> None:
    folder = server.base / "input" / "tensors"
    folder.mkdir()
    width, frames = checkpoint.model_weights().shape("encoder.text_projector.weight")[0], 50
    content = {"target_latents": torch.randn(frames, 64), "attention_mask": torch.ones(frames),
               "encoder_hidden_states": torch.randn(769, width), "encoder_attention_mask": torch.arange(769) < 40,
               "context_latents": torch.cat((torch.randn(frames, 64), torch.ones(frames, 64)), dim=1),
               "metadata": {"caption": "from elsewhere", "lyrics": "[Instrumental]", "custom_tag": "theirs"}}
    torch.save(content, folder / "song.pt")
    (folder / "damaged.pt").write_bytes(b"PK\x03\x04 no tensors")
    load = preprocessing("", "")["load"]
    prompt = {"load": load, "i": node("SideStepImportTensors", checkpoint=["load", 0], folder="tensors",
                                      dataset_name="imported"),
              "cache": node("SideStepDatasetCache", dataset=["i", 0], action="verify")}
    outcome = ran(server, prompt)
    assert told(outcome, "i")["songs"] == 1
    assert [problem["name"] for problem in told(outcome, "i")["problems"]] == ["damaged.pt"]
    assert "is whole" in told(outcome, "cache")["message"]
    dataset = open_dataset(server.base / "output" / "sidestep" / "datasets" / "imported")
    assert (dataset.style, dataset.trigger_word) == ("imported", "theirs")
    assert "There is no folder" in server.run(with_inputs(prompt, {"SideStepImportTensors": {
        "folder": "nowhere"}}), timeout=300).exception_message
