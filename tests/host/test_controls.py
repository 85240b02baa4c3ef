"""Controls of a training in a real ComfyUI, and trainings that give way: what happens, and what is refused."""

from __future__ import annotations

import json
import time
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
QUICK = {"1": {"class_type": "PrimitiveString", "inputs": {"value": "a generation"}},
         "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
"""A workflow that does not train."""
WAITS = "Waiting for your generation. The training goes on by itself."
FINISHES = "Waiting for your generation. The training finishes when its turn comes."
Event = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def training_of(prompt: Prompt) -> Callable[..., dict[str, Any]]:
    """Make the prompt of a training of this name with STEPS steps, and inputs of the trainer."""
    def make(name: str, **inputs: Any) -> dict[str, Any]:
        return upstream(with_inputs(prompt, {
            "SideStepPreprocessAudioFolder": {"max_seconds": 1.0},
            "SideStepTrainAdapter": {"max_steps": STEPS, "adapter_name": name, **inputs},
            "SideStepTrainingSettings": {"gradient_accumulation": 1, "heldout_every": 1000, "save_every": 1000},
        }), "SideStepTrainAdapter")

    return make


@pytest.fixture(scope="module")
def undisturbed(server: ComfyUI, training_of: Callable[..., dict[str, Any]]) -> Path:
    """Adapter of a short training that was left alone."""
    assert server.run(training_of("undisturbed"), 580).status == "success"
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


def messages(server: ComfyUI, run: str) -> list[tuple[str, str]]:
    return [(data["status"], data["message"]) for kind, data in server.events
            if kind == "sidestep.progress" and data["run"] == run]


def ended(server: ComfyUI, run: str, status: str) -> str:
    """Message of the run's newest event once that has the status; events may come after the host's history."""
    deadline = time.monotonic() + 60
    while messages(server, run)[-1][0] != status and time.monotonic() < deadline:
        time.sleep(0.1)
    found, message = messages(server, run)[-1]
    assert found == status, message
    return message


def wait_for_message(server: ComfyUI, run: str, message: str) -> None:
    """Wait until this is the newest message of a training that waits; events may come after the answer to a control."""
    deadline = time.monotonic() + 60
    while messages(server, run)[-1] != ("paused", message):
        assert time.monotonic() < deadline, messages(server, run)[-1]
        time.sleep(0.1)


def steered(server: ComfyUI, prompt: Prompt, steer: Callable[[str, dict[str, Any]], None]) -> Outcome:
    """Run a training; `steer` gets (run, event) of each of its reports."""
    def listen(event: Event) -> None:
        kind, data = event
        if kind == "sidestep.progress" and data["run"]:
            steer(data["run"], data)

    return server.wait(server.submit(prompt), 580, listen)


def test_pause_leaves_no_trace(server: ComfyUI, training_of: Callable[..., dict[str, Any]], undisturbed: Path) -> None:
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

    outcome = steered(server, training_of("paused"), steer)
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


def test_finished_run_goes_on(server: ComfyUI, training_of: Callable[..., dict[str, Any]], undisturbed: Path) -> None:
    steps: list[int] = []

    def finish(run: str, data: dict[str, Any]) -> None:
        if data["metrics"].get("loss") is not None:
            steps.append(data["step"])
            assert asked(server, run, "finish") == (200, "")

    assert steered(server, training_of("early"), finish).status == "success"
    run = run_of(server, "early")
    finished = run_checkpoint.finished(run)
    assert finished is not None
    assert steps[0] <= finished.steps < STEPS
    assert finished.proof is not None
    assert finished.proof.matched == finished.proof.total == 32
    assert [asked(server, run.name, control) for control in ("finish", "save", "stop")] == [
        (409, "This training has ended."), (409, "This training has ended."), (200, "")]

    assert asked(server, run.name, "continue") == (200, "")
    assert server.run(training_of("early"), 580).status == "success"
    assert loras(server, "early") == ["early-2.safetensors", "early.safetensors"]
    assert same_tensors(server.base / "models" / "loras" / "early-2.safetensors", undisturbed)
    status, sentence = asked(server, run.name, "continue")
    assert (status, "raise max_steps" in sentence) == (409, True)


def test_stop_ends_a_pause(server: ComfyUI, training_of: Callable[..., dict[str, Any]], undisturbed: Path) -> None:
    done: list[str] = []

    def steer(run: str, data: dict[str, Any]) -> None:
        if data["metrics"].get("loss") is not None and not done:
            done.append(run)
            asked(server, run, "pause")
        elif data["status"] == "paused" and len(done) == 1:
            done.append(run)
            assert asked(server, run, "stop") == (200, "")

    assert steered(server, training_of("halted"), steer).status == "interrupted"
    [kept] = loras(server, "halted")
    assert kept in ended(server, done[0], "cancelled")
    assert len(read_tensors(server.base / "models" / "loras" / kept)) == 3 * 32


@pytest.mark.parametrize("run", ["none", "..", "%2e%2e", "a%2fb"])
def test_unknown_run_is_refused(server: ComfyUI, run: str) -> None:
    with pytest.raises(HttpError) as refused:
        server.post_json(f"/sidestep/runs/{run}/pause", {})
    assert refused.value.code in (404, 405)


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


def test_generation_goes_first(server: ComfyUI, training_of: Callable[..., dict[str, Any]], undisturbed: Path) -> None:
    sent: list[str] = []
    first = at_first_step(server, training_of("polite", polite=True), lambda run: sent.append(server.submit(QUICK)))
    assert first.status == "interrupted"
    assert server.wait(sent[0], 60).status == "success"
    assert not (server.base / "models" / "loras" / "polite.safetensors").exists()
    assert server.wait(next_in_line(server), 580).status == "success"
    assert loras(server, "polite") == ["polite.safetensors"]
    assert same_tensors(server.base / "models" / "loras" / "polite.safetensors", undisturbed)
    run = run_of(server, "polite")
    rows = metrics.read(run / metrics.FILE)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert ("paused", WAITS) in messages(server, run.name)


def test_waiting_training_stops(server: ComfyUI, training_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    slow = drive(tmp_path, seconds=3.0)
    at_first_step(server, training_of("stopped", polite=True), lambda run: server.submit(slow) and None)
    run = run_of(server, "stopped").name
    assert server.get_json(f"/sidestep/runs/{run}")["status"] == "paused"
    for control in ("save", "continue"):
        assert asked(server, run, control) == (409, "The training waits for other work. It goes on by itself.")
    assert asked(server, run, "stop") == (200, "")
    assert ended(server, run, "cancelled") == "Stopped. Run again to continue from here."
    assert server.get_json(f"/sidestep/runs/{run}")["status"] == "stopped"


def test_waiting_training_finishes(server: ComfyUI, training_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    slow = drive(tmp_path, seconds=3.0)
    at_first_step(server, training_of("awaited", polite=True), lambda run: server.submit(slow) and None)
    run, again = run_of(server, "awaited"), trainer_in_line(server)
    for control, message in (("pause", "Paused. The card is free."), ("continue", WAITS), ("finish", FINISHES)):
        assert asked(server, run.name, control) == (200, "")
        wait_for_message(server, run.name, message)
    before = run_checkpoint.step_of(run_checkpoint.checkpoints(run)[-1])
    assert server.wait(again, 580).status == "success"
    finished = run_checkpoint.finished(run)
    assert finished is not None
    assert finished.steps == before < STEPS


def drive(folder: Path, seconds: float) -> dict[str, Any]:
    """Make the prompt of a workflow that does not train, and takes so long."""
    inputs = {"metrics_file": str(folder / "metrics.jsonl"), "steps": 0, "step_seconds": 0.0, "pause_at_end": seconds}
    return {"1": {"class_type": "TestsDriveSteps", "inputs": inputs}}


def trainer_in_line(server: ComfyUI) -> str:
    """Id of the workflow that waits with a trainer in it."""
    waiting = server.get_json("/queue")["queue_pending"]
    [found] = [item[1] for item in waiting if any(node["class_type"] == "SideStepTrainAdapter"
                                                  for node in item[2].values())]
    return str(found)


def test_paused_training_makes_room(server: ComfyUI, training_of: Callable[..., dict[str, Any]],
                                    undisturbed: Path) -> None:
    sent: list[str] = []

    def pause(run: str) -> None:
        assert asked(server, run, "pause") == (200, "")
        sent.append(server.submit(QUICK))

    first = at_first_step(server, training_of("parked"), pause)
    assert first.status == "interrupted"
    assert server.wait(sent[0], 60).status == "success"
    run, again = run_of(server, "parked").name, next_in_line(server)
    while messages(server, run)[-1][0] != "paused" or not server.get_json("/queue")["queue_running"]:
        time.sleep(0.1)
    assert server.get_json(f"/sidestep/runs/{run}")["status"] == "paused"
    assert asked(server, run, "continue") == (200, "")
    assert server.wait(again, 580).status == "success"
    assert same_tensors(server.base / "models" / "loras" / "parked.safetensors", undisturbed)
