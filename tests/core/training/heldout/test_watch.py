"""Watch over trained songs: within its budget, fair to every song, and right about the one that is learned by heart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.flow_matching import TimestepDistribution, times_at
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.runs import by_heart, curve, summary
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.data import Sample
from sidestep_core.training.heldout.passes import PASS_COST
from sidestep_core.training.heldout.watch import (
    BUDGET,
    FEWEST_HELD_OUT,
    HIGH,
    MOST_SONGS,
    PER_SONG,
    Watch,
    choose,
    judge,
)
from sidestep_core.training.metrics import FILE, read
from tests.distilled import Music, distil, write_songs
from tests.training import settled, stop_at, trained

LAW = TimestepDistribution()
RUN = {"max_steps": 1000, "gradient_accumulation": 4, "heldout_every": 50}
LORA = LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True)
CONFIG = TrainConfig(max_steps=60, batch_size=8, gradient_accumulation=1, heldout_songs=4, heldout_every=30,
                     learning_rate=5e-3, warmup_steps=0, schedule="constant", timestep_mode="continuous",
                     cfg_ratio=0.0, save_every=20, device="cpu", gradient_checkpointing="off")
REPEATED = "song0.wav"


def songs(*frames: int, prefix: str = "", repeats: int = 1) -> tuple[Sample, ...]:
    return tuple(Sample(name=f"{prefix}{number}.wav", latents_TC=torch.zeros(length, 64), repeats=repeats,
                        condition_SD=torch.zeros(4, 8)) for number, length in enumerate(frames))


@pytest.mark.parametrize("values", [{}, {"chunk_duration": 10}, {"heldout_every": 7}, {"max_steps": 150},
                                    {"epochs": 99}, {"batch_size": 2, "heldout_every": 33}])
@pytest.mark.parametrize("count", [3, 40])
def test_watching_keeps_its_budget(values: dict[str, float], count: int) -> None:
    trained_on, held = songs(*[250, 600, 1500] * count), songs(*[1400, 200] * count, prefix="held")
    config = settled(**(RUN | values))
    watch = choose(trained_on, held, config, LAW)
    assert watch is not None
    crop = config.chunk_frames or 10**9
    mean = sum(min(len(sample.latents_TC), crop) for sample in trained_on) / len(trained_on)
    steps = config.total_steps(len(trained_on))
    measured = {*range(0, steps, config.heldout_every), steps}
    times = sum(step == steps or watch.is_due(step) for step in measured)
    cost = 2 * times * sum(min(len(one.sample.latents_TC), crop) for one in (*watch.trained, *watch.heldout))
    share = cost * PASS_COST / (steps * config.samples_per_step * mean)
    assert times >= 1
    assert share <= BUDGET
    assert share > BUDGET / 4 or len(watch.trained) == PER_SONG * MOST_SONGS


def test_nothing_is_watched_without_held_out_songs() -> None:
    assert choose(songs(100, 100), (), settled(**RUN), LAW) is None


def test_short_training_is_not_watched() -> None:
    assert choose(songs(100), songs(100, prefix="held"), settled(max_steps=10), LAW) is None


def test_songs_shown_most_are_watched() -> None:
    often, long = songs(300, prefix="often", repeats=2), songs(1000, prefix="long")
    many = songs(*[200] * (MOST_SONGS - 1), prefix="short")
    watch = choose((*long, *many, *often), songs(300, prefix="held"), settled(chunk_duration=4, **RUN), LAW)
    assert watch is not None
    names = list(dict.fromkeys(one.sample.name for one in watch.trained))
    assert names[0] == "often0.wav"
    assert "long0.wav" not in names


def test_all_are_measured_at_the_same_high_times() -> None:
    watch = choose(songs(300, 400, 500), songs(300, prefix="held"), settled(**RUN), LAW)
    assert watch is not None
    assert len(watch.heldout) >= PER_SONG * FEWEST_HELD_OUT
    times = [Counter(one.time for one in passes) for passes in (watch.trained, watch.heldout)]
    assert [{*counted.values()} for counted in times] == [{3}, {len(watch.heldout) // PER_SONG}]
    assert times[0].keys() == times[1].keys()
    assert min(times[0]) > float(times_at(LAW, torch.tensor([HIGH])))
    assert len({(one.sample.name, one.noise) for one in (*watch.trained, *watch.heldout)}) == 6 + len(watch.heldout)


@pytest.mark.parametrize(("fall", "heldout", "flagged"), [
    (0.3, (0.1, 0.12, 0.08, 0.1), True), (0.15, (0.1, 0.12, 0.08, 0.1), False), (0.3, (0.2, 0.0, -0.1, 0.1), False),
    (0.5, (0.5, 0.52, 0.48, 0.5), False)])
def test_alarm_needs_size_and_certainty(fall: float, heldout: tuple[float, ...], flagged: bool) -> None:
    watch = choose(songs(300, 300), songs(300, prefix="held"), settled(**RUN), LAW)
    assert isinstance(watch, Watch)
    known = judge(watch, (0.1, 0.1, fall, fall), heldout)
    assert [song.by_heart for song in known] == [flagged, False]
    assert known[0].song == watch.trained[-1].sample.name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Dataset]:
    """A model that knows its music already, and songs that a tiny adapter can remember."""
    folder, music = tmp_path_factory.mktemp("known"), Music.of(frames=2, spread=1.0)
    checkpoint = distil(folder / "model", music, guidance=1.0)
    return checkpoint, write_songs(folder / "songs", checkpoint, music, count=16)


def repeated(dataset: Dataset) -> Dataset:
    return replace(dataset, samples=tuple(replace(info, repeats=50 if info.name == REPEATED else 1)
                                          for info in dataset.samples))


@pytest.mark.slow
def test_repeated_song_is_named(made: tuple[Checkpoint, Dataset], tmp_path: Path) -> None:
    notices: list[str] = []

    def report(progress: Progress) -> None:
        notices.append(progress.notice)

    trained(made[0], repeated(made[1]), tmp_path, LORA, CONFIG, report=report)
    run = tmp_path / "run"
    watched = by_heart.read(run)
    assert watched is not None
    assert (watched.step, watched.by_heart) == (60, (REPEATED,))
    assert [row["by_heart"] for row in read(run / FILE) if "by_heart" in row][-1] == 1
    assert summary.read(run, curve.read(run / FILE)).by_heart == (REPEATED,)
    (alarm,) = {notice for notice in notices if notice}
    assert alarm.startswith(f"{REPEATED} is being learned by heart. It is repeated 50 times in an epoch: repeat it")
    assert "Take fewer steps" in alarm


@pytest.mark.slow
def test_control_is_not_flagged(made: tuple[Checkpoint, Dataset], tmp_path: Path) -> None:
    trained(made[0], made[1], tmp_path, LORA, CONFIG)
    watched = by_heart.read(tmp_path / "run")
    assert watched is not None
    assert watched.by_heart == ()
    assert [row["by_heart"] for row in read(tmp_path / "run" / FILE) if "by_heart" in row][-1] == 0


@pytest.mark.slow
def test_stopped_run_watches_the_same(made: tuple[Checkpoint, Dataset], tmp_path: Path) -> None:
    config = replace(CONFIG, max_steps=40, heldout_every=20)
    trained(made[0], repeated(made[1]), tmp_path / "undisturbed", LORA, config)
    with pytest.raises(Cancelled):
        trained(made[0], repeated(made[1]), tmp_path / "stopped", LORA, config, report=stop_at(30, Cancelled()))
    trained(made[0], repeated(made[1]), tmp_path / "stopped", LORA, config)
    for name in (FILE, "by_heart.json", "final/adapter.safetensors"):
        ours, theirs = (tmp_path / folder / "run" / name for folder in ("stopped", "undisturbed"))
        assert ours.read_bytes() == theirs.read_bytes(), name
