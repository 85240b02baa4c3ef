"""Templates beside the three whose prompts other tests run: each trains or compares to success."""

from __future__ import annotations

from typing import Any

import pytest

from demo.examples import COMPARE, COMPARING, CONTINUE, LOKR_EXAMPLE, PREPROCESS, SETTINGS, TRAINER, Example
from demo.server import ComfyUI
from tests.host.test_pipeline import SECONDS, facts, ran, with_inputs

STEPS = 2
SONGS = {PREPROCESS: {"max_seconds": SECONDS, "dataset_name": "examples"}}
SHORT = {TRAINER: {"max_steps": STEPS}, SETTINGS: {"gradient_accumulation": 1, "heldout_every": 2}}


def short(example: Example, changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The template's prompt for the demo's model, with little to do."""
    return with_inputs(example.demo_prompt(), changes)


@pytest.fixture(scope="module")
def lokr(server: ComfyUI) -> str:
    """Name of the LoKR that the template trains."""
    prompt = short(LOKR_EXAMPLE, SONGS | SHORT)
    return str(facts(ran(server, prompt), prompt, TRAINER)["adapter"]).rpartition("/")[2]


def test_lokr_template_trains_a_lokr(server: ComfyUI, lokr: str) -> None:
    assert lokr == "demo_lokr.safetensors"
    assert (server.base / "models" / "loras" / lokr).is_file()


def test_continued_run_takes_more_steps(server: ComfyUI) -> None:
    first = short(CONTINUE, SONGS | SHORT)
    made = facts(ran(server, first), first, TRAINER)
    [run] = [run for run in server.get_json("/sidestep/runs")["runs"] if run["name"] == "demo_longer"]
    longer = with_inputs(first, {TRAINER: {"max_steps": 2 * STEPS,
                                           "resume_from": f"{run['id']}/checkpoint-step-{STEPS}"}})
    again = facts(ran(server, longer), longer, TRAINER)
    assert (made["steps"], again["steps"]) == (STEPS, 2 * STEPS)


def test_compare_template_makes_takes(server: ComfyUI, lokr: str) -> None:
    prompt = short(COMPARING, {COMPARE: {"adapter_file_1": lokr, "steps": 2},
                               "TextEncodeAceStepAudio1.5": {"duration": SECONDS},
                               "EmptyAceStep1.5LatentAudio": {"seconds": SECONDS}})
    ran(server, prompt)
    made = server.get_json("/sidestep/comparisons")["comparisons"][0]
    assert [(take["name"], take["strength"]) for take in made["takes"]] == [
        ("base", 0), ("demo_lokr", 0.7), ("demo_lokr", 1)]
