"""Sections are the whole song: no gap, no overlap, every line of the lyrics."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.audio.decode import SAMPLE_RATE, decode
from sidestep_core.config import ConfigError
from sidestep_core.errors import DatasetError
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.songs.song import Song, SongFolder
from sidestep_core.songs.split import SHORTEST, SplitConfig, _cuts, _quietest, split
from tests.music import RATE, music, noise
from tests.tones import wav

MILLISECOND = 0.001
ROOT = Path(__file__).parents[3]


def folder_of(*songs: Song) -> SongFolder:
    return SongFolder(folder=songs[0].path.parent, songs=songs, problems=())


def written(path: Path, waveform: torch.Tensor, lyrics: str = "", rate: int = RATE) -> Song:
    wav(path, waveform.numpy(), rate)
    return Song(path=path, name=path.name, lyrics=lyrics, caption="c", bpm=90, repeats=3)


def test_cuts_are_at_bar_lines(tmp_path: Path) -> None:
    lyrics = "[Verse]\na\nb\n[Chorus]\nc\nd\n[Verse]\ne\nf"
    song = written(tmp_path / "a.wav", music(bpm=90, bars=24), lyrics)
    done = split(folder_of(song), SplitConfig(seconds=25))
    assert [part.name for part in done.songs] == ["a.wav [0:00-0:21]", "a.wav [0:21-0:42]", "a.wav [0:42-1:04]"]
    assert [part.lyrics for part in done.songs] == ["[Verse]\na\nb", "[Chorus]\nc\nd", "[Verse]\ne\nf"]
    bar = 4 * 60 / 90
    for part in done.songs[1:]:
        assert (part.start + bar / 2) % bar - bar / 2 == pytest.approx(0, abs=0.05)
    assert {(part.caption, part.bpm, part.repeats, part.path) for part in done.songs} == {("c", 90, 3, song.path)}
    pieces = [decode(part.path, start=part.start, max_seconds=part.stop - part.start) for part in done.songs]
    assert torch.equal(torch.cat(pieces, dim=1), decode(song.path))


def test_cuts_are_at_silence(tmp_path: Path) -> None:
    sound = noise(45)
    for begin in (13, 31):
        sound[:, begin * RATE : begin * RATE + RATE // 2] = 0
    done = split(folder_of(written(tmp_path / "a.wav", sound)), SplitConfig(seconds=20, at="silence"))
    assert [round(part.start) for part in done.songs] == [0, 13, 31]
    assert all(13 <= done.songs[1].start <= 13.5 and 31 <= part.start <= 31.5 for part in done.songs[2:])


def test_noise_is_cut_without_bars(tmp_path: Path) -> None:
    done = split(folder_of(written(tmp_path / "a.wav", noise(25))), SplitConfig(seconds=20))
    assert len(done.songs) == 2


def test_short_songs_stay_whole(tmp_path: Path) -> None:
    short = written(tmp_path / "a.wav", noise(15))
    section = replace(written(tmp_path / "b.wav", noise(60)), start=1.0, stop=50.0)
    assert split(folder_of(short, section), SplitConfig(seconds=20)).songs == (short, section)


def test_unreadable_song_is_a_problem(tmp_path: Path) -> None:
    good, bad = written(tmp_path / "a.wav", noise(15)), tmp_path / "b.wav"
    bad.write_bytes(b"")
    broken = Song(path=bad, name="b.wav")
    done = split(folder_of(good, broken), SplitConfig(seconds=20))
    assert done.songs == (good,)
    assert [problem.name for problem in done.problems] == ["b.wav"]
    with pytest.raises(DatasetError, match=r"No song can be used\. b\.wav: b\.wav is empty"):
        split(folder_of(broken), SplitConfig(seconds=20))


def test_it_can_be_cancelled(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        split(folder_of(written(tmp_path / "a.wav", noise(2))), SplitConfig(), report=stop)


def test_settings() -> None:
    config = SplitConfig(seconds=30, at="silence")
    assert SplitConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match="seconds must be at least 20, got 19"):
        SplitConfig(seconds=19)


@settings(deadline=None)
@given(st.floats(20, 300), st.floats(1.001, 40), st.lists(st.floats(0, 1), max_size=60), st.integers(0, 2**31))
def test_sections_join_to_the_song(longest: float, times: float, bars: list[float], seed: int) -> None:
    seconds = round(longest * times, 3)
    levels = torch.rand(int(seconds * 20) + 1, generator=torch.Generator().manual_seed(seed))
    edges = [0.0, *_cuts(seconds, longest, levels, sorted(bar * seconds for bar in bars)), seconds]
    lengths = [stop - start for start, stop in pairwise(edges)]
    assert min(lengths) > SHORTEST / 2
    assert max(lengths) <= longest + MILLISECOND
    assert [round(edge * SAMPLE_RATE) % 48 for edge in edges[1:-1]] == [0] * (len(edges) - 2)


def test_the_quietest_moment() -> None:
    levels = torch.ones(400)
    levels[100:110] = 0.1
    levels[300:310] = 0.05
    assert _quietest(levels, 0, 20, 10) == pytest.approx(15.25, abs=0.1)
    assert _quietest(levels, 0, 10, 2) == pytest.approx(5.25, abs=0.1)
    assert _quietest(torch.ones(400), 2, 18, 7) == pytest.approx(7, abs=0.1)


LONG_SONG = """
import resource, sys
from pathlib import Path
from sidestep_core.songs import split as sections
from sidestep_core.songs.song import Song, SongFolder
import av, torch
sections._BLOCK_SECONDS = 20.0
path = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = SongFolder(folder=path.parent, songs=(Song(path=path, name=path.name),), problems=())
done = sections.split(found, sections.SplitConfig(seconds=60, at="silence"))
print(len(done.songs), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
GROWTH_MB = 80
"""Twenty seconds at 48 kHz are 8 MB, of which a few are in memory at once; the whole song are 230."""


def test_long_songs_are_read_in_blocks(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", torch.zeros(2, 600 * 1000), rate=1000).path
    run = subprocess.run([sys.executable, "-c", LONG_SONG, str(path)], cwd=ROOT, capture_output=True, text=True,
                         check=True)
    sections, growth = run.stdout.split()
    assert int(sections) == 12
    assert float(growth) < GROWTH_MB
