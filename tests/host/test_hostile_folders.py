"""Hostile files in ComfyUI's folders: the lists of all nodes are still answered, and say nothing of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.server import ComfyUI
from tests import hostile
from tests.host.test_datasets import building


@pytest.fixture
def model(server: ComfyUI) -> Iterator[Path]:
    """A folder that looks like ACE-Step's model, but for its config.json."""
    folder = server.base / "models" / "hostile" / "acestep-v15-turbo"
    folder.mkdir(parents=True)
    for name in ("silence_latent.pt", "model.safetensors"):
        (folder / name).touch()
    yield folder
    shutil.rmtree(folder.parent)


def choices(server: ComfyUI) -> list[str]:
    """Lists of models, as the page gets them."""
    info = server.get_json("/object_info/SideStepLoadACEStepCheckpoint")["SideStepLoadACEStepCheckpoint"]
    found: list[str] = info["input"]["required"]["model"][1]["options"]
    return found


def test_model_without_settings_hides_nothing(server: ComfyUI, model: Path) -> None:
    (model / "config.json").write_bytes(b"[]")
    info = server.get_json("/object_info")
    assert {"KSampler", "SideStepLoadACEStepCheckpoint", "SideStepTrainAdapter"} <= info.keys()


def test_hostile_settings_leave_model_list(server: ComfyUI, model: Path) -> None:
    config = model / "config.json"
    before = choices(server)
    for text in hostile.TEXTS.values():
        config.write_bytes(text)
        assert choices(server) == before
    config.unlink()
    config.mkdir()
    assert choices(server) == before
    config.rmdir()
    config.write_text('{"is_turbo": true}', encoding="utf-8")
    assert choices(server) == ["official/hostile/acestep-v15-turbo", *before]


def test_hostile_presets_stay_listed(server: ComfyUI) -> None:
    folder = server.base / "output" / "sidestep" / "presets"
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(hostile.TEXTS.values()):
        (folder / f"hostile {number}.json").write_bytes(text)
    info = server.get_json("/object_info/SideStepLoadPreset")["SideStepLoadPreset"]
    assert "my presets/hostile 0" in info["input"]["required"]["preset"][1]["options"]
    for path in folder.glob("hostile *.json"):
        load = {"class_type": "SideStepLoadPreset", "inputs": {"preset": f"my presets/{path.stem}"}}
        show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}}
        outcome = server.run({"1": load, "2": show}, timeout=60)
        assert outcome.status == "error"
        assert "Unexpected error" not in outcome.exception_message
        path.unlink()


def test_stop_within_a_scan_stops_one_workflow(server: ComfyUI) -> None:
    """ComfyUI asks for fingerprints outside of every node, where its own exception would end its thread of workflows.

    It does not tell any node of it, so a stop can only be sent as soon as the workflow has begun.
    """
    many = server.base / "input" / "many files"
    many.mkdir()
    for number in range(20_000):
        (many / f"{number}.txt").touch()
    show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}

    def stop(event: tuple[str, dict[str, Any]]) -> None:
        if event[0] == "execution_start":
            server.interrupt()

    try:
        stopped = server.wait(server.submit({"1": building(folder="many files"), "2": show}), 60, stop)
    finally:
        shutil.rmtree(many)
    assert stopped.status == "interrupted"
    assert "The scan was stopped." in server.tail()
    text = {"class_type": "PreviewAny", "inputs": {"source": "still here"}}
    assert server.run({"1": text}, timeout=60).status == "success"
