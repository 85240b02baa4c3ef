"""One real ComfyUI server, with the demo's models and songs, for all tests that need one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.models import model_files, with_models
from demo.server import ComfyUI, Prompt
from demo.songs import write_demo_songs
from demo.stage import BASE, PACK, extra_folders
from demo.tiny import DEMO_MODEL, write_demo_models
from demo.workflow import PROMPT


@pytest.fixture(scope="session")
def demo_models() -> Path:
    """ComfyUI's models folder with the demo checkpoint, made once."""
    write_demo_models(BASE / "models")
    return BASE / "models"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, demo_models: Path) -> Iterator[ComfyUI]:
    """A ComfyUI with the demo's models and songs, and with outputs, LoRAs and settings of its own."""
    base = tmp_path_factory.mktemp("comfyui")
    write_demo_songs(base / "input" / "demo_songs")
    with ComfyUI(Path(os.environ["COMFYUI_PATH"]), base, pack=PACK,
                 extra_args=("--cpu", *extra_folders(model_files(demo_models / DEMO_MODEL)))) as running:
        yield running


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    """The demo's workflow as ComfyUI's API takes it."""
    return with_models(json.loads(PROMPT.read_text(encoding="utf-8")), model_files(BASE / "models" / DEMO_MODEL))
