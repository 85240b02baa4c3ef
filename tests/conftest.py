"""The demo's workflow, for all tests that run it."""

from __future__ import annotations

import json

import pytest

from demo.models import model_files, with_models
from demo.server import Prompt
from demo.stage import BASE
from demo.tiny import DEMO_MODEL
from demo.workflow import PROMPT


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one worker, and all that talk to a ComfyUI of the same kind on one: it starts once."""
    for item in items:
        folder = item.path.parent.name
        group = folder if "server" in item.fixturenames or "browser" in item.fixturenames else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    """The demo's workflow as ComfyUI's API takes it."""
    return with_models(json.loads(PROMPT.read_text(encoding="utf-8")), model_files(BASE / "models" / DEMO_MODEL))
