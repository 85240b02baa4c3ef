"""Tags of audio files as FFmpeg and the usual programs write them, and invalid ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import pytest

from sidestep_core.audio import container as audio_files
from sidestep_core.songs.metadata import Remarks
from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.tags import parse_tags
from tests.song_folders import put, song_in

RATE = 48_000


def write_song(path: Path, codec: str, tags: Mapping[str, str], options: Mapping[str, str] | None = None) -> Path:
    """A second of noise with tags, in the format of the file's ending."""
    noise = np.random.default_rng(0).standard_normal((1, RATE)).astype("float32") * 0.1
    with av.open(path, "w", options=dict(options or {})) as container:
        container.metadata.update(tags)
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise, format="flt", layout="mono")
        frame.sample_rate = RATE
        size = stream.frame_size or 960
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=RATE, frame_size=size)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    return path


ID3 = {"TBPM": "120", "TKEY": "Am"}
VORBIS = {"BPM": "120", "INITIALKEY": "Am"}
WORDS = {"title": "My Song", "comment": "made with X", "genre": "Synthwave", "lyrics": "la\nla la"}


@pytest.mark.parametrize(("name", "codec", "more", "options"), [
    ("a.mp3", "libmp3lame", ID3, {}),
    ("a.mp3", "libmp3lame", ID3, {"id3v2_version": "3"}),
    ("a.flac", "flac", VORBIS, {}),
    ("a.aiff", "pcm_s16be", ID3, {"write_id3v2": "1"}),
    ("a.mka", "pcm_s16le", {"BPM": "120", "INITIAL_KEY": "a minor"}, {}),
])  # fmt: skip
def test_tags_fill_missing_fields(tmp_path: Path, name: str, codec: str, more: Mapping[str, str],
                                  options: Mapping[str, str]) -> None:
    write_song(tmp_path / name, codec, {**WORDS, **more}, options)
    song = song_in(tmp_path)
    assert (song.genre, song.lyrics, song.bpm, song.key) == ("Synthwave", "la\nla la", 120, "A minor")
    assert song.caption == "", "neither a title nor a comment is a caption"


def test_ogg_tags_in_the_stream(tmp_path: Path) -> None:
    write_song(tmp_path / "a.opus", "libopus", {**WORDS, **VORBIS})
    assert (song_in(tmp_path).bpm, song_in(tmp_path).genre) == (120, "Synthwave")


def test_genre_of_wav(tmp_path: Path) -> None:
    write_song(tmp_path / "a.wav", "pcm_s16le", WORDS)
    song = song_in(tmp_path)
    assert (song.genre, song.caption, song.lyrics) == ("Synthwave", "", "")


def atom(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def with_atoms(path: Path, *atoms: bytes) -> None:
    """Put atoms behind the last of the list of tags of an MP4 file whose index is at its end, as iTunes writes them."""
    content = bytearray(path.read_bytes())
    at = len(content)
    for name in (b"ilst", b"meta", b"udta", b"moov"):
        start = content.rindex(name, 0, at) - 4
        size = int.from_bytes(content[start:start + 4], "big")
        assert start + size == len(content), f"{name!r} does not end the file"
        content[start:start + 4] = struct.pack(">I", size + sum(map(len, atoms)))
        at = start + 4
    path.write_bytes(bytes(content) + b"".join(atoms))


def test_mp4_atoms(tmp_path: Path) -> None:
    path = write_song(tmp_path / "a.m4a", "aac", WORDS)
    tempo = atom(b"tmpo", atom(b"data", struct.pack(">II", 21, 0) + struct.pack(">H", 128)))
    key = atom(b"----", atom(b"mean", b"\0\0\0\0com.apple.iTunes") + atom(b"name", b"\0\0\0\0initialkey")
               + atom(b"data", struct.pack(">II", 1, 0) + b"F#m"))
    with_atoms(path, tempo, key)
    song = song_in(tmp_path)
    assert (song.genre, song.lyrics, song.bpm, song.key) == ("Synthwave", "la\nla la", 128, "F# minor")


def test_tags_are_the_weakest_source(tmp_path: Path) -> None:
    write_song(tmp_path / "a.flac", "flac", {**WORDS, **VORBIS})
    put(tmp_path, a__txt="bpm: 90\n", metadata__csv="file,key\na.flac,D major\n",
        dataset__json='[{"audio_path": "a.flac", "genre": "folk"}]')
    song = song_in(tmp_path)
    assert (song.genre, song.lyrics, song.bpm, song.key) == ("folk", "la\nla la", 90, "D major")


def test_instrumental_keeps_lyrics_of_tags(tmp_path: Path) -> None:
    write_song(tmp_path / "a.flac", "flac", WORDS)
    put(tmp_path, a__txt="is_instrumental: true\n")
    assert (song_in(tmp_path).lyrics, song_in(tmp_path).instrumental) == ("la\nla la", True)


@pytest.mark.parametrize(("text", "key"), [
    ("Am", "A minor"), ("C", "C major"), ("Bbm", "Bb minor"), ("F# min", "F# minor"), ("Eb major", "Eb major"),
    ("AM", "A major"), ("c#m", "C# minor"), ("8A", "8A"), ("D Dorian", "D Dorian"), ("o", "o"), ("unknown", None),
])  # fmt: skip
def test_spellings_of_keys(text: str, key: str | None) -> None:
    assert parse_tags({"TKEY": text}, "a.mp3", Remarks()).get("key") == key


def test_invalid_tag_is_noticed(tmp_path: Path) -> None:
    write_song(tmp_path / "a.flac", "flac", {"BPM": "fast", "GENRE": "rock"})
    found = find_songs(tmp_path)
    assert (found.songs[0].bpm, found.songs[0].genre) == (None, "rock")
    [notice] = found.notices
    assert notice.name == "a.flac"
    assert "The tag BPM of a.flac must be beats per minute such as 120, got 'fast'. It is not used." in notice.reason


@pytest.mark.parametrize("name", ["lyrics-eng", "LYRICS", "UNSYNCEDLYRICS"])
def test_lyrics_under_every_name(name: str) -> None:
    assert parse_tags({name: "la\r\nla"}, "a.mp3", Remarks()) == {"lyrics": "la\nla"}


@pytest.mark.parametrize("content", [b"", b"sound", b"RIFF\0\0\0\0WAVE", b"ID3\x04\0\0\x7f\x7f\x7f\x7f", b"\0" * 4096])
def test_no_audio_has_no_tags(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(content)
    assert dict(audio_files.tags(path)) == {}
