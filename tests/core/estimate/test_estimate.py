"""Estimates are bit identical however often they are stopped, and rank the modules that the data depends on first."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from demo.synthetic_model import write_tiny_models
from sidestep_core.dataset.manifest import Dataset, open_dataset
from sidestep_core.errors import DatasetError, TrainingDiverged
from sidestep_core.estimate import estimate as stage
from sidestep_core.estimate import result
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.estimate import MIN_SAMPLES, SAVE_EVERY
from sidestep_core.estimate.result import Estimate, Score
from sidestep_core.estimate.statistics import agreement, jaccard
from sidestep_core.io.tensors import write_tensors
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.progress import Cancelled, Progress, Report, ignore
from sidestep_core.training.data import Sample
from tests.planting import PAIRS, planted, taught_by
from tests.quantised import STYLES, quantise
from tests.tiny import TinySource, tiny_checkpoint, write_dataset
from tests.tolerance import FP32, deviation

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]
CONFIG = EstimateConfig(estimate_batches=12, chunk_duration=0, device="cpu")
PLANTED = replace(CONFIG, estimate_batches=96)
SONGS, FRAMES = 24, 40


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (FRAMES,) * SONGS)


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a finished estimate."""
    folder = tmp_path_factory.mktemp("undisturbed")
    estimated(checkpoint, dataset, folder)
    [path] = folder.iterdir()
    return path


def estimated(checkpoint: Checkpoint, dataset: Dataset, folder: Path, config: EstimateConfig = CONFIG,
              report: Report = ignore) -> Estimate:
    return stage.estimate(TinySource(Path(), []), checkpoint, dataset, config, folder, report=report)


def content(folder: Path) -> bytes:
    """Return the finished estimate's file, the only one in the folder."""
    [path] = folder.iterdir()
    return path.read_bytes()


def stop_at(step: int, signal: BaseException) -> Report:
    def report(progress: Progress) -> None:
        if progress.stage == "estimate" and progress.step == step:
            raise signal
    return report


def must_not_run(progress: Progress) -> None:
    raise AssertionError(progress)


# What it is


def test_estimate_has_every_module(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    found = estimated(checkpoint, dataset, tmp_path)
    names = [score.module for score in found.scores]
    assert names == [f"layers.{layer}.{part}" for layer in range(2) for part in (
        *(f"{attention}_attn.{each}_proj" for attention in ("self", "cross") for each in "qkvo"),
        *(f"mlp.{each}_proj" for each in ("gate", "up", "down")))]
    assert (found.score, found.checkpoint, found.dataset) == ("signal", checkpoint.fingerprint, dataset.fingerprint)
    assert (found.batches, found.settings) == (12, CONFIG.to_json())
    weights = checkpoint.model_weights()
    for score in found.scores:
        assert score.shape == weights.shape(f"decoder.{score.module}.weight")
        assert len(score.bins) == 3
        assert score.error > 0
    assert result.read(content(tmp_path).decode(), "file") == found


@pytest.mark.parametrize(("settings", "count"), [
    ({"attention_type": "self", "target_mlp": False}, 8), ({"attention_type": "cross"}, 14)])
def test_only_requested_modules_are_measured(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                             settings: dict[str, Any], count: int) -> None:
    """Each module has the score that it has among all."""
    some = estimated(checkpoint, dataset, tmp_path / "some", replace(CONFIG, **settings))
    every = estimated(checkpoint, dataset, tmp_path / "all")
    assert len(some.scores) == count
    assert set(some.scores) <= set(every.scores)


@pytest.mark.parametrize("score", get_args(Score))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_score_in_every_precision(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, score: Score,
                                        precision: Any) -> None:
    config = replace(CONFIG, estimate_batches=8, score=score, precision=precision)
    found = estimated(checkpoint, dataset, tmp_path, config)
    assert found.score == score
    assert len({score.mean for score in found.scores}) == len(found.scores)


def test_crops_have_their_own_conditions(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path,
                                         source: TinySource) -> None:
    songs = write_dataset(tmp_path / "songs", checkpoint, (60, 80))
    before = len(list((tmp_path / "songs").rglob("*.safetensors")))
    found = stage.estimate(source, checkpoint, songs, replace(CONFIG, chunk_duration=1.0), tmp_path / "estimates")
    assert found.batches == 12
    assert len(list((tmp_path / "songs").rglob("*.safetensors"))) == before + 2


@pytest.mark.parametrize("songs", [1, 3])
def test_few_songs_have_scores(checkpoint: Checkpoint, tmp_path: Path, songs: int) -> None:
    few = write_dataset(tmp_path / "songs", checkpoint, (FRAMES,) * songs)
    found = estimated(checkpoint, few, tmp_path / "estimates")
    assert all(score.mean > 0 for score in found.scores)
    assert found.agreement > 0


def test_songs_fill_folds_evenly() -> None:
    def songs(count: int, repeats: int = 1) -> list[Sample]:
        return [Sample(name=str(number), latents_TC=torch.empty(0), condition_SD=torch.empty(0),
                       repeats=1 + number % repeats) for number in range(count)]

    for count, repeats in ((4, 1), (5, 1), (24, 1), (24, 3)):
        folds = stage._folds(songs(count, repeats), seed=3)
        counts = [folds.count(fold) for fold in range(4)]
        assert max(counts) - min(counts) <= 1
    assert stage._folds(songs(24), seed=3) != stage._folds(songs(24), seed=4)
    assert stage._folds(songs(3), seed=3) == ()


def test_dataset_of_another_checkpoint_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(DatasetError, match="another checkpoint"):
        estimated(other, dataset, tmp_path / "estimates")


# The same


def test_estimate_is_bit_identical(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path,
                                   tmp_path: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    estimated(checkpoint, dataset, tmp_path)
    assert content(tmp_path) == undisturbed.read_bytes()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_seed_changes_the_scores(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path,
                                 tmp_path: Path) -> None:
    found = estimated(checkpoint, dataset, tmp_path, replace(CONFIG, seed=1))
    assert found.scores != result.read(undisturbed.read_text(encoding="utf-8"), "file").scores


def test_finished_estimate_is_returned(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    first = estimated(checkpoint, dataset, tmp_path)
    assert estimated(checkpoint, dataset, tmp_path, replace(CONFIG, device="auto"), must_not_run) == first
    with pytest.raises(AssertionError):
        estimated(checkpoint, dataset, tmp_path, replace(CONFIG, seed=1), must_not_run)


@pytest.mark.parametrize("step", [1, 7, 11, 12])
def test_cancelled_estimate_continues(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path,
                                      tmp_path: Path, step: int) -> None:
    with pytest.raises(Cancelled, match=f"after {step} of at most 12 samples"):
        estimated(checkpoint, dataset, tmp_path, report=stop_at(step, Cancelled()))
    steps: list[int] = []
    estimated(checkpoint, dataset, tmp_path,
              report=lambda progress: steps.append(progress.step) if progress.stage == "estimate" else None)
    assert steps == list(range(step + 1, 13))
    assert content(tmp_path) == undisturbed.read_bytes()


def test_interrupted_estimate_continues(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path,
                                        tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        estimated(checkpoint, dataset, tmp_path, report=stop_at(9, KeyboardInterrupt()))
    with pytest.raises(Cancelled):
        estimated(checkpoint, dataset, tmp_path, report=stop_at(10, Cancelled()))
    estimated(checkpoint, dataset, tmp_path)
    assert content(tmp_path) == undisturbed.read_bytes()


def test_killed_estimate_continues(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    root, config = tmp_path / "killed", replace(CONFIG, estimate_batches=SAVE_EVERY + 4, score="gain")
    estimated(checkpoint, dataset, tmp_path / "whole", config)
    # On as many threads as this process: others would round otherwise.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen([sys.executable, __file__, *checkpoint.model, *checkpoint.text_encoder, checkpoint.vae,
                           dataset.folder, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "saved\n"
        process.kill()
    [part] = root.iterdir()
    assert part.suffix == ".part"
    steps: list[int] = []
    estimated(checkpoint, dataset, root, config, lambda progress: steps.append(progress.step))
    assert steps[1] > SAVE_EVERY
    assert content(root) == content(tmp_path / "whole")


def until_killed(paths: Sequence[str]) -> None:
    """Run in the process that is killed."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, text_encoder, vae, songs, folder = map(Path, paths)
    checkpoint = open_checkpoint(model, text_encoder=text_encoder, vae=vae)

    def report(progress: Progress) -> None:
        if progress.step == SAVE_EVERY + 1:
            sys.stdout.write("saved\n")
            sys.stdout.flush()
            sys.stdin.read()

    estimated(checkpoint, open_dataset(songs), folder, replace(CONFIG, estimate_batches=SAVE_EVERY + 4, score="gain"),
              report)


@pytest.mark.parametrize("damage", [b"", b"no tensors", b"\xff" * 100])
def test_damaged_partial_file_is_ignored(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path, tmp_path: Path,
                                         caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    part = tmp_path / f"{undisturbed.stem}.part"
    part.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        estimated(checkpoint, dataset, tmp_path)
    assert f"{part} is damaged" in caplog.text
    assert content(tmp_path) == undisturbed.read_bytes()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"format": 1}'])
def test_damaged_estimate_is_repeated(checkpoint: Checkpoint, dataset: Dataset, undisturbed: Path, tmp_path: Path,
                                         caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    path = tmp_path / undisturbed.name
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        estimated(checkpoint, dataset, tmp_path)
    assert f"{path} is damaged" in caplog.text
    assert content(tmp_path) == undisturbed.read_bytes()


def test_non_finite_gradient_writes_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    songs = write_dataset(tmp_path / "songs", checkpoint, (FRAMES,))
    write_tensors(songs.latents(songs.samples[0]), {"latents": torch.full((FRAMES, 64), 1e30)})
    # Turbo's times include pure noise, where no song is heard.
    continuous = replace(checkpoint, variant="base")
    with pytest.raises(TrainingDiverged, match="gradient of sample 1 is not finite"):
        estimated(continuous, songs, tmp_path / "estimates")
    assert not list((tmp_path / "estimates").glob("*"))


# Right


def test_measuring_ends_at_a_stable_ranking(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    """Gradient norms rank alike at once; signal does not if there is nothing to learn."""
    config = replace(CONFIG, estimate_batches=0, score="gradient_norm")
    found = estimated(checkpoint, dataset, tmp_path / "lengths", config)
    assert found.batches == MIN_SAMPLES
    assert found.agreement >= stage.STABLE
    with taught_by(planted(checkpoint, (), 0), 0):
        found = estimated(checkpoint, dataset, tmp_path / "nothing", replace(CONFIG, estimate_batches=48, seed=1))
    assert found.batches == 48
    assert found.agreement < stage.STABLE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_modules_rank_first(checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, seed: int) -> None:
    """Gradient norms do not show them."""
    pair = PAIRS[seed]
    with taught_by(planted(checkpoint, pair, seed), seed):
        assert best(estimated(checkpoint, dataset, tmp_path / "signal", replace(PLANTED, seed=seed))) == set(pair)
        lengths = replace(CONFIG, score="gradient_norm", seed=seed)
        assert best(estimated(checkpoint, dataset, tmp_path / "lengths", lengths)) != set(pair)


def best(found: Estimate, count: int = 2) -> set[str]:
    return {score.module for score in found.ranked()[:count]}


def test_halves_agree_and_styles_differ(checkpoint: Checkpoint, tmp_path: Path) -> None:
    songs = write_dataset(tmp_path / "songs", checkpoint, (FRAMES,) * 64)
    halves = [replace(songs, samples=songs.samples[half::2]) for half in range(2)]
    modules = [module for pair in PAIRS for module in pair]
    found = []
    for style, half in ((0, 0), (0, 1), (1, 0)):
        with taught_by(planted(checkpoint, modules[style::2], style, size=0.1), style, noise=0.0):
            found.append(estimated(checkpoint, halves[half], tmp_path / str(style), replace(PLANTED, seed=style)))
    one, again, other = found
    assert agreement(one, again) >= 0.9
    assert agreement(one, other) < 0.7
    assert jaccard(best(one, 6), best(again, 6)) > jaccard(best(one, 6), best(other, 6))


# Quantised


@pytest.mark.parametrize("style", STYLES)
def test_quantised_model_is_measured_dequantised(tmp_path: Path, style: str) -> None:
    found = {}
    for name in ("whole", "quantised", "restored"):
        paths = write_tiny_models(tmp_path / name, dtype=torch.float32)
        if name != "whole":
            stored = quantise(paths.model, style)
        made = open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)
        if name == "restored":
            weights = made.model_weights()
            write_tensors(paths.model, {
                name: weights.tensor(name, torch.float32, CPU) if name.startswith("decoder.") else stored[name]
                for name in weights.names})
            made = open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)
        songs = write_dataset(tmp_path / name / "songs", made, (FRAMES,) * 4)
        scores = estimated(made, songs, tmp_path / name / "estimates").scores
        found[name] = torch.tensor([score.mean for score in scores])
    assert deviation(found["quantised"], found["restored"]) <= FP32
    assert deviation(found["whole"], found["restored"]) > FP32


if __name__ == "__main__":
    until_killed(sys.argv[1:])
