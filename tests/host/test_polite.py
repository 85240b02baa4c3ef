"""Trainings that give way: what waits behind them is done first, and their result is not changed by a bit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from demo.server import ComfyUI, Outcome, Prompt
from sidestep_core.training import metrics
from tests.host.pack import pack_module
from tests.host.test_controls import asked, loras, run_of
from tests.host.test_pipeline import upstream, with_inputs
from tests.training import same_tensors

STEPS = 12
QUICK = {"1": {"class_type": "PrimitiveString", "inputs": {"value": "a generation"}},
         "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
"""A workflow that does not train."""
TRAINS = {"1": {"class_type": "SideStepTrainAdapter", "inputs": {}}}


@pytest.fixture(scope="module")
def polite(comfy: ModuleType) -> ModuleType:
    import server

    server.PromptServer(asyncio.new_event_loop())
    return pack_module("nodes.host.polite")


def waiting(*prompts: Any) -> list[tuple[Any, ...]]:
    return [(number, f"id {number}", prompt, {}, []) for number, prompt in enumerate(prompts, 5)]


@pytest.mark.parametrize(("prompts", "expected"), [
    ([], None), ([TRAINS], None), ([TRAINS, QUICK], None), ([QUICK], 5.5), ([QUICK, QUICK], 6.5),
    ([QUICK, TRAINS], 5.5), ([QUICK, QUICK, TRAINS, QUICK], 6.5),
])
def test_number_is_before_the_next_training(polite: ModuleType, prompts: list[Any], expected: float | None) -> None:
    assert polite.queue_number(waiting(*prompts)) == expected
    assert polite.queue_number(waiting(*prompts)[::-1]) == expected


@pytest.fixture(scope="module")
def training(prompt: Prompt) -> Callable[..., dict[str, Any]]:
    """Make the prompt of a training of this name."""
    def make(name: str, **inputs: Any) -> dict[str, Any]:
        return upstream(with_inputs(prompt, {
            "SideStepPreprocessAudioFolder": {"max_seconds": 2.0},
            "SideStepTrainAdapter": {"max_steps": STEPS, "adapter_name": name, **inputs},
            "SideStepTrainingSettings": {"gradient_accumulation": 1, "heldout_every": 1000, "save_every": 1000},
        }), "SideStepTrainAdapter")

    return make


@pytest.fixture(scope="module")
def undisturbed(server: ComfyUI, training: Callable[..., dict[str, Any]]) -> Path:
    assert server.run(training("rude"), 580).status == "success"
    return server.base / "models" / "loras" / "rude.safetensors"


def at_first_step(server: ComfyUI, prompt: Prompt, act: Callable[[str], None]) -> Outcome:
    """Run a training, and act once, with the id of its run, when a step of it is reported."""
    done: list[str] = []

    def listen(event: tuple[str, dict[str, Any]]) -> None:
        kind, data = event
        if kind == "sidestep.progress" and data["metrics"].get("loss") is not None and not done:
            done.append(data["run"])
            act(data["run"])

    return server.wait(server.submit(prompt), 580, listen)


def next_in_line(server: ComfyUI) -> str:
    """Id of the one workflow that is running or waits."""
    queue = server.get_json("/queue")
    [item] = [*queue["queue_running"], *queue["queue_pending"]]
    found: str = item[1]
    return found


def messages(server: ComfyUI, run: str) -> list[tuple[str, str]]:
    return [(data["status"], data["message"]) for kind, data in server.events
            if kind == "sidestep.progress" and data["run"] == run]


def test_generation_is_done_before_the_training_ends(server: ComfyUI, training: Callable[..., dict[str, Any]],
                                                     undisturbed: Path) -> None:
    sent: list[str] = []
    first = at_first_step(server, training("polite", polite=True), lambda run: sent.append(server.submit(QUICK)))
    assert first.status == "interrupted"
    assert server.wait(sent[0], 60).status == "success"
    assert not (server.base / "models" / "loras" / "polite.safetensors").exists()
    assert server.wait(next_in_line(server), 580).status == "success"
    assert loras(server, "polite") == ["polite.safetensors"]
    assert same_tensors(server.base / "models" / "loras" / "polite.safetensors", undisturbed)
    run = run_of(server, "polite")
    rows = metrics.read(run / metrics.FILE)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert ("paused", "Waiting for your generation. The training goes on by itself.") in messages(server, run.name)


def test_waiting_training_can_be_taken_away(server: ComfyUI, training: Callable[..., dict[str, Any]],
                                            undisturbed: Path, tmp_path: Path) -> None:
    """By ComfyUI's own list, and by our stop."""
    slow = {"1": {"class_type": "TestsDriveSteps", "inputs": {
        "metrics_file": str(tmp_path / "slow" / "metrics.jsonl"), "steps": 0, "step_seconds": 0.0,
        "pause_at_end": 4.0}}}
    (tmp_path / "slow").mkdir()
    for name in ("cleared", "stopped"):
        at_first_step(server, training(name, polite=True), lambda run: server.submit(slow) and None)
        run = run_of(server, name).name
        if name == "cleared":
            server.post_json("/queue", {"clear": True})
        else:
            assert asked(server, run, "finish") == (409, "The training waits for other work. It goes on by itself.")
            assert asked(server, run, "stop") == (200, "")
        ends = time.monotonic() + 60
        while time.monotonic() < ends and ("cancelled", "Stopped. Run again to continue from here.") not in messages(
                server, run):
            time.sleep(0.1)
        assert messages(server, run)[-1] == ("cancelled", "Stopped. Run again to continue from here.")


def test_paused_training_makes_room(server: ComfyUI, training: Callable[..., dict[str, Any]],
                                    undisturbed: Path) -> None:
    sent: list[str] = []

    def pause(run: str) -> None:
        assert asked(server, run, "pause") == (200, "")
        sent.append(server.submit(QUICK))

    first = at_first_step(server, training("parked"), pause)
    assert first.status == "interrupted"
    assert server.wait(sent[0], 60).status == "success"
    run, again = run_of(server, "parked").name, next_in_line(server)
    while messages(server, run)[-1][0] != "paused" or not server.get_json("/queue")["queue_running"]:
        time.sleep(0.1)
    assert server.get_json(f"/sidestep/runs/{run}")["status"] == "paused"
    assert asked(server, run, "continue") == (200, "")
    assert server.wait(again, 580).status == "success"
    assert same_tensors(server.base / "models" / "loras" / "parked.safetensors", undisturbed)
