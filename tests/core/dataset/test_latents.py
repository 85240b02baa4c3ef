"""The first pass: sections of files become latents, one decoded ahead, and stopping stops everything."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.audio import decode as audio
from sidestep_core.dataset import latents
from sidestep_core.dataset.latents import SAMPLES_PER_FRAME, Recording, Stamp, Tiles, encode_recordings, encode_tiled
from sidestep_core.io import hashing
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress, Report, ignore
from tests.tiny import TinySource
from tests.tolerance import FP32, PERTURBED, deviation
from tests.tones import encode, tone

CPU = torch.device("cpu")


def recording(path: Path, start: float = 0.0, seconds: float = 0.0) -> Recording:
    return Recording(name=path.name, path=path, stamp=Stamp.of(path), audio=hashing.hash_file(path), start=start,
                     seconds=seconds, normalise="none")


@pytest.fixture
def songs(tmp_path: Path) -> list[Recording]:
    """An MP3, a FLAC and an Ogg file, each of another length and sound."""
    kinds = (("a.mp3", "libmp3lame", "fltp"), ("b.flac", "flac", "s16"), ("c.ogg", "vorbis", "fltp"))
    paths = [encode(tmp_path / name, tone(44_100, 2.0 + number, 300.0 + number, 500.0), 44_100, codec, sample_format)
             for number, (name, codec, sample_format) in enumerate(kinds)]
    return [recording(path) for path in paths]


class Pass:
    """Encoding recordings into a folder."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self.checkpoint = checkpoint
        self.folder = folder
        self.source = TinySource(Path(), [])

    def __call__(self, recordings: list[Recording], report: Report = ignore) -> dict[str, str]:
        return encode_recordings(self.source, self.checkpoint, recordings, self.folder, 1.0, CPU, report)

    def of(self, one: Recording) -> Tensor:
        return read_tensors(self.folder / one.latents(self.checkpoint))["latents"]


@pytest.fixture
def encode_all(checkpoint: Checkpoint, tmp_path: Path) -> Pass:
    return Pass(checkpoint, tmp_path / "latents")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("one-ahead")]


# What is made


def test_prefetching_changes_no_bit(encode_all: Pass, songs: list[Recording]) -> None:
    assert encode_all(songs) == {}
    encode = encode_all.source.audio_encoder(encode_all.checkpoint, CPU)
    for song in songs:
        assert torch.equal(encode_all.of(song), encode_tiled(encode, audio.decode(song.path), 1.0))
    assert threads() == []


def test_sections_are_exact(encode_all: Pass, songs: list[Recording]) -> None:
    """Sections of lossless audio are exact to the sample."""
    flac = songs[1]
    sections = [replace(flac, start=0.0, seconds=1.0), replace(flac, start=1.0, seconds=1.2), replace(flac, start=1.5)]
    assert encode_all(sections) == {}
    whole = audio.decode(flac.path)
    encode = encode_all.source.audio_encoder(encode_all.checkpoint, CPU)
    for section, (first, last) in zip(sections, ((0, 48_000), (48_000, 105_600), (72_000, None)), strict=True):
        assert torch.equal(encode_all.of(section), encode_tiled(encode, whole[:, first:last], 1.0))
    assert len(list(encode_all.folder.iterdir())) == 3


def test_latents_name_covers_all_inputs(encode_all: Pass, songs: list[Recording]) -> None:
    song = songs[0]
    variants = [song, songs[1], replace(song, start=1.0), replace(song, seconds=1.0),
                replace(song, start=1.0, seconds=1.0), replace(song, normalise="peak"),
                replace(song, normalise="lufs"), replace(song, audio="other")]
    assert len({one.latents(encode_all.checkpoint) for one in variants}) == len(variants)
    same = [song, replace(song, name="other"), replace(song, path=Path("other")),
            replace(song, stamp=Stamp(size=0, modified=0))]
    assert len({one.latents(encode_all.checkpoint) for one in same}) == 1


def test_older_datasets_stay_whole(encode_all: Pass, songs: list[Recording]) -> None:
    """A whole song at its own loudness has the name that it had before there were sections."""
    before = hashing.fingerprint(1, songs[0].audio, 0.0, encode_all.checkpoint.fingerprint)
    assert songs[0].latents(encode_all.checkpoint) == f"{before}.latents.safetensors"


def test_normalised_audio_is_encoded(encode_all: Pass, songs: list[Recording]) -> None:
    loud = replace(songs[1], normalise="peak")
    encode_all([loud])
    waveform = audio.decode(loud.path)
    scaled = waveform * (10 ** (-1 / 20) / waveform.abs().max())
    encode = encode_all.source.audio_encoder(encode_all.checkpoint, CPU)
    assert deviation(encode_all.of(loud), encode_tiled(encode, scaled, 1.0)) < FP32
    assert deviation(encode_all.of(loud), encode_tiled(encode, waveform, 1.0)) > PERTURBED


# What cannot be used


def test_undecodable_songs_are_reported(encode_all: Pass, songs: list[Recording], tmp_path: Path) -> None:
    gone, changed, noise = (tmp_path / name for name in ("gone.mp3", "changed.mp3", "noise.mp3"))
    for path in (gone, changed):
        path.write_bytes(songs[0].path.read_bytes() + path.name.encode())
    noise.write_bytes(b"no music" * 1000)
    bad = [recording(path) for path in (gone, changed, noise)]
    gone.unlink()
    with changed.open("ab") as file:
        file.write(b"still being copied")
    late = replace(songs[0], start=5.0)
    unusable = encode_all([bad[0], songs[0], bad[1], bad[2], late, songs[1]])
    reasons = [unusable[one.latents(encode_all.checkpoint)] for one in (*bad, late)]
    assert "No such file" in reasons[0]
    assert reasons[1].startswith("changed while it was read")
    assert "not an audio file" in reasons[2]
    assert re.search(r"too short \(0\.0 s|ends at", reasons[3])
    assert len(unusable) == 4
    assert encode_all.of(songs[1]).shape == (75, 64)


def test_oversized_song_is_reported(encode_all: Pass, songs: list[Recording], monkeypatch: pytest.MonkeyPatch) -> None:
    real = audio.decode

    def decode(path: Path, **options: Any) -> Tensor:
        return torch.empty(2, 1 << 45) if path == songs[1].path else real(path)

    monkeypatch.setattr(audio, "decode", decode)
    (reason,) = encode_all(songs).values()
    assert "Out of memory while decoding b.flac. Set max_seconds" in reason


def test_thread_error_reaches_the_caller(encode_all: Pass, songs: list[Recording],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(latents, "normalised", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        encode_all(songs)
    assert threads() == []


def test_encoder_error_ends_the_thread(encode_all: Pass, songs: list[Recording]) -> None:
    class Broken(TinySource):
        def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
            raise RuntimeError("no VAE")

    encode_all.source = Broken(Path(), [])
    with pytest.raises(RuntimeError, match="no VAE"):
        encode_all(songs)
    assert threads() == []


# Stopping


def cancel_at(number: int, seen: list[Progress]) -> Report:
    """Cancels at that report."""
    def report(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) > number:
            raise Cancelled

    return report


def test_cancelling_interrupts_decoding(encode_all: Pass, songs: list[Recording],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the song is: this one never ends, and neither the report nor the thread waits for it."""
    real = audio.decode

    def for_ever(path: Path, **options: Any) -> Tensor:
        while True:
            real(path, **options)

    monkeypatch.setattr(audio, "decode", for_ever)
    seen: list[Progress] = []
    with pytest.raises(Cancelled):
        encode_all(songs, cancel_at(2, seen))
    assert len(seen) == 3
    assert threads() == []


def test_cancelling_ends_the_thread(encode_all: Pass, songs: list[Recording]) -> None:
    reports: list[Progress] = []
    encode_all(songs, reports.append)
    assert len(reports) >= 3 + 2 + 3 + 4
    for number in range(0, 12, 3):
        with pytest.raises(Cancelled):
            encode_all(songs, cancel_at(number, []))
        assert threads() == []


def test_two_songs_fit_in_memory(encode_all: Pass, songs: list[Recording], monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is encoded the next is decoded, and no other."""
    begun: list[Path] = []
    ahead: list[int] = []
    real = audio.decode

    def decode(path: Path, **options: Any) -> Tensor:
        begun.append(path)
        return real(path, **options)

    class Slow(TinySource):
        def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
            encode = super().audio_encoder(checkpoint, device)

            def slowly(waveform: Tensor) -> Tensor:
                time.sleep(0.1)
                ahead.append(len(begun))
                return encode(waveform)

            return slowly

    monkeypatch.setattr(audio, "decode", decode)
    encode_all.source = Slow(Path(), [])
    many = [replace(song, audio=f"{song.audio}{turn}") for turn in range(2) for song in songs]
    encode_all(many)
    tiles = [math.ceil(real(song.path).shape[1] / audio.SAMPLE_RATE) for song in many]
    expected = [min(len(many), song + 2) for song, count in enumerate(tiles) for _ in range(count)]
    assert ahead == expected


# Tiles


def reach(frames: int) -> Callable[[Tensor], Tensor]:
    """An encoder that reads so many frames of context on both sides; the real one reads seven."""
    weight = torch.randn(64, 2, 2 * frames + 1, generator=rng.generator("reach"))

    def encode(waveform: Tensor) -> Tensor:
        return torch.nn.functional.conv1d(waveform[..., ::SAMPLES_PER_FRAME], weight, padding=frames)

    return encode


SOUND = torch.randn(2, 130 * SAMPLES_PER_FRAME + 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seconds", [1.0, 1.04, 1.3, 2.0, 5.2, 5.24, 5.28, 100.0])
def test_tiling_matches_whole_encoding(seconds: float) -> None:
    latents_TC = encode_tiled(reach(7), SOUND, seconds)
    padded = torch.nn.functional.pad(SOUND, (0, SAMPLES_PER_FRAME - 7))
    assert latents_TC.shape == (131, 64)
    assert deviation(latents_TC, reach(7)(padded[None])[0].T) < FP32


def test_short_overlap_is_detected() -> None:
    whole, tiled = encode_tiled(reach(12), SOUND, 100.0), encode_tiled(reach(12), SOUND, 1.0)
    assert deviation(tiled, whole) > PERTURBED


@pytest.mark.parametrize("samples", [1, 1919, 1920, 1921, 25 * 1920, 25 * 1920 + 1])
def test_last_frame_is_padded(samples: int) -> None:
    sound = SOUND[:, :samples]
    frames = -(-samples // SAMPLES_PER_FRAME)
    padded = torch.nn.functional.pad(sound, (0, frames * SAMPLES_PER_FRAME - samples))
    assert torch.equal(encode_tiled(reach(1), sound, 100.0), reach(1)(padded[None])[0].T)


def test_every_tile_is_reported() -> None:
    ticks: list[None] = []
    encode_tiled(reach(1), SOUND, 1.0, lambda: ticks.append(None))
    assert len(ticks) == 6


@pytest.mark.parametrize(("frames", "tile", "count", "groups"), [
    (100, 20, 3, [[0], [20, 40, 60], [80]]), (107, 20, 3, [[0], [20, 40, 60], [80], [100]]),
    (108, 20, 9, [[0], [20, 40, 60, 80], [100]]), (40, 20, 3, [[0], [20]]),
    (40, 5, 3, [[0], [5], [10, 15, 20], [25], [30], [35]]),
])  # fmt: skip
def test_inner_tiles_share_a_batch(frames: int, tile: int, count: int, groups: list[list[int]]) -> None:
    tiles = Tiles(CPU)
    tiles.count = count
    assert list(latents._groups(frames, tile, tiles)) == groups
    assert list(latents._groups(frames, tile, None)) == [[start] for start in range(0, frames, tile)]


@pytest.mark.parametrize("seconds", [0.2, 0.4, 1.0])
def test_batched_tiles_equal_single_ones(seconds: float) -> None:
    tiles, single = Tiles(CPU), encode_tiled(reach(7), SOUND, seconds)
    tiles.count = 4
    batched = encode_tiled(reach(7), SOUND, seconds, tiles=tiles)
    assert deviation(batched, single) < FP32
    assert deviation(batched.roll(1, 0), single) > PERTURBED
    assert tiles.count == 4, "memory that is not known must change nothing"


def test_free_memory_sets_the_batch() -> None:
    assert [latents.fitting(free, 1e9) for free in (0, 10**9, 5 * 10**9, 10**12)] == [1, 1, 3, 8]


def test_rate_is_shown_and_logged(encode_all: Pass, songs: list[Recording], caplog: pytest.LogCaptureFixture) -> None:
    messages: list[str] = []
    with caplog.at_level("INFO"):
        encode_all(songs, lambda progress: messages.append(progress.message))
    assert messages[0] == "Encoding a.mp3"
    assert re.fullmatch(r"Encoding c\.ogg \(\d+ s of audio per second\)", messages[-1])
    assert re.search(r"Encoded 9 s of audio \(\d+ s of audio per second\)\.", caplog.text)
