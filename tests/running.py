"""ComfyUI server with the demo's models and songs, and its own outputs, LoRAs and settings."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.models import model_files
from demo.server import ComfyUI
from demo.setup import BASE, PACK, extra_folders
from demo.songs import write_demo_songs
from demo.synthetic_model import DEMO_MODEL, write_demo_models

SERVERS: list[ComfyUI] = []
"""Running servers of this process."""
IDLE_SECONDS = 60.0
"""Longest time of a step, a song or a preview that a stop waits for."""
PACE = 0.5
"""Seconds of a slow step."""
ENVIRONMENT = {"SIDESTEP_CPU_DEVICES": "2"}
"""Lets the CPU count as two devices, for trainings that ask for all."""


@contextlib.contextmanager
def demo_comfyui(base: Path, *arguments: str) -> Iterator[ComfyUI]:
    """Run the ComfyUI in COMFYUI_PATH with further arguments; `base` is an empty folder."""
    write_demo_models(BASE / "models")
    write_demo_songs(base / "input" / "demo_songs")
    with ComfyUI(Path(os.environ["COMFYUI_PATH"]), base, pack=PACK,
                 extra_args=("--cpu", *extra_folders(model_files(BASE / "models" / DEMO_MODEL)),
                             *arguments), env=ENVIRONMENT) as running:
        SERVERS.append(running)
        try:
            yield running
        finally:
            SERVERS.remove(running)


def make_idle(server: ComfyUI) -> None:
    """Stop everything that runs or waits, and wait for its end.  A server that hangs is killed: it would cost every
    later test as long."""
    deadline = time.monotonic() + IDLE_SECONDS
    while is_busy(server):
        server.post_json("/queue", {"clear": True})
        server.interrupt()  # again and again, as the next workflow begins without the request
        if time.monotonic() > deadline:
            server.process.kill()
            pytest.fail(f"A workflow does not stop.\n{server.tail()}")
        time.sleep(0.1)


@contextlib.contextmanager
def slow_steps(server: ComfyUI) -> Iterator[None]:
    """Give each step of a training the time of a large model's, for the block: the server has the tests' driver."""
    server.post_json("/tests/pace", {"seconds": PACE})
    try:
        yield
    finally:
        server.post_json("/tests/pace", {"seconds": 0.0})


def wait_until_idle(server: ComfyUI, seconds: float = 580.0) -> None:
    """Wait for the end of everything that runs or waits."""
    deadline = time.monotonic() + seconds
    while is_busy(server):
        assert time.monotonic() < deadline, f"The server is not idle after {seconds:g} s.\n{server.tail()}"
        time.sleep(0.2)


def is_busy(server: ComfyUI) -> bool:
    queue = server.get_json("/queue")
    return bool(queue["queue_running"] or queue["queue_pending"])
