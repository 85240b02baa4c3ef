"""Fixtures and scheduling of all tests."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from demo.examples import PROMPT
from demo.models import model_files, with_models
from demo.server import Prompt
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL


class ByServer(LoadScopeScheduling):
    """Scheduler that keeps a file on one worker, and all files that share a ComfyUI on one, so that it starts once."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(self.config.rootpath / nodeid.partition("::")[0])


@lru_cache
def scope_of(file: Path) -> str:
    """Name the ComfyUI that a file's tests share, as a server or as a library; the file itself if they need none."""
    if file.parent.name == "host":
        return "host server" if "server: ComfyUI" in file.read_text(encoding="utf-8") else "host library"
    return "web" if file.parent.name == "web" else str(file)


def start_order(item: pytest.Item, slow: set[Path]) -> tuple[int, bool]:
    """Place of a test in the order of starts: what takes long comes first, or one worker has it alone at the end."""
    scopes = ["host server", "web", "host library"]
    scope = scope_of(item.path)
    return (scopes.index(scope) if scope in scopes else len(scopes)), item.path not in slow


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests of a worker by their length; a single process runs them as they are named."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: start_order(item, slow))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServer:
    """Schedule by files, in the order of `start_order`: xdist 3.8 does not distinguish groups under pytest 9.2."""
    config.option.loadscopereorder = False
    return ByServer(config, log)


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    """Demo workflow in the format of ComfyUI's API."""
    return with_models(json.loads(PROMPT.read_text(encoding="utf-8")), model_files(BASE / "models" / DEMO_MODEL))
