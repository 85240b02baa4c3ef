"""Stage in its own thread: the page learns its outcome, however it is stopped."""

from __future__ import annotations

import asyncio
import threading
import time
from types import ModuleType
from typing import Any

import pytest

from tests.host.pack import pack_module

NODE, RUN = "4", "run"


@pytest.fixture(scope="module")
def host(comfy: ModuleType) -> Any:
    """nodes/host/worker.py in this process, with a server that nobody is connected to."""
    import server

    server.PromptServer(asyncio.new_event_loop())
    return pack_module("nodes.host.worker")


def ended(host: Any) -> tuple[str, str]:
    history = host.events._histories[NODE]
    return history.status, history.message


def test_node_bar_shows_stage_only(comfy: ModuleType, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: shown.append((value, total)))

    def stage(report: Any) -> str:
        report(host.Progress(stage="train", step=3, total=4))
        report(host.Progress(stage="preview", step=1, total=2))
        comfy.utils.ProgressBar(6).update_absolute(5)  # as the host's VAE does
        return ""

    host.run_stage(NODE, RUN, stage, summary=str)
    assert set(shown) == {(3, 4)}
    comfy.utils.ProgressBar(6).update_absolute(5)
    assert shown[-1] == (5, 6)


def test_host_parts_stay_interruptible(comfy: ModuleType, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()

    def stage(report: Any) -> None:
        waits.wait()
        comfy.model_management.interrupt_current_processing()
        comfy.utils.ProgressBar(6).update_absolute(1)

    monkeypatch.setattr(host, "POLL_SECONDS", 60)  # who waits looks for an interrupt only after the stage has ended
    monkeypatch.setattr(host, "_show", lambda *_: waits.set())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.run_stage(NODE, RUN, stage, summary=str)
    assert ended(host)[0] == "cancelled"


def test_handled_interrupt_stays_an_interrupt(comfy: ModuleType, host: Any) -> None:
    def stage(report: object) -> None:
        raise host.Cancelled("Stopped after step 3.")

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.run_stage(NODE, RUN, stage, summary=str)
    assert ended(host) == ("cancelled", "Stopped after step 3.")


def test_late_interrupt_names_the_result(comfy: ModuleType, host: Any) -> None:
    def stage(report: object) -> str:
        comfy.model_management.interrupt_current_processing()
        while comfy.model_management.processing_interrupted():
            time.sleep(0.01)
        return "my_lora"

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.run_stage(NODE, RUN, stage, summary=lambda made: f"{made} is in your LoRA list.")
    assert ended(host) == ("finished", "my_lora is in your LoRA list.")
