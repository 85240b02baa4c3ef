"""Analysis of a folder: cached, song by song, and robust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidestep_core.config import ConfigError
from sidestep_core.errors import DatasetError
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.songs import analyze as analysis
from sidestep_core.songs.analyze import AnalyzeConfig, analyze
from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.song import Song, SongFolder
from tests.music import RATE, music, noise
from tests.tones import encode, wav

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    known = music(bpm=97, bars=12, root=45, minor=True)
    wav(folder / "known.wav", known.numpy())
    encode(folder / "copy.mp3", known.numpy(), RATE, "libmp3lame", "fltp", bit_rate=64_000)
    wav(folder / "written.wav", music(bpm=120, bars=10, root=53).numpy())
    (folder / "written.txt").write_text("caption: c\nbpm: 60\nkey: D minor\nsignature: 2", encoding="utf-8")
    wav(folder / "noise.wav", noise(12).numpy())
    wav(folder / "silent.wav", torch.zeros(2, 3 * RATE).numpy())
    wav(folder / "short.wav", noise(0.5).numpy())
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_bytes(b"These are the lyrics\n" * 50)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def analyzed(folder: Path, cache: Path) -> SongFolder:
    return analyze(find_songs(folder), AnalyzeConfig(), cache)


def song(found: SongFolder, name: str) -> Song:
    return next(song for song in found.songs if song.name == name)


def test_missing_values_are_filled(analyzed: SongFolder) -> None:
    known = song(analyzed, "known.wav")
    assert (known.bpm, known.key, known.signature) == (97, "A minor", "4/4")
    nothing = song(analyzed, "noise.wav")
    assert (nothing.bpm, nothing.key, nothing.signature) == (None, "", "")


def test_written_values_stay(analyzed: SongFolder) -> None:
    written = song(analyzed, "written.wav")
    assert (written.bpm, written.key, written.signature) == (60, "D minor", "2")


def test_unusable_songs_are_problems(analyzed: SongFolder) -> None:
    assert [one.name for one in analyzed.songs] == [report.name for report in analyzed.reports]
    assert {problem.name: problem.reason for problem in analyzed.problems} == {
        "empty.wav": analyzed.problems[0].reason, "silent.wav": "silent (peak -inf dBFS; at least -60 dBFS)",
        "short.wav": "too short (0.5 s; at least 1 s)",
        "text.mp3": "text.mp3 is damaged or not an audio file. Export it again or remove it."}


def test_facts_and_duplicates(analyzed: SongFolder) -> None:
    reports = {report.name: report for report in analyzed.reports}
    copy = reports["copy.mp3"]
    assert (copy.sample_rate, copy.channels, copy.mono) == (48_000, 2, False)
    assert copy.seconds == pytest.approx(12 * 4 * 60 / 97, abs=0.1)
    assert copy.warnings == (
        "It is mp3 at only 64 kbit/s, which is audible and is learned. Get a better copy.",
        "It is the same recording as 'known.wav': keep one, or it counts twice.")
    assert reports["known.wav"].warnings == ("It is the same recording as 'copy.mp3': keep one, or it counts twice.",)
    assert reports["noise.wav"].warnings == reports["written.wav"].warnings == ()


@pytest.mark.parametrize(("config", "expected"), [
    (AnalyzeConfig(fill="all"), (120, "F major", "4/4")), (AnalyzeConfig(fill="nothing"), (60, "D minor", "2")),
    (AnalyzeConfig(fill="all", confidence=1.0), (60, "D minor", "2"))])
def test_fill_and_confidence(folder: Path, cache: Path, analyzed: SongFolder, config: AnalyzeConfig,
                             expected: tuple[int, str, str]) -> None:
    written = song(analyze(find_songs(folder), config, cache), "written.wav")
    assert (written.bpm, written.key, written.signature) == expected


def test_cached_reports_are_reused(folder: Path, cache: Path, analyzed: SongFolder,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = analysis.decode.decode

    def counted(path: Path, **section: float) -> torch.Tensor:
        decoded.append(path.name)
        return decode(path, **section)

    monkeypatch.setattr("sidestep_core.audio.decode.decode", counted)
    again = analyze(find_songs(folder), AnalyzeConfig(), cache)
    assert again == analyzed
    assert set(decoded) == {"silent.wav", "short.wav"}  # problems are looked at again
    os.utime(folder / "noise.wav", ns=(1, 1))
    decoded.clear()
    assert analyze(find_songs(folder), AnalyzeConfig(), cache).reports == analyzed.reports
    assert set(decoded) == {"silent.wav", "short.wav", "noise.wav"}


def test_damaged_cache_is_replaced(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", noise(2).numpy())
    found = SongFolder(folder=tmp_path, songs=(Song(path=path, name="a.wav"),), problems=())
    first = analyze(found, AnalyzeConfig(), tmp_path / "cache")
    kept, = (tmp_path / "cache").iterdir()
    whole = kept.read_text(encoding="utf-8")
    for content in ("", "[]", "{}", json.dumps({**json.loads(whole), "bpm": 7}), whole[:50]):
        kept.write_text(content, encoding="utf-8")
        assert analyze(found, AnalyzeConfig(), tmp_path / "cache") == first
        assert kept.read_text(encoding="utf-8") == whole


def test_cancelling_keeps_finished_reports(tmp_path: Path) -> None:
    songs = tuple(Song(path=wav(tmp_path / name, noise(2).numpy()), name=name) for name in ("a.wav", "b.wav"))
    found = SongFolder(folder=tmp_path, songs=songs, problems=())

    def stop(progress: Progress) -> None:
        assert progress.stage == "analyze"
        if "b.wav" in progress.message:
            raise Cancelled

    with pytest.raises(Cancelled):
        analyze(found, AnalyzeConfig(), tmp_path / "cache", report=stop)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_decoding_can_be_cancelled(tmp_path: Path) -> None:
    song = Song(path=wav(tmp_path / "a.wav", noise(20).numpy()), name="a.wav", start=18.0)
    left = iter(range(10))

    def stop(progress: Progress) -> None:
        if next(left, None) is None:
            raise Cancelled

    with pytest.raises(Cancelled):
        analyze(SongFolder(folder=tmp_path, songs=(song,), problems=()), AnalyzeConfig(), tmp_path / "cache",
                report=stop)


def test_sections_are_analyzed_separately(tmp_path: Path) -> None:
    both = torch.cat([music(bpm=97, bars=8), music(bpm=120, bars=10)], dim=1)
    whole = Song(path=wav(tmp_path / "a.wav", both.numpy()), name="a.wav")
    edge = round(32 * 60 / 97, 3)
    one, two = replace(whole, name="one", stop=edge), replace(whole, name="two", start=edge, stop=edge + 20)
    done = analyze(SongFolder(folder=tmp_path, songs=(one, two), problems=()), AnalyzeConfig(), tmp_path / "cache")
    assert [song.bpm for song in done.songs] == [97, 120]
    assert [report.seconds for report in done.reports] == pytest.approx([edge, 20], abs=0.01)
    assert all("same recording" not in sentence for report in done.reports for sentence in report.warnings)


def test_long_songs_are_analyzed_partly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "ANALYZED_SECONDS", 11.0)
    song = Song(path=wav(tmp_path / "a.wav", noise(15).numpy()), name="a.wav")
    report, = analyze(SongFolder(folder=tmp_path, songs=(song,), problems=()), AnalyzeConfig(), tmp_path / "c").reports
    assert report.seconds == 15
    assert report.warnings == ("It is 0:15 long; only the first 0:11 were analyzed. Split it into sections.",)


def test_no_song_left(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    song = Song(path=tmp_path / "a.wav", name="a.wav")
    gone = Song(path=tmp_path / "b.wav", name="b.wav")
    with pytest.raises(DatasetError, match=r"No song can be used\. a\.wav: .*empty.* b\.wav: It cannot be opened"):
        analyze(SongFolder(folder=tmp_path, songs=(song, gone), problems=()), AnalyzeConfig(), tmp_path / "cache")


def test_settings() -> None:
    config = AnalyzeConfig(fill="all", confidence=0.25)
    assert AnalyzeConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match=r"confidence must be 0 to 1, got 1\.5"):
        AnalyzeConfig(confidence=1.5)


LONG_SONG = """
import resource, sys
from pathlib import Path
import librosa, numba, pyloudnorm, torch, torchaudio
from sidestep_core.songs import analyze
from sidestep_core.songs.song import Song, SongFolder
analyze.ANALYZED_SECONDS = 30.0
def run(name):
    song = Song(path=Path(sys.argv[1]) / name, name=name)
    found = SongFolder(folder=song.path.parent, songs=(song,), problems=())
    analyze.analyze(found, analyze.AnalyzeConfig(), song.path.parent / "cache")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = run("short.wav")
print((run("long.wav") - before) / 1024)
"""
GROWTH_MB = 25
"""Most MB that an hour may need beyond half a minute; the hour itself would take 1400 MB."""


def test_memory_is_bounded(tmp_path: Path) -> None:
    wav(tmp_path / "short.wav", noise(1.0)[:, :30_000].numpy(), 1000)
    content = wav(tmp_path / "long.wav", noise(1.0)[:, :30_000].numpy(), 1000).read_bytes()
    at, size = content.index(b"data") + 4, 3600 * 1000 * 4
    (tmp_path / "long.wav").write_bytes(content[:at] + size.to_bytes(4, "little") + content[at + 4 :] * 121)
    run = subprocess.run([sys.executable, "-c", LONG_SONG, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                         check=True)
    assert float(run.stdout) < GROWTH_MB
