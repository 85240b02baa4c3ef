"""What a training reads and the dataset lacks is encoded before it: once, exactly, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core.dataset.conditions import encode_conditions, ensure_conditions
from sidestep_core.dataset.manifest import Dataset, load_samples
from sidestep_core.errors import CheckpointError, DatasetError
from sidestep_core.io import hashing
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.audio_codes import load_audio_codes
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.condition_encoder import ProjectedEncoder, TextEncoder, load_condition_encoder
from sidestep_core.model.prompts import Prompt
from sidestep_core.progress import Cancelled, Progress, Report, ignore
from sidestep_core.training.config import TrainConfig
from tests.tiny import TinySource, tiny_checkpoint, write_dataset

CPU = torch.device("cpu")
WINDOW = TrainConfig(chunk_duration=1.5)
GENRE = TrainConfig(genre_ratio=0.3)
CODES = TrainConfig(context_mode="codes")
ALL = TrainConfig(chunk_duration=1.5, genre_ratio=0.3, context_mode="mixed")


@pytest.fixture
def dataset(checkpoint: Checkpoint, tmp_path: Path) -> Dataset:
    """Three songs: one fits into the window."""
    return write_dataset(tmp_path / "dataset", checkpoint, (38, 51, 103), genre="jazz")


def contents(dataset: Dataset) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dataset.folder.iterdir()}


class Ensure:
    """Makes what a config needs, and says which files are new."""

    def __init__(self, source: TinySource, checkpoint: Checkpoint, dataset: Dataset) -> None:
        self.source, self.checkpoint, self.dataset = source, checkpoint, dataset

    def __call__(self, config: TrainConfig, report: Report = ignore) -> set[Path]:
        before = set(self.dataset.folder.iterdir())
        ensure_conditions(self.source, self.checkpoint, self.dataset, config, CPU, report)
        return set(self.dataset.folder.iterdir()) - before


@pytest.fixture
def ensure(source: TinySource, checkpoint: Checkpoint, dataset: Dataset) -> Ensure:
    return Ensure(source, checkpoint, dataset)


def test_whole_songs_in_silence_need_nothing_and_load_nothing(ensure: Ensure) -> None:
    ensure.source = replace(ensure.source, tokenizer_folder=Path("nowhere"))
    reports: list[Progress] = []
    assert ensure(TrainConfig(), reports.append) == set()
    assert reports == []


def test_windows_get_their_own_duration_and_timbre_where_the_song_is_longer(ensure: Ensure) -> None:
    longer = ensure.dataset.samples[1:]
    assert ensure(WINDOW) == {ensure.dataset.condition(info.prompt(38)) for info in longer}
    text_encoder = TextEncoder(ensure.checkpoint.text_encoder_weights(), ensure.source.tokenizer_folder, CPU)
    encoder = load_condition_encoder(ensure.checkpoint.model_weights().under("encoder."), torch.float32, CPU)
    for info in longer:
        prompt = info.prompt(38)
        assert "duration: 2 seconds" in prompt.caption_text
        with torch.no_grad():
            expected = encoder(text_encoder.caption(prompt), text_encoder.lyrics(prompt),
                               ensure.source.silence_latent(38)[None])[0]
            other = encoder(text_encoder.caption(prompt), text_encoder.lyrics(prompt),
                            ensure.source.silence_latent(50)[None])[0]
        found = read_tensors(ensure.dataset.condition(prompt))["condition"]
        assert torch.equal(found, expected)
        assert not torch.equal(found, other)


def test_genres_are_encoded_where_a_training_asks_for_them(ensure: Ensure) -> None:
    for info in ensure.dataset.samples:
        ensure.dataset.condition(info.prompt(genre=True)).unlink()
    assert ensure(TrainConfig()) == set()
    assert ensure(GENRE) == {ensure.dataset.condition(info.prompt(genre=True)) for info in ensure.dataset.samples}
    windows = {ensure.dataset.condition(prompt) for info in ensure.dataset.samples[1:] for prompt in info.prompts(38)}
    assert ensure(replace(GENRE, chunk_duration=1.5)) == windows


@pytest.mark.parametrize("mode", ["codes", "mixed"])
def test_codes_are_those_of_the_songs_own_latents(ensure: Ensure, mode: Any) -> None:
    assert ensure(replace(CODES, context_mode=mode)) == set(map(ensure.dataset.codes, ensure.dataset.samples))
    codes = load_audio_codes(ensure.checkpoint.model_weights(), CPU)
    for info in ensure.dataset.samples:
        latents_TC = ensure.dataset.read_latents(info)
        expected = codes.latents(codes.of(latents_TC, ensure.source.silence_latent(5)))[:info.frames]
        found = read_tensors(ensure.dataset.codes(info))["codes"]
        assert found.shape == latents_TC.shape
        assert torch.equal(found, expected)


def test_what_is_made_is_what_is_loaded(ensure: Ensure) -> None:
    with pytest.raises(DatasetError, match="is missing"):
        load_samples(ensure.dataset, ALL)
    assert len(ensure(ALL)) == 2 * 2 + 3
    samples, _ = load_samples(ensure.dataset, ALL)
    assert all(sample.genre_SD is not None and sample.codes_TC is not None for sample in samples)


def test_the_second_time_nothing_is_loaded(ensure: Ensure) -> None:
    ensure(ALL)
    before = contents(ensure.dataset)
    ensure.source = replace(ensure.source, tokenizer_folder=Path("nowhere"))
    assert ensure(ALL) == set()
    assert contents(ensure.dataset) == before


def test_the_dataset_stays_the_same_dataset(ensure: Ensure) -> None:
    before = ensure.dataset.fingerprint
    ensure(ALL)
    assert ensure.dataset.fingerprint == before


def test_it_works_in_inference_mode(ensure: Ensure, checkpoint: Checkpoint, tmp_path: Path) -> None:
    ensure(ALL)
    expected = contents(ensure.dataset)
    other = write_dataset(tmp_path / "other", checkpoint, (38, 51, 103), genre="jazz")
    with torch.inference_mode():
        ensure_conditions(ensure.source, checkpoint, other, ALL, CPU)
    assert contents(other) == expected


def test_stopped_anywhere_and_continued_equals_undisturbed(ensure: Ensure, checkpoint: Checkpoint,
                                                           tmp_path: Path) -> None:
    reports: list[Progress] = []
    ensure(ALL, reports.append)
    undisturbed = contents(ensure.dataset)
    assert len(reports) == 7
    assert all(0 <= progress.step < progress.total for progress in reports)
    assert {sample.name for sample in ensure.dataset.samples} == {report.message.split()[-1] for report in reports}
    for number in range(len(reports)):
        left = [number]

        def cancel(progress: Progress, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Cancelled

        ensure.dataset = write_dataset(tmp_path / f"stopped{number}", checkpoint, (38, 51, 103), genre="jazz")
        with pytest.raises(Cancelled):
            ensure(ALL, cancel)
        assert len(ensure(ALL)) == len(reports) - number, "something was made twice, or not kept"
        assert contents(ensure.dataset) == undisturbed


def test_genres_that_nobody_wrote_are_an_error(source: TinySource, checkpoint: Checkpoint, tmp_path: Path) -> None:
    bare = write_dataset(tmp_path, checkpoint, (30,))
    with pytest.raises(DatasetError, match=r"genre_ratio is 0\.3, but no song .* Set genre_ratio to 0"):
        ensure_conditions(source, checkpoint, bare, GENRE, CPU)


def test_a_style_of_another_program_is_told_and_followed(ensure: Ensure) -> None:
    official = replace(ensure.dataset, style="official")
    ensure.dataset = official
    reports: list[Progress] = []
    made = ensure(TrainConfig(), reports.append)
    assert made == {official.condition(info.prompt()) for info in official.samples}
    assert reports[0].notice.startswith("This dataset's conditions are those of the official program")
    assert "for ComfyUI, preprocess the songs with conditioning comfyui" in reports[0].notice
    assert [report.notice for report in reports[1:]] == [""] * len(made)
    text_encoder = TextEncoder(ensure.checkpoint.text_encoder_weights(), ensure.source.tokenizer_folder, CPU)
    encoder = load_condition_encoder(ensure.checkpoint.model_weights().under("encoder."), torch.float32, CPU,
                                     style="official")
    prompt = replace(official.samples[0].prompt(), style="official")
    with torch.no_grad():
        expected = encoder(text_encoder.caption(prompt), text_encoder.lyrics(prompt),
                           ensure.source.silence_latent(750)[None])[0]
    assert torch.equal(read_tensors(official.condition(prompt))["condition"], expected)


def test_windows_of_one_duration_share_their_official_condition(ensure: Ensure) -> None:
    """Its timbre reference is always as long, so only what is said counts."""
    info = ensure.dataset.samples[2]
    for style, different in (("comfyui", 2), ("official", 1)):
        dataset = replace(ensure.dataset, style=style)
        assert len({dataset.condition(info.prompt(frames)) for frames in (99, 99 - 1)}) == different


def test_an_unknown_style_is_an_error(ensure: Ensure) -> None:
    ensure.dataset = replace(ensure.dataset, style="sung")
    with pytest.raises(DatasetError, match=r"style 'sung', which this version does not know. Update Side-Step"):
        ensure(TrainConfig())


@pytest.mark.parametrize("style", ["comfyui", "official"])
def test_each_condition_is_what_it_is_by_itself(ensure: Ensure, tmp_path: Path, style: str) -> None:
    """Whichever others are encoded with it, before it, or are there already: bit for bit."""
    prompts = [prompt for info in ensure.dataset.samples for frames in (info.frames, 38, 30)
               for prompt in info.prompts(frames)]
    prompts += [replace(prompts[0], lyrics=f"la {number}") for number in range(12)]

    def encoded(folder: str, order: list[Prompt]) -> dict[str, str]:
        paths = {tmp_path / folder / f"{prompts.index(prompt)}.safetensors": ("song", prompt) for prompt in order}
        encode_conditions(ensure.source, ensure.checkpoint, paths, style, CPU, lambda *_: None)
        return {path.name: hashing.hash_file(path) for path in paths}

    alone: dict[str, str] = {}
    for prompt in prompts:
        alone |= encoded("alone", [prompt])
    assert len(alone) == len(set(prompts)) == 28
    assert encoded("together", prompts) == encoded("backwards", prompts[::-1]) == alone


def test_what_prompts_share_is_encoded_once(ensure: Ensure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    read = ProjectedEncoder.read

    def counted(encoder: ProjectedEncoder, x_BLD: torch.Tensor) -> torch.Tensor:
        seen.append(x_BLD.shape[1])
        return read(encoder, x_BLD)

    monkeypatch.setattr(ProjectedEncoder, "read", counted)
    info = ensure.dataset.samples[2]
    prompts = [prompt for frames in (103, 38) for prompt in info.prompts(frames)]
    encode_conditions(ensure.source, ensure.checkpoint,
                      {tmp_path / f"{number}.safetensors": ("song", prompt) for number, prompt in enumerate(prompts)},
                      "comfyui", CPU, lambda *_: None)
    assert len(prompts) == 4
    lyrics = len(info.lyrics) + len("# Languages\nen\n\n# Lyric\n") + 2
    assert sorted(seen) == sorted([lyrics, 103, 38])


def test_another_checkpoint_writes_nothing_into_the_dataset(ensure: Ensure, tmp_path: Path) -> None:
    ensure.checkpoint = tiny_checkpoint(tmp_path / "other", seed=1)
    before = contents(ensure.dataset)
    with pytest.raises(DatasetError, match=r"was made with another checkpoint .*Preprocess the songs again"):
        ensure(ALL)
    assert contents(ensure.dataset) == before


def test_a_checkpoint_without_tokenizer_can_make_no_codes(ensure: Ensure, tmp_path: Path) -> None:
    slim = tmp_path / "slim.safetensors"
    tensors = read_tensors(ensure.checkpoint.model[0])
    write_tensors(slim, {name: value for name, value in tensors.items() if "tokenizer." not in name})
    ensure.checkpoint = replace(ensure.checkpoint, model=(slim,))
    assert len(ensure(WINDOW)) == 2
    with pytest.raises(CheckpointError, match=r"slim\.safetensors .* without its audio tokenizer.* context_mode"):
        ensure(CODES)
    assert ensure(TrainConfig()) == set()
