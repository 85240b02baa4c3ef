"""Influence of songs: right about planted ones, equal after a stop, and only for adapters that held music out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import AdapterError, ConfigError
from sidestep_core.estimate import influence as measuring
from sidestep_core.estimate.influence import FOLDS, STRENGTH, Products, influence, judge, measure, weakened
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress, Report
from sidestep_core.runs.influence import Influence
from sidestep_core.training.heldout.passes import Pass
from sidestep_core.training.loss import Objective, pass_losses
from tests.adapters import KINDS, taught
from tests.poisoned import trained_with
from tests.tiny import TinySource, tiny_checkpoint, write_dataset
from tests.tolerance import FP32, deviation
from tests.training import CONFIG, LORA, trained

SONGS, DRAWS = 6, 8
World = tuple[Checkpoint, Dataset]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("influence")
    checkpoint = tiny_checkpoint(folder / "model")
    return checkpoint, write_dataset(folder / "songs", checkpoint, (30,) * SONGS)


@pytest.mark.slow
@pytest.mark.parametrize("poison", [True, False])
def test_duplicate_helps_and_poison_harms(world: World, tmp_path: Path, poison: bool) -> None:
    with trained_with(*world, seed=0, poison=poison) as made:
        products = measure(made.training, DRAWS, tmp_path / "a.part")
    songs = judge([sample.name for sample in made.training.trained_on], products)
    assert songs[0].song == made.duplicate
    assert made.hit(songs) == poison


def products(dots: torch.Tensor, *, squares: float = 1.0) -> Products:
    """Products of one matrix, with dots [S, R, F]."""
    return Products(dots_SRFM=dots[..., None].double(), squares_SRM=torch.full((len(dots), FOLDS, 1), squares).double(),
                    heldout_FM=torch.ones(FOLDS, 1).double())


def test_verdicts_follow_score_and_error() -> None:
    steady, random = torch.ones(FOLDS, FOLDS), torch.randn(FOLDS, FOLDS, generator=torch.Generator().manual_seed(0))
    found = judge(["bad", "noisy", "good"], products(torch.stack([-0.5 * steady, random, 0.5 * steady])))
    assert {song.song: song.verdict for song in found} == {"good": "helps", "noisy": "neutral", "bad": "harms"}
    assert [song.score for song in found if song.song != "noisy"] == [0.5, -0.5]


def test_matrices_count_alike() -> None:
    one = products(torch.ones(2, FOLDS, FOLDS))
    large = replace(one, dots_SRFM=-100 * one.dots_SRFM, squares_SRM=100 * one.squares_SRM,
                    heldout_FM=100 * one.heldout_FM)
    both = Products(**{name: torch.cat([getattr(one, name), getattr(large, name)], dim=-1)
                       for name in ("dots_SRFM", "squares_SRM", "heldout_FM")})
    assert [song.score for song in judge(["a", "b"], both)] == [0.0, 0.0]


def test_size_of_a_song_does_not_count() -> None:
    one = products(0.5 * torch.ones(2, FOLDS, FOLDS))
    scale = torch.tensor([1.0, 9.0])[:, None, None].double()
    larger = replace(one, dots_SRFM=one.dots_SRFM * scale[..., None], squares_SRM=one.squares_SRM * scale**2)
    first, second = judge(["a", "b"], larger)
    assert first.score == pytest.approx(second.score)


def test_zero_gradients_are_neutral() -> None:
    found = judge(["a"], products(torch.zeros(1, FOLDS, FOLDS), squares=0.0))
    assert [(song.score, song.verdict) for song in found] == [(0.0, "neutral")]


@pytest.fixture(scope="module")
def adapter(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    return trained(*world, folder, config=replace(CONFIG, max_steps=2)).path


def measured(world: World, adapter: Path, folder: Path, **more: object) -> Influence:
    return influence(TinySource(Path(), []), *world, adapter, folder, **{"draws": FOLDS, "device": "cpu", **more})


def test_stopped_measurement_goes_on(world: World, adapter: Path, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def stop(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 4 * FOLDS:
            raise Cancelled

    whole = measured(world, adapter, tmp_path / "whole")
    with pytest.raises(Cancelled):
        measured(world, adapter, tmp_path / "stopped", report=stop)
    steps.clear()
    assert measured(world, adapter, tmp_path / "stopped", report=steps_of(steps)) == whole
    assert max(steps) == (SONGS - 2) * FOLDS
    assert len(whole.songs) == SONGS - 1
    monkeypatch.setattr(measuring, "prepare", None)
    assert measured(world, adapter, tmp_path / "stopped") == whole
    assert [path.suffix for path in (tmp_path / "stopped").iterdir()] == [".json"]


def steps_of(steps: list[int]) -> Report:
    return lambda progress: steps.append(progress.step)


def test_adapter_itself_is_measured(world: World, adapter: Path, tmp_path: Path) -> None:
    other = trained(*world, tmp_path, config=replace(CONFIG, max_steps=3)).path
    one, two = (measured(world, path, tmp_path / path.parent.name) for path in (adapter, other))
    assert (one.step, two.step) == (2, 3)
    assert one.songs != two.songs


def test_held_out_sections_have_noise_of_their_own(world: World, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a song has the song's name."""
    checkpoint, seen = world[0], list[tuple[int | str, ...]]()

    def losses(objective: Objective, one: Pass, *noise: int | str) -> Iterator[torch.Tensor]:
        seen.append(noise)
        return pass_losses(objective, one, *noise)

    dataset = write_dataset(tmp_path / "songs", checkpoint, (520, 540), windows=(25,))
    config = replace(CONFIG, max_steps=1, heldout_songs=None, chunk_duration=1.0)
    path = trained(checkpoint, dataset, tmp_path, config=config).path
    monkeypatch.setattr(measuring, "pass_losses", losses)
    assert len(measured((checkpoint, dataset), path, tmp_path).songs) == 2
    assert len(set(seen)) == len(seen) == 4 * FOLDS


def test_other_dataset_is_refused(world: World, adapter: Path, tmp_path: Path) -> None:
    checkpoint, dataset = world
    other = replace(dataset, samples=dataset.samples[:-1])
    with pytest.raises(AdapterError, match="trained on another dataset"):
        measured((checkpoint, other), adapter, tmp_path)


def test_something_must_be_held_out(world: World, tmp_path: Path) -> None:
    path = trained(*world, tmp_path, LORA, replace(CONFIG, max_steps=1, heldout_songs=0)).path
    with pytest.raises(ConfigError, match="nothing held out"):
        measured(world, path, tmp_path)


def test_only_the_loss_of_the_training_counts(world: World) -> None:
    """An optimizer of a package that is missing here, and a compiler, are not needed to measure."""
    config = replace(CONFIG, optimizer="prodigy", ema_decay=0.9, preserve=0.5, compile="on", precision="fp16",
                     loss_weighting="min_snr", chunk_duration=1.0, seed=7)
    measured_with = measuring._settings({"train": config.to_json()}, *world, "cpu").config
    changed = {name for name, value in config.to_json().items() if measured_with.to_json()[name] != value}
    assert changed == {"optimizer", "ema_decay", "preserve", "compile", "precision", "schedule", "cfg_ratio",
                       "genre_ratio", "shift", "inference_steps"}


@pytest.mark.parametrize("draws", [0, 3, 6])
def test_draws_fill_folds(world: World, adapter: Path, tmp_path: Path, draws: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 4"):
        measured(world, adapter, tmp_path, draws=draws)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "dora" not in kind])
def test_every_kind_is_weakened(world: World, kind: str) -> None:
    _, live = taught(world[0], KINDS[kind])
    whole = [trained.delta for trained in live.deltas()]
    live.load_state_dict(weakened(live.state_dict()))
    for before, after in zip(whole, live.deltas(), strict=True):
        assert deviation(after.delta, STRENGTH * before) <= FP32
        assert deviation(after.delta, before) > FP32
