"""From songs to a dataset: everything once, nothing twice, and one bad song spoils nothing."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import wave
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sidestep_core.audio.decode import decode
from sidestep_core.dataset import preprocess
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.dataset.manifest import MANIFEST, Dataset, open_dataset
from sidestep_core.dataset.preprocess import Preprocessed
from sidestep_core.errors import DatasetError
from sidestep_core.io import atomic, hashing, tensors
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.condition_encoder import TextEncoder, load_condition_encoder
from sidestep_core.model.prompts import Prompt
from sidestep_core.progress import Cancelled, Progress, Report, ignore
from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.song import Problem, Song
from sidestep_core.training.data import load_samples
from tests.growth import MOST, growth
from tests.tiny import SAMPLES_PER_FRAME, TinySource, tiny_checkpoint
from tests.training import settled

CPU = torch.device("cpu")
RATE = 48_000
CONFIG = PreprocessConfig(trigger_word="zxq")
WHOLE = settled()
NOTES = "caption: calm lo-fi\nbpm: 90\nkey: C major\nsignature: 4/4\nlanguage: en\nlyrics:\nRain\n"


def write_song(path: Path, seconds: float, pitch: float = 440.0, loudness: float = 0.5) -> None:
    moments = np.arange(round(seconds * RATE)) / RATE
    tone = np.round(32767 * loudness * np.sin(2 * np.pi * pitch * moments)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(tone.tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two songs: one with notes, one without."""
    place = tmp_path / "songs"
    place.mkdir()
    write_song(place / "a.wav", 1.21)
    (place / "a.txt").write_text(NOTES, encoding="utf-8")
    write_song(place / "b.wav", 2.03, pitch=300.0)
    return place


class Run:
    """Preprocessing of one folder of songs into one dataset, as often as a test likes."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, tokenizer_folder: Path) -> None:
        self.folder = folder
        self.dataset_folder = folder.parent / "dataset"
        self.checkpoint = checkpoint
        self.source = TinySource(tokenizer_folder, [])

    def __call__(self, config: PreprocessConfig = CONFIG, report: Report = ignore,
                 into: Path | None = None) -> Preprocessed:
        return preprocess.preprocess(self.source, self.checkpoint, find_songs(self.folder).songs,
                                     into or self.dataset_folder, config, device="cpu", report=report)

    def of(self, songs: Sequence[Song], config: PreprocessConfig = CONFIG) -> Preprocessed:
        """Preprocess these songs."""
        return preprocess.preprocess(self.source, self.checkpoint, songs, self.dataset_folder, config, device="cpu")

    def encoded_again(self, config: PreprocessConfig = CONFIG) -> list[int]:
        """Samples of each piece of audio that one more run encodes."""
        self.source.encoded.clear()
        self(config)
        return list(self.source.encoded)


@pytest.fixture
def run(folder: Path, checkpoint: Checkpoint, tokenizer_folder: Path) -> Run:
    return Run(folder, checkpoint, tokenizer_folder)


def contents(folder: Path) -> dict[str, str]:
    """Every file's hash."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def files_of(dataset: Dataset, name: str) -> tuple[str, ...]:
    """The latents and the conditions of a song."""
    sample = next(sample for sample in dataset.samples if sample.name == name)
    return (sample.latents, *(dataset.condition(prompt).name for prompt in sample.prompts()))


def sample_files(made: Preprocessed) -> dict[str, tuple[str, ...]]:
    return {sample.name: files_of(made.dataset, sample.name) for sample in made.dataset.samples}


def all_files(made: Preprocessed) -> set[str]:
    return {name for files in sample_files(made).values() for name in files}


# What is made


def test_samples_match_the_encoders(run: Run) -> None:
    made = run()
    samples, silence_TC = load_samples(made.dataset, WHOLE)
    encode = run.source.audio_encoder(run.checkpoint, CPU)
    text_encoder = TextEncoder(run.checkpoint.text_encoder_weights(), run.source.tokenizer_folder, CPU)
    encoder = load_condition_encoder(run.checkpoint.model_weights().under("encoder."), torch.float32, CPU)
    prompts = [
        Prompt(caption="zxq, calm lo-fi", lyrics="Rain", language="en", bpm=90, key="C major", signature="4/4",
               seconds=1.24),
        Prompt(caption="zxq", lyrics="[Instrumental]", language="unknown", bpm=None, key="", signature="",
               seconds=2.04),
    ]  # fmt: skip
    for sample, prompt, frames in zip(samples, prompts, (31, 51), strict=True):
        waveform = decode(run.folder / sample.name)
        padded = torch.nn.functional.pad(waveform, (0, frames * SAMPLES_PER_FRAME - waveform.shape[1]))
        assert torch.equal(sample.latents_TC[:], encode(padded[None])[0].T)
        with torch.no_grad():
            condition = encoder(text_encoder.encode_caption(prompt), text_encoder.embed_lyrics(prompt),
                                run.source.silence_latent(frames)[None])
        assert torch.equal(sample.condition_SD[:], condition[0])
    assert torch.equal(silence_TC, run.source.silence_latent(51))


def test_dataset_records_its_settings(run: Run) -> None:
    made = run()
    assert made.problems == ()
    assert made.made == 2
    assert made.dataset == open_dataset(run.dataset_folder)
    assert (made.dataset.checkpoint, made.dataset.trigger_word) == (run.checkpoint.fingerprint, "zxq")
    assert [(sample.name, sample.frames) for sample in made.dataset.samples] == [("a.wav", 31), ("b.wav", 51)]
    assert contents(run.dataset_folder).keys() == {MANIFEST, made.dataset.silence.name, *all_files(made)}


def test_it_works_in_inference_mode(run: Run) -> None:
    """ComfyUI runs nodes in it."""
    with torch.inference_mode():
        run()
    undisturbed = contents(run.dataset_folder)
    run(into=run.folder.parent / "again")
    assert contents(run.folder.parent / "again") == undisturbed


def test_progress_names_every_song(run: Run) -> None:
    reports: list[Progress] = []
    run(report=reports.append)
    assert {progress.stage for progress in reports} == {"preprocess"}
    assert all(0 <= progress.step < progress.total for progress in reports)
    for name in ("a.wav", "b.wav"):
        for verb in ("Looking at", "Encoding", "Reading the text of"):
            assert any(verb in progress.message and name in progress.message for progress in reports)


# What is made again


def test_second_run_encodes_nothing(run: Run) -> None:
    first = run()
    before = contents(run.dataset_folder)
    times = {path.name: path.stat().st_mtime_ns for path in run.dataset_folder.iterdir()}
    run.source = replace(run.source, tokenizer_folder=Path("nowhere"))
    assert run.encoded_again() == []
    again = run()
    assert again.dataset == first.dataset
    assert again.made == 0
    assert contents(run.dataset_folder) == before
    for name in all_files(first):
        assert (run.dataset_folder / name).stat().st_mtime_ns == times[name]


@pytest.mark.parametrize(("old", "new"), [
    ("calm lo-fi", "wild lo-fi"), ("bpm: 90", "bpm: 91"), ("C major", "D major"), ("4/4", "3/4"),
    ("language: en", "language: de"), ("Rain", "Sun"), ("key:", "tag: own\nkey:"),
])  # fmt: skip
def test_changed_text_keeps_latents(run: Run, old: str, new: str) -> None:
    before = sample_files(run())
    (run.folder / "a.txt").write_text(NOTES.replace(old, new), encoding="utf-8")
    assert run.encoded_again() == []
    after = sample_files(run())
    assert after["a.wav"][0] == before["a.wav"][0]
    assert after["a.wav"][1] != before["a.wav"][1]
    assert after["b.wav"] == before["b.wav"]
    conditions = [read_tensors(run.dataset_folder / files["a.wav"][1])["condition"]
                  for files in (before, after)]
    assert conditions[0].shape != conditions[1].shape or not torch.equal(*conditions)


@pytest.mark.parametrize("config", [PreprocessConfig(trigger_word="other"),
                                    PreprocessConfig(trigger_word="zxq", trigger_position="append")])
def test_trigger_word_changes_captions(run: Run, config: PreprocessConfig) -> None:
    before = sample_files(run())
    assert run.encoded_again(config) == []
    after = sample_files(run(config))
    assert after["a.wav"] != before["a.wav"]
    assert (after["b.wav"] == before["b.wav"]) == (config.trigger_word == CONFIG.trigger_word)


def test_only_new_audio_is_encoded(run: Run) -> None:
    before = sample_files(run())
    write_song(run.folder / "a.wav", 1.21, pitch=880.0)
    assert run.encoded_again() == [31 * SAMPLES_PER_FRAME]
    after = sample_files(run())
    assert after["a.wav"] != before["a.wav"]
    assert after["b.wav"] == before["b.wav"]


def test_renamed_song_is_not_encoded(run: Run) -> None:
    run()
    os.utime(run.folder / "a.wav", (1, 1))
    assert run.encoded_again() == []
    (run.folder / "b.wav").rename(run.folder / "c.wav")
    assert run.encoded_again() == []
    assert [sample.name for sample in open_dataset(run.dataset_folder).samples] == ["a.wav", "c.wav"]


def test_unchanged_audio_is_not_read(run: Run) -> None:
    """Else a folder of hours of music would be hashed whenever a workflow is queued."""
    before = run().dataset
    times = (run.folder / "a.wav").stat()
    write_song(run.folder / "a.wav", 1.21, pitch=880.0)
    os.utime(run.folder / "a.wav", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run().dataset == before


def test_max_seconds_cuts_the_song(run: Run) -> None:
    before = run().dataset
    config = replace(CONFIG, max_seconds=1.5)
    assert max(run.encoded_again(config)) == 38 * SAMPLES_PER_FRAME
    after = run(config).dataset
    assert [sample.frames for sample in after.samples] == [31, 38]
    assert after.fingerprint != before.fingerprint
    assert load_samples(after, WHOLE)[1].shape[0] == 38


def test_another_checkpoint_makes_everything_again(run: Run, tmp_path: Path) -> None:
    before = run().dataset
    run.checkpoint = tiny_checkpoint(tmp_path / "other", seed=1)
    assert len(run.encoded_again()) == 2
    after = run().dataset
    assert after.checkpoint == run.checkpoint.fingerprint != before.checkpoint
    for name in ("a.wav", "b.wav"):
        assert set(files_of(after, name)) & set(files_of(before, name)) == set()


def test_tile_size_changes_no_bit(run: Run) -> None:
    before = run().dataset
    assert run.encoded_again(replace(CONFIG, tile_seconds=1.0)) == []
    assert run(replace(CONFIG, tile_seconds=1.0)).dataset == before


def test_deleted_files_are_encoded_again(run: Run) -> None:
    made = run()
    before = contents(run.dataset_folder)
    latents, condition = sample_files(made)["b.wav"]
    (run.dataset_folder / latents).unlink()
    assert run.encoded_again() == [51 * SAMPLES_PER_FRAME]
    assert contents(run.dataset_folder) == before
    (run.dataset_folder / condition).unlink()
    assert run.encoded_again() == []
    assert contents(run.dataset_folder) == before
    (run.dataset_folder / condition).unlink()
    assert run().made == 1


def test_damaged_latents_are_named(run: Run) -> None:
    latents, _ = sample_files(run())["b.wav"]
    (run.dataset_folder / latents).write_bytes(b"cut")
    with pytest.raises(DatasetError, match=rf"{latents} is damaged.*Delete it\. Preprocess the songs again"):
        run()


@pytest.mark.parametrize("manifest", ["", "{", '{"format": 1}'])
def test_damaged_manifest_is_rewritten(run: Run, manifest: str) -> None:
    """Its error advises to preprocess again."""
    run()
    before = contents(run.dataset_folder)
    (run.dataset_folder / MANIFEST).write_text(manifest, encoding="utf-8")
    run()
    assert contents(run.dataset_folder) == before


def test_removed_song_leaves_the_dataset(run: Run) -> None:
    run()
    (run.folder / "a.wav").unlink()
    (run.folder / "a.txt").unlink()
    assert [sample.name for sample in run().dataset.samples] == ["b.wav"]


# Stopped and continued


def test_resumed_preprocessing_is_bit_identical(run: Run, tmp_path: Path) -> None:
    reports: list[Progress] = []
    config = replace(CONFIG, tile_seconds=1.0)
    run(config, report=reports.append)
    undisturbed = contents(run.dataset_folder)
    for number in range(len(reports)):
        left = [number]

        def cancel(progress: Progress, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Cancelled

        into = tmp_path / f"stopped{number}"
        with pytest.raises(Cancelled):
            run(config, report=cancel, into=into)
        assert not (into / MANIFEST).exists()
        run(config, into=into)
        assert contents(into) == undisturbed, f"stopped at report {number}: {reports[number].message}"


def test_stopping_repeats_no_encoding(run: Run) -> None:
    def cancel(progress: Progress) -> None:
        if "text of b.wav" in progress.message:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(report=cancel)
    assert sorted(run.source.encoded) == [31 * SAMPLES_PER_FRAME, 51 * SAMPLES_PER_FRAME]
    assert run.encoded_again() == []


# Songs that cannot be used


def damage(kind: str, path: Path) -> None:
    match kind:
        case "silent":
            write_song(path, 1.5, loudness=0.0)
        case "short":
            write_song(path, 0.5)
        case "no audio":
            path.write_bytes(b"not music" * 100)


@pytest.mark.parametrize(("kind", "reason"), [("silent", "silent"), ("short", "too short (0.5 s"),
                                              ("no audio", "not an audio file")])
def test_bad_song_is_left_out(run: Run, kind: str, reason: str) -> None:
    damage(kind, run.folder / "bad.wav")
    for _ in range(2):
        made = run()
        assert [sample.name for sample in made.dataset.samples] == ["a.wav", "b.wav"]
        assert [problem.name for problem in made.problems] == ["bad.wav"]
        assert reason in made.problems[0].reason
    assert len(load_samples(made.dataset, WHOLE)[0]) == 2


@pytest.mark.parametrize("kind", ["silent", "short", "no audio"])
def test_equal_bad_songs_are_reported(run: Run, kind: str) -> None:
    damage(kind, run.folder / "bad.wav")
    damage(kind, run.folder / "worse.wav")
    made = run()
    assert [problem.name for problem in made.problems] == ["bad.wav", "worse.wav"]
    assert [sample.name for sample in made.dataset.samples] == ["a.wav", "b.wav"]


def test_vanished_song_is_reported(run: Run) -> None:
    songs = find_songs(run.folder).songs
    (run.folder / "a.wav").unlink()
    made = preprocess.preprocess(run.source, run.checkpoint, songs, run.dataset_folder, CONFIG, device="cpu")
    assert [problem.name for problem in made.problems] == ["a.wav"]
    assert "cannot be read" in made.problems[0].reason
    assert [sample.name for sample in made.dataset.samples] == ["b.wav"]


def test_no_usable_song_is_an_error(run: Run) -> None:
    write_song(run.folder / "a.wav", 1.5, loudness=0.0)
    write_song(run.folder / "b.wav", 0.3)
    with pytest.raises(DatasetError, match=r"No song can be used.*a\.wav: silent.*b\.wav: too short"):
        run()
    assert not (run.dataset_folder / MANIFEST).exists()


class BrokenSource(TinySource):
    """A VAE that overflows."""

    def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
        encode = super().audio_encoder(checkpoint, device)
        return lambda waveform: encode(waveform) * math.inf


def test_non_finite_latents_are_rejected(run: Run) -> None:
    run.source = BrokenSource(run.source.tokenizer_folder, [])
    with pytest.raises(DatasetError, match=r"not finite for 'a\.wav'"):
        run()
    assert not list(run.dataset_folder.glob("*.safetensors"))


def test_thousand_bad_files_are_reported(run: Run) -> None:
    for number in range(1000):
        (run.folder / f"bad{number:04}.mp3").write_bytes(b"no music %d" % number)
    made = run()
    assert [problem.name for problem in made.problems] == [f"bad{number:04}.mp3" for number in range(1000)]
    assert [sample.name for sample in made.dataset.samples] == ["a.wav", "b.wav"]


def test_planning_time_is_linear(run: Run) -> None:
    """Also where nothing is known of them."""
    song = find_songs(run.folder).songs[0]

    def plan(count: int) -> list[preprocess._Job | Problem]:
        songs = [replace(song, name=f"{number}.wav", start=0.0, stop=1.0 + number % 2 / 100, caption=f"song {number}")
                 for number in range(count)]
        return list(preprocess._plan(run.checkpoint, songs, run.dataset_folder, None, CONFIG, ignore))

    assert growth(plan, 300) < MOST
    jobs = plan(1000)
    assert len(jobs) == 1000
    assert len({job.latents for job in jobs if isinstance(job, preprocess._Job)}) == 2


def test_second_run_reads_the_manifest_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run()

    def opened(path: Path, *_: object, **__: object) -> None:
        raise AssertionError(f"{path} is opened")

    monkeypatch.setattr(tensors, "_read_header", opened)
    monkeypatch.setattr(hashing, "hash_file", opened)
    monkeypatch.setattr(atomic, "write_atomically", opened)
    assert run().made == 0


def test_file_as_folder_is_rejected(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    told = r"The folder .*file.* cannot be made \(.*\)\. Make its place writable"
    for place in (tmp_path / "file", tmp_path / "file" / "dataset"):
        with pytest.raises(atomic.CannotWrite, match=told):
            run(into=place)


def test_unwritable_folder_is_rejected(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not where nothing is to be written."""
    made = run()
    before = contents(run.dataset_folder)

    def refused(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # By their opening, because root may write anywhere.
    monkeypatch.setattr(Path, "touch", refused)
    monkeypatch.setattr(Path, "write_bytes", refused)
    assert run().dataset == made.dataset
    write_song(run.folder / "c.wav", 1.5, pitch=200.0)
    with pytest.raises(DatasetError, match=r"could not be written \(Permission denied\).*make .*dataset writable"):
        run()
    assert contents(run.dataset_folder) == before


# Sections, loudness, repeats, instrumentals


def test_sections_are_separate_songs(run: Run) -> None:
    """Hashed once, encoded each for itself, and known again."""
    whole = find_songs(run.folder).songs[1]
    sections = [replace(whole, name="b.wav [0:00-0:01]", stop=1.0),
                replace(whole, name="b.wav [0:01-0:02]", start=1.0, lyrics="Sun", repeats=3)]
    first = run.of([whole, *sections])
    assert first.problems == ()
    assert [(sample.name, sample.frames, sample.repeats) for sample in first.dataset.samples] == [
        ("b.wav", 51, 1), ("b.wav [0:00-0:01]", 25, 1), ("b.wav [0:01-0:02]", 26, 3)]
    assert len({sample.latents for sample in first.dataset.samples}) == 3
    samples = load_samples(first.dataset, WHOLE)[0]
    assert not torch.equal(samples[1].latents_TC[:], samples[2].latents_TC[:25])
    assert open_dataset(run.dataset_folder) == first.dataset
    assert run.of([whole, *sections]).made == 0
    again = run.of([whole, sections[0], replace(sections[1], start=0.9)])
    assert again.made == 1


def test_max_seconds_shortens_sections(run: Run) -> None:
    whole = find_songs(run.folder).songs[1]
    config = replace(CONFIG, max_seconds=1.0)
    made = run.of([whole, replace(whole, name="end", start=0.5), replace(whole, name="both", stop=1.0)], config)
    assert [sample.frames for sample in made.dataset.samples] == [25, 25, 25]
    latents = [sample.latents for sample in made.dataset.samples]
    assert latents[0] == latents[2] != latents[1]


def test_changed_normalise_encodes_again(run: Run) -> None:
    before = sample_files(run())
    loud = replace(CONFIG, normalise="peak")
    assert len(run.encoded_again(loud)) == 2
    after = run(loud)
    assert {files[0] for files in sample_files(after).values()}.isdisjoint(files[0] for files in before.values())
    assert [files[1:] for files in sample_files(after).values()] == [files[1:] for files in before.values()]
    assert run.encoded_again() == []


def test_an_instrumental_has_no_lyrics(run: Run) -> None:
    song = replace(find_songs(run.folder).songs[0], instrumental=True)
    assert song.lyrics == "Rain"
    assert run.of([song]).dataset.samples[0].lyrics == "[Instrumental]"


# Songs that are the same


def test_equal_songs_share_files(run: Run) -> None:
    shutil.copy(run.folder / "b.wav", run.folder / "c.wav")
    made = run()
    files = sample_files(made)
    assert files["b.wav"] == files["c.wav"] != files["a.wav"]
    assert [sample.name for sample in load_samples(made.dataset, WHOLE)[0]] == ["a.wav", "b.wav", "c.wav"]
    assert len(run.source.encoded) == 2


def test_equal_audio_is_encoded_once(run: Run) -> None:
    shutil.copy(run.folder / "a.wav", run.folder / "c.wav")
    files = sample_files(run())
    assert files["a.wav"][0] == files["c.wav"][0]
    assert files["a.wav"][1] != files["c.wav"][1]
    assert len(run.source.encoded) == 2
    one, other = (read_tensors(run.dataset_folder / files[name][1]) for name in ("a.wav", "c.wav"))
    assert one["condition"].shape != other["condition"].shape


# Prompts


def test_genres_get_their_own_conditions(run: Run) -> None:
    (run.folder / "a.txt").write_text(NOTES.replace("bpm:", "genre: jazz\nbpm:"), encoding="utf-8")
    made = run()
    info = made.dataset.samples[0]
    assert (info.caption, info.genre) == ("zxq, calm lo-fi", "zxq, jazz")
    sample, other = load_samples(made.dataset, replace(WHOLE, genre_ratio=0.5))[0]
    assert sample.genre_SD is not None
    assert sample.genre_SD.shape != sample.condition_SD.shape
    assert other.genre_SD is None
    assert contents(run.dataset_folder).keys() == {MANIFEST, made.dataset.silence.name, *all_files(made)}
    assert len(all_files(made)) == 5


def test_manifest_keeps_song_text(run: Run) -> None:
    infos = run().dataset.samples
    assert [info.prompt(25) for info in infos] == [
        Prompt(caption="zxq, calm lo-fi", lyrics="Rain", language="en", bpm=90, key="C major", signature="4/4",
               seconds=1.0),
        Prompt(caption="zxq", lyrics="[Instrumental]", language="unknown", bpm=None, key="", signature="", seconds=1.0),
    ]
