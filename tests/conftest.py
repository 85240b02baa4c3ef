"""The demo's workflow, for all tests that run it."""

from __future__ import annotations

import json

import pytest

from demo.models import model_files, with_models
from demo.server import Prompt
from demo.stage import BASE
from demo.tiny import DEMO_MODEL
from demo.workflow import PROMPT


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    """The demo's workflow as ComfyUI's API takes it."""
    return with_models(json.loads(PROMPT.read_text(encoding="utf-8")), model_files(BASE / "models" / DEMO_MODEL))
