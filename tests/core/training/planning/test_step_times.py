"""The time of a step is kept by its shape and device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.planning import step_times

CONFIG = TrainConfig(chunk_duration=60.0)
LORA = LoraConfig()


def key(device: str = "cuda:0", seconds: float = 200.0, config: TrainConfig = CONFIG,
        adapter: LoraConfig | LokrConfig = LORA) -> str:
    return step_times.shape(device, "2B", adapter, config, seconds)


def test_kept_times_are_read(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    assert step_times.read(file) == {}
    step_times.remember(file, "a", 0.5)
    step_times.remember(file, "b", 2.0)
    step_times.remember(file, "a", 0.75)
    assert step_times.read(file) == {"a": 0.75, "b": 2.0}


def test_damaged_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    file.write_text('{"a": "soon"}', encoding="utf-8")
    assert step_times.read(file) == {}
    step_times.remember(file, "a", 1.0)
    assert step_times.read(file) == {"a": 1.0}


def test_latest_times_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    for number in range(step_times.MOST + 3):
        step_times.remember(file, str(number), 1.0)
    assert [*step_times.read(file)] == [str(number) for number in range(3, step_times.MOST + 3)]


def test_unwritable_file_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "times.json").mkdir()
    step_times.remember(tmp_path / "times.json", "a", 1.0)
    assert step_times.read(tmp_path / "times.json") == {}


def test_shape_is_what_takes_time() -> None:
    assert key() == key(config=replace(CONFIG, learning_rate=1.0, max_steps=7), seconds=300.0)
    changes: list[dict[str, Any]] = [
        {"batch_size": 2}, {"gradient_accumulation": 1}, {"gradient_checkpointing": "off"}, {"precision": "fp32"},
        {"chunk_duration": 0.0}, {"base_precision": "int8"}, {"offload": "on"}, {"compile": "on"}]
    others = [key("cuda:1"), key(seconds=20.0), key(adapter=LokrConfig()),
              *(key(config=replace(CONFIG, **change)) for change in changes)]
    assert len({key(), *others}) == 1 + len(others)
