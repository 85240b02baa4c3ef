"""Samples of a training: nothing damaged goes unnoticed, and only what is missing is encoded, once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import CheckpointError, DatasetError
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.audio_codes import load_audio_codec
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.condition_encoder import TextEncoder, load_condition_encoder
from sidestep_core.progress import Cancelled, Progress, Report, ignore
from sidestep_core.training.config import ResolvedConfig
from sidestep_core.training.data import ensure_conditions, load_samples, needed
from tests.tiny import TinySource, tiny_checkpoint, write_dataset
from tests.training import settled

CPU = torch.device("cpu")
WHOLE = settled()
CROP = settled(chunk_duration=1.5)
GENRE = settled(genre_ratio=0.3)
CODES = settled(context_mode="codes")
ALL = settled(chunk_duration=1.5, genre_ratio=0.3, context_mode="mixed")


@pytest.fixture
def dataset(checkpoint: Checkpoint, tmp_path: Path) -> Dataset:
    """Three songs: one fits into the crop."""
    return write_dataset(tmp_path / "dataset", checkpoint, (38, 51, 103), genre="jazz")


def contents(dataset: Dataset) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dataset.folder.iterdir()}


class Ensure:
    """Encode the files that a config needs, and return the new ones."""

    def __init__(self, source: TinySource, checkpoint: Checkpoint, dataset: Dataset) -> None:
        self.source, self.checkpoint, self.dataset = source, checkpoint, dataset

    def __call__(self, config: ResolvedConfig, report: Report = ignore) -> set[Path]:
        before = set(self.dataset.folder.iterdir())
        ensure_conditions(self.source, self.checkpoint, self.dataset, config, CPU, report)
        return set(self.dataset.folder.iterdir()) - before


@pytest.fixture
def ensure(source: TinySource, checkpoint: Checkpoint, dataset: Dataset) -> Ensure:
    return Ensure(source, checkpoint, dataset)


def test_whole_songs_need_no_encoding(ensure: Ensure) -> None:
    ensure.source = replace(ensure.source, tokenizer_folder=Path("nowhere"))
    reports: list[Progress] = []
    assert ensure(WHOLE, reports.append) == set()
    assert reports == []


def test_crops_get_their_own_conditions(ensure: Ensure) -> None:
    longer = ensure.dataset.samples[1:]
    assert ensure(CROP) == {ensure.dataset.condition(info.prompt(38)) for info in longer}
    text_encoder = TextEncoder(ensure.checkpoint.text_encoder_weights(), ensure.source.tokenizer_folder, CPU)
    encoder = load_condition_encoder(ensure.checkpoint.model_weights().under("encoder."), torch.float32, CPU)
    for info in longer:
        prompt = info.prompt(38)
        assert "duration: 2 seconds" in prompt.caption_text
        with torch.no_grad():
            expected = encoder(text_encoder.encode_caption(prompt), text_encoder.embed_lyrics(prompt),
                               ensure.source.silence_latent(38)[None])[0]
            other = encoder(text_encoder.encode_caption(prompt), text_encoder.embed_lyrics(prompt),
                            ensure.source.silence_latent(50)[None])[0]
        found = read_tensors(ensure.dataset.condition(prompt))["condition"]
        assert torch.equal(found, expected)
        assert not torch.equal(found, other)


def test_genres_are_encoded_on_request(ensure: Ensure) -> None:
    for info in ensure.dataset.samples:
        ensure.dataset.condition(info.prompt(genre=True)).unlink()
    assert ensure(WHOLE) == set()
    assert ensure(GENRE) == {ensure.dataset.condition(info.prompt(genre=True)) for info in ensure.dataset.samples}
    crops = {ensure.dataset.condition(prompt) for info in ensure.dataset.samples[1:] for prompt in info.prompts(38)}
    assert ensure(replace(GENRE, chunk_duration=1.5)) == crops


@pytest.mark.parametrize("mode", ["codes", "mixed"])
def test_codes_match_song_latents(ensure: Ensure, mode: Any) -> None:
    assert ensure(replace(CODES, context_mode=mode)) == set(map(ensure.dataset.codes, ensure.dataset.samples))
    codes = load_audio_codec(ensure.checkpoint.model_weights(), CPU)
    for info in ensure.dataset.samples:
        latents_TC = ensure.dataset.read_latents(info)
        expected = codes.decode(codes.encode(latents_TC, ensure.source.silence_latent(5)))[:info.frames]
        found = read_tensors(ensure.dataset.codes(info))["codes"]
        assert found.shape == latents_TC.shape
        assert torch.equal(found, expected)


def test_encoded_files_are_loaded(ensure: Ensure) -> None:
    with pytest.raises(DatasetError, match="is missing"):
        load_samples(ensure.dataset, ALL)
    assert len(ensure(ALL)) == 2 * 2 + 3
    samples, _ = load_samples(ensure.dataset, ALL)
    assert all(sample.genre_SD is not None and sample.codes_TC is not None for sample in samples)


def test_second_call_loads_nothing(ensure: Ensure) -> None:
    ensure(ALL)
    before = contents(ensure.dataset)
    ensure.source = replace(ensure.source, tokenizer_folder=Path("nowhere"))
    assert ensure(ALL) == set()
    assert contents(ensure.dataset) == before


def test_fingerprint_is_unchanged(ensure: Ensure) -> None:
    before = ensure.dataset.fingerprint
    ensure(ALL)
    assert ensure.dataset.fingerprint == before


def test_encoding_works_in_inference_mode(ensure: Ensure, checkpoint: Checkpoint, tmp_path: Path) -> None:
    ensure(ALL)
    expected = contents(ensure.dataset)
    other = write_dataset(tmp_path / "other", checkpoint, (38, 51, 103), genre="jazz")
    with torch.inference_mode():
        ensure_conditions(ensure.source, checkpoint, other, ALL, CPU)
    assert contents(other) == expected


def test_resumed_encoding_is_bit_identical(ensure: Ensure, checkpoint: Checkpoint, tmp_path: Path) -> None:
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


def test_missing_genres_are_rejected(source: TinySource, checkpoint: Checkpoint, tmp_path: Path) -> None:
    bare = write_dataset(tmp_path, checkpoint, (30,))
    with pytest.raises(DatasetError, match=r"genre_ratio is 0\.3, but no song .* Set genre_ratio to 0"):
        ensure_conditions(source, checkpoint, bare, GENRE, CPU)


def test_foreign_style_is_reported(ensure: Ensure) -> None:
    official = replace(ensure.dataset, style="official")
    ensure.dataset = official
    reports: list[Progress] = []
    made = ensure(WHOLE, reports.append)
    assert made == {official.condition(info.prompt()) for info in official.samples}
    assert reports[0].notice.startswith("This dataset's conditions are those of the official program")
    assert "For ComfyUI, preprocess the songs again with conditioning comfyui" in reports[0].notice
    assert [report.notice for report in reports[1:]] == [""] * len(made)
    text_encoder = TextEncoder(ensure.checkpoint.text_encoder_weights(), ensure.source.tokenizer_folder, CPU)
    encoder = load_condition_encoder(ensure.checkpoint.model_weights().under("encoder."), torch.float32, CPU,
                                     style="official")
    prompt = replace(official.samples[0].prompt(), style="official")
    with torch.no_grad():
        expected = encoder(text_encoder.encode_caption(prompt), text_encoder.embed_lyrics(prompt),
                           ensure.source.silence_latent(750)[None])[0]
    assert torch.equal(read_tensors(official.condition(prompt))["condition"], expected)


def test_unknown_style_is_rejected(ensure: Ensure) -> None:
    ensure.dataset = replace(ensure.dataset, style="sung")
    with pytest.raises(DatasetError, match=r"style 'sung', which this version does not know. Update Side-Step"):
        ensure(WHOLE)


def test_other_checkpoint_is_rejected(ensure: Ensure, tmp_path: Path) -> None:
    ensure.checkpoint = tiny_checkpoint(tmp_path / "other", seed=1)
    before = contents(ensure.dataset)
    with pytest.raises(DatasetError, match=r"was made with another checkpoint .*Preprocess the songs again"):
        ensure(ALL)
    assert contents(ensure.dataset) == before


def test_codes_need_an_audio_tokenizer(ensure: Ensure, tmp_path: Path) -> None:
    slim = tmp_path / "slim.safetensors"
    tensors = read_tensors(ensure.checkpoint.model[0])
    write_tensors(slim, {name: value for name, value in tensors.items() if "tokenizer." not in name})
    ensure.checkpoint = replace(ensure.checkpoint, model=(slim,))
    assert len(ensure(CROP)) == 2
    with pytest.raises(CheckpointError, match=r"slim\.safetensors .* without its audio tokenizer.* context_mode"):
        ensure(CODES)
    assert ensure(WHOLE) == set()


def test_samples_load_bit_identical(dataset: Dataset) -> None:
    samples, silence_TC = load_samples(dataset, WHOLE)
    for sample, info in zip(samples, dataset.samples, strict=True):
        latents = read_tensors(dataset.latents(info))["latents"]
        condition = read_tensors(dataset.condition(info.prompt()))["condition"]
        assert sample.name == info.name
        assert torch.equal(sample.latents_TC[:], latents)
        assert torch.equal(sample.condition_SD[:], condition)
        assert sample.latents_TC.shape == (info.frames, 64)
        assert (sample.genre_SD, sample.codes_TC) == (None, None)
    assert torch.equal(silence_TC, read_tensors(dataset.silence)["silence"])


def test_genres_and_codes_load_on_request(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30, 60, 80), windows=(50,), genre="jazz", codes=True)
    config = settled(chunk_duration=2, genre_ratio=0.1, context_mode="mixed")
    for sample, info, frames in zip(load_samples(dataset, config)[0], dataset.samples, (30, 50, 50), strict=True):
        for found, genre in ((sample.condition_SD, False), (sample.genre_SD, True)):
            expected = read_tensors(dataset.condition(info.prompt(frames, genre=genre)))["condition"]
            assert found is not None
            assert torch.equal(found[:], expected)
        assert sample.codes_TC is not None
        assert torch.equal(sample.codes_TC[:], read_tensors(dataset.codes(info))["codes"])


def test_missing_crop_condition_is_rejected(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30, 60), windows=(50,), genre="jazz")
    load_samples(dataset, settled(chunk_duration=2))
    for config in (settled(chunk_duration=1), settled(context_mode="codes")):
        with pytest.raises(DatasetError, match="is missing from the dataset"):
            load_samples(dataset, config)


def test_other_captions_are_encoded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30,), captions=("slow", "bright"))
    first, = dataset.samples
    assert {prompt.caption for _, prompt in needed(dataset, WHOLE).values()} == {first.caption, "slow", "bright"}
    sample, = load_samples(dataset, WHOLE)[0]
    assert [len({*map(float, rows[:].flatten())}) > 1 for rows in sample.variants_SD] == [True, True]
    assert not torch.equal(sample.variants_SD[0][:], sample.variants_SD[1][:])


def test_own_trigger_words_are_not_preserved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30, 30))
    shared, own = (replace(sample, caption=f"{word}, warm {word}") for sample, word in zip(
        dataset.samples, ("zxq", "mine"), strict=True))
    songs = replace(dataset, trigger_word="zxq", samples=(shared, replace(own, trigger_word="mine")))
    plain = {prompt.caption for _, prompt in needed(songs, settled(preserve=0.3)).values()}
    assert plain == {shared.caption, own.caption, "warm zxq", "warm mine"}
    assert songs.fingerprint != replace(songs, samples=(shared, own)).fingerprint


def file_of(dataset: Dataset, kind: str) -> Path:
    """The latents or the condition of the second song, or the silence."""
    info = dataset.samples[1]
    return {"latents": dataset.latents(info), "condition": dataset.condition(info.prompt()),
            "silence": dataset.silence}[kind]


KINDS = pytest.mark.parametrize("kind", ["latents", "condition", "silence"])


@KINDS
def test_missing_file_is_named(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name} is missing.*only what is missing is encoded"):
        load_samples(dataset, WHOLE)


@KINDS
def test_truncated_file_is_named(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=rf"{path.name}.*Preprocess the songs again"):
        read_second(dataset)


@KINDS
def test_foreign_file_is_named(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    write_tensors(path, {"other": torch.zeros(3)})
    with pytest.raises(DatasetError, match=rf"{path.name}.*Preprocess the songs again"):
        read_second(dataset)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@KINDS
def test_non_finite_values_are_named(dataset: Dataset, kind: str, value: float) -> None:
    path = file_of(dataset, kind)
    values = read_tensors(path)[kind].clone()
    values[3, 5] = value
    write_tensors(path, {kind: values})
    song = "silence" if kind == "silence" else "song1.wav"
    with pytest.raises(DatasetError, match=rf"{kind} of '{song}'.*not finite.*{path.name}"):
        read_second(dataset)


@pytest.mark.parametrize("kind", ["latents", "condition"])
def test_changed_values_are_found(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{path.name} is damaged \(its values are not those"):
        read_second(dataset)


def read_second(dataset: Dataset) -> None:
    """Load the samples, and read the second song."""
    sample = load_samples(dataset, WHOLE)[0][1]
    for rows in (sample.latents_TC, sample.condition_SD):
        assert torch.isfinite(rows[:]).all()
