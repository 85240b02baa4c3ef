"""The plan of a training in a real ComfyUI, which runs and loads nothing for it."""

from __future__ import annotations

import copy
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from demo.examples import SETTINGS, TRAINER
from demo.server import ComfyUI, Prompt
from sidestep_core.sentence import Sentence
from tests.host.test_pipeline import SECONDS, node_of, upstream, with_inputs

HOURS = 100
"""Length of a song that fits into no memory; at a low rate, as every byte of it is read."""
RATE = 500


def planned(server: ComfyUI, prompt: Prompt) -> dict[str, Any]:
    """Plan of the trainer of a prompt, with its sentences in English."""
    answer = server.post_json("/sidestep/plan", {"prompt": prompt, "node_id": node_of(prompt, TRAINER)})
    return dict(in_english(answer))


def in_english(content: Any) -> Any:
    if isinstance(content, dict) and content.keys() == {"text", "values", "one"}:
        return str(Sentence(content["text"], one=content["one"], **in_english(content["values"])))
    if isinstance(content, dict):
        return {name: in_english(value) for name, value in content.items()}
    return [in_english(value) for value in content] if isinstance(content, list) else content


@pytest.fixture
def small(prompt: Prompt) -> dict[str, Any]:
    return copy.deepcopy(upstream(with_inputs(prompt, {
        "SideStepPreprocessAudioFolder": {"dataset_name": "planned", "max_seconds": SECONDS},
        TRAINER: {"max_steps": 3, "adapter_name": "planned"},
    }), TRAINER))


def long_song(folder: Path) -> None:
    """Write the header of a very long song; the rest of the file is a hole."""
    folder.mkdir()
    size = HOURS * 3600 * RATE
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, RATE, RATE, 1, 8,
                         b"data", size)
    with (folder / "long.wav").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def test_plan_fits_and_runs_nothing(server: ComfyUI, small: dict[str, Any]) -> None:
    made = planned(server, small)
    assert (made["verdict"], made["fix"], made["message"], made["name"]) == ("fits", None, "", "")
    assert (made["songs"] + made["heldout"], made["steps"], made["modules"]) == (3, 3, 32)
    assert made["parameters"] > 0
    assert 0 < made["need"] < made["free"] <= made["total"]
    assert not (server.base / "output" / "sidestep" / "datasets" / "planned").exists()


def test_too_large_plan_offers_fix(server: ComfyUI, small: dict[str, Any]) -> None:
    folder = server.base / "input" / "endless"
    long_song(folder)
    changes = {
        "SideStepPreprocessAudioFolder": {"folder": "endless", "dataset_name": "long", "max_seconds": "whole songs"},
        TRAINER: {"chunk_duration": "whole songs"}, SETTINGS: {"heldout_songs": "0"}}
    prompt = copy.deepcopy(with_inputs(small, changes))
    for content in prompt.values():
        if content["class_type"] == "SideStepPreprocessAudioFolder":
            content["inputs"].pop("songs", None)
    made = planned(server, prompt)
    shutil.rmtree(folder)
    assert made["verdict"] == "too_large"
    assert made["fix"]["place"] == {"node": node_of(prompt, TRAINER), "widget": "chunk_duration"}
    assert made["fix"]["fits"]
    assert made["fix"]["sentence"].startswith("crops of ")


def test_wrong_folder_is_named(server: ComfyUI, small: dict[str, Any]) -> None:
    for content in small.values():
        if "folder" in content["inputs"]:
            content["inputs"]["folder"] = "no_such_songs"
    made = planned(server, small)
    assert made["wrong"]
    assert "no_such_songs" in made["message"]
    assert str(server.base) not in made["message"]


def test_linked_setting_is_not_known(server: ComfyUI, small: dict[str, Any]) -> None:
    small["99"] = {"class_type": "StringConcatenate", "inputs": {"string_a": "1", "string_b": "2", "delimiter": ""}}
    trainer = node_of(small, TRAINER)
    small[trainer]["inputs"]["max_steps"] = ["99", 0]
    made = planned(server, small)
    assert made["message"] == "max_steps comes from another node: it is known once the workflow runs."
    small["99"] = {"class_type": "PrimitiveInt", "inputs": {"value": 7}}
    assert planned(server, small)["steps"] == 7


def test_preset_gives_the_settings(server: ComfyUI, small: dict[str, Any]) -> None:
    small["98"] = {"class_type": "SideStepLoadPreset", "inputs": {
        "preset": "quick_test", "changes": "max_steps: 5\nepochs: 0", "json": ""}}
    small[node_of(small, TRAINER)]["inputs"] |= {"settings": ["98", 1], "adapter_config": ["98", 0]}
    assert planned(server, small)["steps"] == 5


def test_hostile_prompts_are_answered(server: ComfyUI, small: dict[str, Any]) -> None:
    trainer = node_of(small, TRAINER)
    for content in ([], {"class_type": 3}, {"class_type": TRAINER, "inputs": {"checkpoint": [trainer, 0]}},
                    {"class_type": TRAINER, "inputs": {"checkpoint": [[], 0], "adapter_name": "../x"}}):
        assert planned_raw(server, {trainer: content}, trainer)["message"]
    looped = {**small, trainer: {**small[trainer]}}
    dataset = looped[trainer]["inputs"]["dataset"][0]
    looped[dataset] = {**looped[dataset], "inputs": {**looped[dataset]["inputs"], "songs": [dataset, 0]}}
    assert "known once the workflow runs" in planned(server, looped)["message"]


def planned_raw(server: ComfyUI, prompt: Any, node: str) -> dict[str, Any]:
    answer: dict[str, Any] = server.post_json("/sidestep/plan", {"prompt": prompt, "node_id": node})
    return answer


@pytest.mark.slow
def test_measured_step_predicts_next_training(server: ComfyUI, small: dict[str, Any]) -> None:
    # Of a shape that no other test trains on this server.
    small[node_of(small, SETTINGS)]["inputs"]["gradient_accumulation"] = 5
    assert planned(server, small)["seconds"] is None
    outcome = server.run(small, 580)
    assert outcome.status == "success", outcome.exception_message
    made = planned(server, small)
    assert made["seconds"] > 0
    assert made["message"] == "Trained already: Run takes the finished adapter."
    assert made["name"] == "planned is taken: planned-2 will be written."
    small[node_of(small, TRAINER)]["inputs"]["max_steps"] = 6
    longer = planned(server, small)
    assert longer["seconds"] == 2 * made["seconds"]
    assert longer["message"] == ""
