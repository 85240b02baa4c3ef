"""The real ComfyUI, as a server, and as a library for tests that look into its models."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from demo.server import ComfyUI
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL, DEMO_TEXT_ENCODER, DEMO_VAE, write_demo_models
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from tests.running import SERVERS, demo_comfyui, make_idle

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def comfy() -> ModuleType:
    """The package `comfy` of the host in COMFYUI_PATH."""
    host = os.environ["COMFYUI_PATH"]
    sys.path.insert(0, host)
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", host]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
        import comfy.lora_convert
        import comfy.sd
    finally:
        sys.argv = arguments
    gc.freeze()  # millions of objects, which each collection would look at
    return sys.modules["comfy"]


@pytest.fixture(scope="session")
def demo_models() -> Path:
    """ComfyUI's models folder with the demo checkpoint, made once."""
    write_demo_models(BASE / "models")
    return BASE / "models"


@pytest.fixture(scope="session")
def checkpoint(demo_models: Path) -> Checkpoint:
    """The demo's, opened by the core."""
    return open_checkpoint(demo_models / DEMO_MODEL, text_encoder=demo_models / DEMO_TEXT_ENCODER,
                           vae=demo_models / DEMO_VAE)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A ComfyUI of these tests alone, with the node of the web tests that takes a given time."""
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(Path(__file__).parent.with_name("web") / "driver", base / "custom_nodes" / "driver")
    with demo_comfyui(base) as running:
        yield running


@pytest.fixture(autouse=True)
def _servers_are_left_idle() -> Iterator[None]:
    """Stop what a test has left running, or waiting, on the server that the next ones share."""
    yield
    for running in SERVERS:
        make_idle(running)


@pytest.fixture(scope="module", autouse=True)
def _models_are_let_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """ComfyUI keeps the models of a whole session, here and in the server: 8 GB each."""
    yield
    if "comfy.model_management" in sys.modules:
        sys.modules["comfy.model_management"].unload_all_models()
        gc.collect()
    for running in SERVERS:
        running.post_json("/free", {"unload_models": True, "free_memory": True})
