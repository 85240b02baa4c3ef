"""The plan of a training from settings alone: the same numbers as the training has, and the cheapest change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import DatasetError
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.planning import host_memory
from sidestep_core.training.planning.plan import Fix, Plan, Room, plan
from tests.tiny import sample_info, write_dataset
from tests.training import CONFIG, LORA, prepared

ROOM = Room(free=10**12, total=10**12)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (40, 50, 60))


def songs(count: int, seconds: int, **values: Any) -> Dataset:
    """Songs that are not encoded."""
    return Dataset(folder=Path("nowhere"), checkpoint="", style="comfyui", trigger_word="", samples=tuple(
        replace(sample_info(number, seconds * 25), **values) for number in range(count)))


def planned(checkpoint: Checkpoint, dataset: Dataset, room: Room | None = ROOM, adapter: LoraConfig = LORA,
            **settings: Any) -> Plan:
    return plan(checkpoint, dataset, adapter, replace(CONFIG, **settings), room)


def test_plan_equals_the_training(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = prepared(checkpoint, dataset)
    made = planned(checkpoint, dataset)
    assert made.need == training.need
    assert made.parameters == sum(parameter.numel() for parameter in training.adapter.parameters)
    assert (made.songs, made.heldout) == (len(training.trained_on), len(training.heldout))
    assert made.steps == training.total_steps
    assert made.verdict == "fits"
    assert made.fix is None


def test_listens_count_repeats(checkpoint: Checkpoint) -> None:
    made = planned(checkpoint, songs(5, 30, repeats=2), max_steps=100, gradient_accumulation=4, heldout_songs=0)
    assert made.listens == 100 * 4 / 10
    assert made.minutes == 2.5


def test_unknown_room_has_no_verdict(checkpoint: Checkpoint) -> None:
    made = planned(checkpoint, songs(5, 30), None)
    assert (made.verdict, made.fix) == ("unknown", None)


def room_for(made: Plan, share: float) -> Room:
    """Room of which decoder and adapter leave so large a share of what the rest needs."""
    need = made.need
    free = need.weights + need.adapter + round(share * (need.trained + need.activations))
    return Room(free=free, total=free)


def test_verdict_follows_the_room(checkpoint: Checkpoint) -> None:
    dataset = songs(5, 300)
    whole = planned(checkpoint, dataset, gradient_checkpointing="on")
    assert planned(checkpoint, dataset, room_for(whole, 1.3), gradient_checkpointing="on").verdict == "fits"
    assert planned(checkpoint, dataset, room_for(whole, 1.01), gradient_checkpointing="on").verdict == "tight"
    assert planned(checkpoint, dataset, room_for(whole, 0.9), gradient_checkpointing="on").verdict == "too_large"


@pytest.mark.parametrize(("settings", "share", "setting", "value"), [
    ({"gradient_checkpointing": "off", "batch_size": 2}, 0.95, "gradient_checkpointing", "auto"),
    ({"gradient_checkpointing": "on", "batch_size": 2}, 0.95, "batch_size", 1),
    ({"gradient_checkpointing": "on"}, 0.95, "chunk_duration", 120),
    ({"gradient_checkpointing": "on"}, 0.3, "chunk_duration", 60),
])
def test_cheapest_change_is_proposed(checkpoint: Checkpoint, settings: dict[str, Any], share: float, setting: str,
                                     value: object) -> None:
    dataset = songs(5, 240)
    room = room_for(planned(checkpoint, dataset, None, **settings), share)
    fix = planned(checkpoint, dataset, room, **settings).fix
    assert fix is not None
    assert (fix.setting, fix.value, fix.fits) == (setting, value, True)
    changed = planned(checkpoint, dataset, room, **{**settings, setting: value})
    assert changed.verdict in ("fits", "tight")
    assert fix.saved > 0


def test_proposed_rank_fits(checkpoint: Checkpoint) -> None:
    adapter = LoraConfig(rank=64, alpha=128.0)
    whole = planned(checkpoint, songs(5, 5), None, adapter, gradient_checkpointing="on")
    smaller = planned(checkpoint, songs(5, 5), None, replace(adapter, rank=32), gradient_checkpointing="on")
    free = smaller.need.total + (whole.need.total - smaller.need.total) // 8
    fix = planned(checkpoint, songs(5, 5), Room(free=free, total=free), adapter, gradient_checkpointing="on").fix
    assert fix is not None
    assert (fix.setting, fix.value, fix.fits) == ("rank", 32, True)


def test_fewer_bits_are_proposed_last(checkpoint: Checkpoint) -> None:
    """Nothing else is left to change."""
    dataset, settings = songs(5, 5), {"gradient_checkpointing": "on"}
    room = room_for(planned(checkpoint, dataset, None, **settings), 0.9)
    fix = planned(checkpoint, dataset, room, **settings).fix
    assert fix is not None
    assert (fix.setting, fix.value, fix.fits) == ("base_precision", "int8", True)
    assert fix.sentence.startswith("the model in int8 would save")


def test_offload_is_proposed_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_tiny_models(tmp_path, Geometry(layers=8))
    checkpoint = open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)
    dataset, settings = songs(5, 5), {"gradient_checkpointing": "on", "offload": "off"}
    made = planned(checkpoint, dataset, None, **settings)
    room = Room(free=made.need.total - made.need.layer_weights, total=made.need.total)
    fix = planned(checkpoint, dataset, room, **settings).fix
    assert (fix and fix.setting) == "base_precision"
    monkeypatch.setattr(host_memory, "OFFLOADS_ON", ("cpu",))
    fix = planned(checkpoint, dataset, room, **settings).fix
    assert fix is not None
    assert (fix.setting, fix.value, fix.fits) == ("offload", "auto", True)
    auto = planned(checkpoint, dataset, room, gradient_checkpointing="on")
    assert auto.verdict in ("fits", "tight")
    assert auto.need.offloaded > 2
    assert auto.need.total < made.need.total


def test_hopeless_room_says_so(checkpoint: Checkpoint) -> None:
    fix = planned(checkpoint, songs(5, 240), Room(free=1, total=1)).fix
    assert fix is not None
    assert not fix.fits
    assert fix.sentence.endswith("which is not enough alone")


def test_saving_is_in_words() -> None:
    fix = Fix(setting="chunk_duration", value=30, saved=round(0.6 * 2**30), fits=True)
    assert fix.sentence == "crops of 30 s would save 0.6 GB"


def test_wrong_settings_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(DatasetError, match="heldout_songs is 9"):
        plan(checkpoint, songs(2, 30), LORA, TrainConfig(heldout_songs=9, device="cpu"), ROOM)
