"""Automatic settings become values that suit the checkpoint and the dataset, and people learn what is overruled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import ConfigError, DatasetError
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.training.config import ResolvedConfig, TrainConfig
from sidestep_core.training.resolve import resolve, sampling
from tests.tiny import sample_info

CONFIG = TrainConfig(device="cpu", heldout_songs=0)


def dataset_of(songs: int, **values: Any) -> Dataset:
    return Dataset(folder=Path("nowhere"), checkpoint="", style="comfyui", trigger_word="",
                   samples=tuple(sample_info(number, 30) for number in range(songs)), **values)


def resolved(checkpoint: Checkpoint, songs: int = 5, **settings: Any) -> ResolvedConfig:
    return resolve(replace(CONFIG, **settings), checkpoint, dataset_of(songs)).config


@pytest.mark.parametrize(("songs", "heldout"), [(1, 0), (9, 0), (10, 1), (19, 1), (20, 2), (99, 9)])
def test_one_song_in_ten_is_held_out(checkpoint: Checkpoint, songs: int, heldout: int) -> None:
    assert resolved(checkpoint, songs, heldout_songs=None).heldout_songs == heldout


def test_sections_count_as_one_song(checkpoint: Checkpoint) -> None:
    dataset = dataset_of(24)
    dataset = replace(dataset, samples=tuple(replace(sample, audio="one file") for sample in dataset.samples))
    assert resolve(replace(CONFIG, heldout_songs=None), checkpoint, dataset).config.heldout_songs == 0
    with pytest.raises(DatasetError, match="heldout_songs is 1 but the dataset has 1"):
        resolve(replace(CONFIG, heldout_songs=1), checkpoint, dataset)


@pytest.mark.parametrize("count", [2, 3])
def test_some_song_must_be_trained(checkpoint: Checkpoint, count: int) -> None:
    with pytest.raises(DatasetError, match=rf"heldout_songs is {count} but the dataset has 2"):
        resolved(checkpoint, 2, heldout_songs=count)


def test_judging_needs_heldout_songs(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="no song is held out"):
        resolved(checkpoint, publish="best")


def test_genre_ratio_defaults_to_dataset(checkpoint: Checkpoint) -> None:
    dataset = dataset_of(5, genre_ratio=0.25)
    assert resolve(CONFIG, checkpoint, dataset).config.genre_ratio == 0.25
    for ratio in (0.0, 0.5):
        assert resolve(replace(CONFIG, genre_ratio=ratio), checkpoint, dataset).config.genre_ratio == ratio


@pytest.mark.parametrize(("variant", "mode", "given", "expected"), [
    ("turbo", "auto", None, 0.0), ("turbo", "logit_normal", None, 0.15), ("turbo", "discrete", None, 0.0),
    ("turbo", "sampler", None, 0.0), ("turbo", "continuous", None, 0.15), ("base", "sampler", None, 0.15),
    ("base", "discrete", None, 0.15), ("sft", "auto", None, 0.15), ("turbo", "discrete", 0.2, 0.2),
    ("base", "auto", 0.0, 0.0),
])  # fmt: skip
def test_cfg_ratio_suits_the_variant(checkpoint: Checkpoint, variant: Any, mode: Any, given: float | None,
                                     expected: float) -> None:
    found = resolved(replace(checkpoint, variant=variant), timestep_mode=mode, cfg_ratio=given)
    assert found.cfg_ratio == expected


@pytest.mark.parametrize(("variant", "mode"), [("turbo", "discrete"), ("base", "continuous"), ("sft", "continuous")])
def test_times_follow_the_checkpoint(checkpoint: Checkpoint, variant: Any, mode: str) -> None:
    own = replace(checkpoint, variant=variant, timestep_mu=-0.7, timestep_sigma=1.3)
    found = resolved(own, timestep_mu=1.0, timestep_sigma=2.0)
    assert (found.timestep_mode, found.timestep_mu, found.timestep_sigma) == (mode, -0.7, 1.3)
    assert found.discrete_shift == "mixed"
    for given in ("continuous", "logit_normal", "discrete", "sampler"):
        assert resolved(own, timestep_mode=given).timestep_mode == given


@pytest.mark.parametrize(("preset", "expected"), [("detail", (-0.8, 0.8)), ("custom", (1.0, 2.0))])
def test_times_follow_the_preset(checkpoint: Checkpoint, preset: Any, expected: tuple[float, float]) -> None:
    found = resolved(checkpoint, timestep_mode="logit_normal", timestep_preset=preset, timestep_mu=1.0,
                     timestep_sigma=2.0)
    assert found.timestep_mode == "logit_normal"
    assert (found.timestep_mu, found.timestep_sigma) == expected


@pytest.mark.parametrize(("variant", "expected"), [("turbo", (3.0, 8)), ("base", (1.0, 50)), ("sft", (1.0, 50))])
def test_sampling_suits_the_variant(checkpoint: Checkpoint, variant: Any, expected: tuple[float, int]) -> None:
    checkpoint = replace(checkpoint, variant=variant)
    assert sampling(CONFIG, checkpoint) == expected
    found = resolved(checkpoint, shift=2.0, inference_steps=11)
    assert (found.shift, found.inference_steps) == (2.0, 11)


def test_device_and_dtype_are_chosen(checkpoint: Checkpoint) -> None:
    settings = resolve(replace(CONFIG, precision="bf16"), checkpoint, dataset_of(5))
    assert (settings.device, settings.dtype) == (torch.device("cpu"), torch.bfloat16)
    assert resolve(CONFIG, checkpoint, dataset_of(5)).dtype == torch.float32
    assert (settings.config.device, settings.config.precision) == ("cpu", "bf16")
    with pytest.raises(ConfigError, match="device 'cuda:99' is not available"):
        resolved(checkpoint, device="cuda:99")


def test_prodigy_runs_at_its_rate(checkpoint: Checkpoint) -> None:
    given = replace(CONFIG, max_steps=50, optimizer="prodigy", learning_rate=3e-4, warmup_steps=5)
    settings = resolve(given, checkpoint, dataset_of(5))
    assert (settings.config.learning_rate, settings.config.schedule) == (1.0, "constant")
    assert settings.notices == ("prodigy finds the learning rate itself: it runs at learning_rate 1.0, not at 0.0003.",)
    assert resolve(settings.config, checkpoint, dataset_of(5)).notices == ()
    for schedule in ("cosine", "linear", "constant_with_warmup"):
        chosen = resolve(replace(given, schedule=schedule), checkpoint, dataset_of(5))
        assert (chosen.config.learning_rate, chosen.config.schedule) == (1.0, schedule)
        assert chosen.notices == settings.notices
    other = resolved(checkpoint, learning_rate=3e-4, schedule="linear")
    assert (other.learning_rate, other.schedule) == (3e-4, "linear")
    assert resolved(checkpoint).schedule == "cosine"


@pytest.mark.parametrize(("steps", "schedule", "notices"), [
    (1000, "cosine", ()), (500, "constant", ()),
    (500, "cosine", ("Warm-up takes 50 steps, not 100: at most one in 10 of the run's 500.",)),
])
def test_shorter_warmup_is_reported(checkpoint: Checkpoint, steps: int, schedule: Any,
                                    notices: tuple[str, ...]) -> None:
    settings = resolve(replace(CONFIG, max_steps=steps, schedule=schedule), checkpoint, dataset_of(5))
    assert (settings.total_steps, settings.notices) == (steps, notices)


def test_total_steps_omit_heldout_songs(checkpoint: Checkpoint) -> None:
    settings = resolve(replace(CONFIG, epochs=3, heldout_songs=1, gradient_accumulation=4), checkpoint, dataset_of(5))
    assert settings.total_steps == 3


def test_resolving_twice_changes_nothing(checkpoint: Checkpoint) -> None:
    once = resolve(TrainConfig(device="cpu"), checkpoint, dataset_of(12))
    assert resolve(once.config, checkpoint, dataset_of(12)).config == once.config
