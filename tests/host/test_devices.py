"""A training on all devices from a node of a real ComfyUI, whose CPU counts as two."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from demo.server import ComfyUI, Prompt
from sidestep_core.training import metrics
from tests.host.test_controls import run_of
from tests.host.test_pipeline import upstream, with_inputs
from tests.training import same_tensors

STEPS = 6


def training(prompt: Prompt, devices: str) -> dict[str, Any]:
    """Prompt of a short training of the name of its devices."""
    return upstream(with_inputs(prompt, {
        "SideStepPreprocessAudioFolder": {"max_seconds": 1.0},
        "SideStepTrainAdapter": {"max_steps": STEPS, "adapter_name": devices},
        "SideStepTrainingSettings": {"gradient_accumulation": 2, "heldout_every": 1000, "save_every": 1000,
                                     "devices": devices},
    }), "SideStepTrainAdapter")


@pytest.mark.slow
def test_all_devices_train_from_the_node(server: ComfyUI, prompt: Prompt) -> None:
    """The second process is ComfyUI's child, is seen in a message, and is gone in the end; the adapter is that of one.
    """
    children: set[int] = set()

    def listen(event: tuple[str, dict[str, Any]]) -> None:
        if event[0] == "sidestep.progress" and event[1]["metrics"].get("loss") is not None:
            children.update(child.pid for child in psutil.Process(server.process.pid).children(recursive=True)
                            if any("sidestep_core" in word for word in child.cmdline()))

    outcome = server.wait(server.submit(training(prompt, "all")), 580, listen)
    assert outcome.status == "success", outcome.exception_message
    assert len(children) == 1
    assert not any(psutil.pid_exists(pid) for pid in children)
    said = [data["message"] for kind, data in outcome.events if kind == "sidestep.progress"]
    assert "Starting the training on 2 devices" in said
    assert server.run(training(prompt, "one"), 580).status == "success"
    loras = server.base / "models" / "loras"
    assert same_tensors(loras / "all.safetensors", loras / "one.safetensors")
    rows = metrics.read(run_of(server, "all") / metrics.FILE)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
