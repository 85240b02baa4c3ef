"""Controls of a training in a real ComfyUI: each acts after the step in hand, and says why where it does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.server import ComfyUI, HttpError, Outcome, Prompt
from sidestep_core.io.tensors import read_tensors
from sidestep_core.training import metrics, run_checkpoint
from tests.host.test_pipeline import upstream, with_inputs
from tests.training import same_tensors

STEPS = 14
Event = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def training(prompt: Prompt) -> Callable[[str], dict[str, Any]]:
    """Make the prompt of a short training of this name."""
    return lambda name: upstream(with_inputs(prompt, {
        "SideStepPreprocessAudioFolder": {"max_seconds": 2.0},
        "SideStepTrainAdapter": {"max_steps": STEPS, "adapter_name": name},
        "SideStepTrainingSettings": {"gradient_accumulation": 1, "heldout_every": 1000, "save_every": 1000},
    }), "SideStepTrainAdapter")


@pytest.fixture(scope="module")
def undisturbed(server: ComfyUI, training: Callable[[str], dict[str, Any]]) -> Path:
    assert server.run(training("undisturbed"), 580).status == "success"
    return server.base / "models" / "loras" / "undisturbed.safetensors"


def asked(server: ComfyUI, run: str, control: str) -> tuple[int, str]:
    """(status, sentence) of the answer to a control."""
    try:
        server.post_json(f"/sidestep/runs/{run}/{control}", {})
    except HttpError as error:
        return error.code, json.loads(error.body)["error"]
    return 200, ""


def run_of(server: ComfyUI, name: str) -> Path:
    [run] = (server.base / "output" / "sidestep" / "runs").glob(f"{name}-*")
    return run


def loras(server: ComfyUI, name: str) -> list[str]:
    return sorted(path.name for path in (server.base / "models" / "loras").glob(f"{name}*"))


def steered(server: ComfyUI, prompt: Prompt, steer: Callable[[str, dict[str, Any]], None]) -> Outcome:
    """Run a training; `steer` gets (run, event) of each of its reports."""
    def listen(event: Event) -> None:
        kind, data = event
        if kind == "sidestep.progress" and data["run"]:
            steer(data["run"], data)

    return server.wait(server.submit(prompt), 580, listen)


def test_pause_and_save_leave_no_trace(server: ComfyUI, training: Callable[[str], dict[str, Any]],
                                       undisturbed: Path) -> None:
    answers: dict[str, tuple[int, str]] = {}
    paused: list[dict[str, Any]] = []

    def steer(run: str, data: dict[str, Any]) -> None:
        if data["status"] == "paused" and not paused:
            paused.append(data)
            answers["save while paused"] = asked(server, run, "save")
            answers["continue"] = asked(server, run, "continue")
        elif data["metrics"].get("loss") is not None and not answers:
            for control in ("save", "pause", "pause"):
                answers[control] = asked(server, run, control)

    outcome = steered(server, training("paused"), steer)
    assert outcome.status == "success"
    assert answers == {"save": (200, ""), "pause": (200, ""), "continue": (200, ""),
                       "save while paused": (409, "The training is paused. Continue it first.")}
    step = paused[0]["step"]
    assert paused[0]["message"] == f"Paused at step {step}. The card is free."
    assert paused[0]["training"][0] == step
    messages = [data["message"] for kind, data in outcome.events if kind == "sidestep.progress"]
    assert {"Saving after this step", "Pausing after this step"} & {*messages}
    assert loras(server, "paused") == [f"paused-step-{step}.safetensors", "paused.safetensors"]
    assert same_tensors(server.base / "models" / "loras" / "paused.safetensors", undisturbed)
    rows = metrics.read(run_of(server, "paused") / metrics.FILE)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))


def test_finished_by_hand_can_go_on(server: ComfyUI, training: Callable[[str], dict[str, Any]],
                                    undisturbed: Path) -> None:
    steps: list[int] = []

    def finish(run: str, data: dict[str, Any]) -> None:
        if data["metrics"].get("loss") is not None:
            steps.append(data["step"])
            assert asked(server, run, "finish") == (200, "")

    assert steered(server, training("early"), finish).status == "success"
    run = run_of(server, "early")
    finished = run_checkpoint.finished(run)
    assert finished is not None
    assert steps[0] <= finished.steps < STEPS
    assert finished.proof is not None
    assert finished.proof.matched == finished.proof.total == 32
    assert [asked(server, run.name, control) for control in ("finish", "save", "stop")] == [
        (409, "This training has ended."), (409, "This training has ended."), (200, "")]

    assert asked(server, run.name, "continue") == (200, "")
    assert server.run(training("early"), 580).status == "success"
    assert loras(server, "early") == ["early-2.safetensors", "early.safetensors"]
    assert same_tensors(server.base / "models" / "loras" / "early-2.safetensors", undisturbed)
    status, sentence = asked(server, run.name, "continue")
    assert (status, "raise max_steps" in sentence) == (409, True)


def test_stop_ends_a_pause(server: ComfyUI, training: Callable[[str], dict[str, Any]], undisturbed: Path) -> None:
    done: list[str] = []

    def steer(run: str, data: dict[str, Any]) -> None:
        if data["metrics"].get("loss") is not None and not done:
            done.append(run)
            asked(server, run, "pause")
        elif data["status"] == "paused" and len(done) == 1:
            done.append(run)
            assert asked(server, run, "stop") == (200, "")

    outcome = steered(server, training("halted"), steer)
    assert outcome.status == "interrupted"
    [last] = [data["message"] for kind, data in outcome.events if kind == "sidestep.progress"
              and data["status"] == "cancelled"]
    [kept] = loras(server, "halted")
    assert kept in last
    assert len(read_tensors(server.base / "models" / "loras" / kept)) == 3 * 32


@pytest.mark.parametrize("run", ["none", "..", "%2e%2e", "a%2fb"])
def test_unknown_run_is_refused(server: ComfyUI, run: str) -> None:
    with pytest.raises(HttpError) as refused:
        server.post_json(f"/sidestep/runs/{run}/pause", {})
    assert refused.value.code in (404, 405)
