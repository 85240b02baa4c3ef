"""A stage in its own thread: however it is stopped, the page is told what came of it."""

from __future__ import annotations

import asyncio
import time
from types import ModuleType
from typing import Any

import pytest

from tests.host.pack import pack_module

NODE, RUN = "4", "run"


@pytest.fixture(scope="module")
def host(comfy: ModuleType) -> Any:
    """nodes/host.py in this process, with a server that nobody is connected to."""
    import server

    server.PromptServer(asyncio.new_event_loop())
    return pack_module("nodes.host")


def ended(host: Any) -> tuple[str, str]:
    history = host.events._histories[NODE]
    return history.status, history.message


def test_an_interrupt_that_the_stage_heard_first_stays_one(comfy: ModuleType, host: Any) -> None:
    def stage(report: object) -> None:
        raise host.Cancelled("Stopped after step 3.")

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.run_stage(NODE, RUN, stage, summary=str)
    assert ended(host) == ("cancelled", "Stopped after step 3.")


def test_an_interrupt_that_came_too_late_says_what_was_made(comfy: ModuleType, host: Any) -> None:
    def stage(report: object) -> str:
        comfy.model_management.interrupt_current_processing()
        while comfy.model_management.processing_interrupted():
            time.sleep(0.01)
        return "my_lora"

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.run_stage(NODE, RUN, stage, summary=lambda made: f"{made} is in your LoRA list.")
    assert ended(host) == ("finished", "my_lora is in your LoRA list.")
