"""Fixtures and scheduling of all tests."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from demo.models import model_files, with_models
from demo.server import Prompt
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL
from demo.workflow import PROMPT


class ByServer(LoadScopeScheduling):
    """Scheduler that keeps a file on one worker, and all files that share a ComfyUI on one, so that it starts once."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0])
        return str(file.parent if file.parent.name in ("host", "web") else file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServer:
    """Schedule by files: xdist 3.8 does not distinguish groups under pytest 9.2."""
    return ByServer(config, log)


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    """Demo workflow in the format of ComfyUI's API."""
    return with_models(json.loads(PROMPT.read_text(encoding="utf-8")), model_files(BASE / "models" / DEMO_MODEL))
