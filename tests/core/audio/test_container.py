"""Facts of headers, tags, and files that cannot be used."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from sidestep_core.audio.container import facts, tags
from sidestep_core.audio.decode import decode
from sidestep_core.errors import DatasetError
from tests.tones import encode, tone, wav

CODEC_PADDING = 0.1
"""Seconds by which a codec's padding may lengthen a file."""


@pytest.mark.parametrize(("name", "codec", "sample_format", "rate", "layout", "channels"), [
    ("a.wav", "pcm_s16le", "s16", 22_050, "mono", 1), ("a.flac", "flac", "s16", 44_100, "stereo", 2),
    ("a.mp3", "libmp3lame", "fltp", 44_100, "stereo", 2), ("a.m4a", "aac", "fltp", 48_000, "stereo", 2),
    ("a.aac", "aac", "fltp", 44_100, "stereo", 2), ("a.opus", "libopus", "flt", 48_000, "mono", 1),
    ("a.webm", "libopus", "flt", 48_000, "stereo", 2), ("a.ogg", "vorbis", "fltp", 44_100, "stereo", 2),
    ("51.wav", "pcm_s16le", "s16", 48_000, "5.1", 6)])
def test_facts(tmp_path: Path, name: str, codec: str, sample_format: str, rate: int, layout: str,
               channels: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, 3 * rate))
    found = facts(encode(tmp_path / name, noise, rate, codec, sample_format, layout))
    assert found.seconds == pytest.approx(3, abs=CODEC_PADDING)
    assert found.seconds != pytest.approx(3 + 2 * CODEC_PADDING, abs=CODEC_PADDING)
    assert (found.sample_rate, found.channels) == (rate, channels)
    assert found.codec == codec.removeprefix("lib").removesuffix("lame")
    assert found.bit_rate > 0


TAGS = {"title": "Caf\u00e9 \U0001f3b5", "genre": "Jazz", "comment": "a remark", "lyrics": "[Verse]\nOne line\nTwo"}


@pytest.mark.parametrize(("name", "codec", "sample_format"), [
    ("a.mp3", "libmp3lame", "fltp"), ("a.flac", "flac", "s16"), ("a.ogg", "vorbis", "fltp"), ("a.m4a", "aac", "fltp"),
    ("a.opus", "libopus", "flt")])
def test_tags(tmp_path: Path, name: str, codec: str, sample_format: str) -> None:
    bare = encode(tmp_path / f"bare_{name}", tone(48_000, 1, 440, 440), 48_000, codec, sample_format)
    path = tmp_path / name
    with av.open(bare) as source, av.open(path, "w") as file:
        file.metadata.update({key.upper(): text for key, text in TAGS.items()} if name == "a.flac" else TAGS)
        stream = file.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    found = tags(path)
    assert {key.lower(): text for key, text in found.items() if key.lower() in TAGS} == TAGS
    assert not TAGS.items() & tags(bare).items()


def test_no_tags(tmp_path: Path) -> None:
    assert not tags(wav(tmp_path / "a.wav", tone(48_000, 1, 440, 440))).keys() & TAGS.keys()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def protect(content: bytes) -> bytes:
    """An M4A file's bytes as if encrypted: its sample entry is `enca`, which names its true format (ISO 23001-7)."""
    scheme = box(b"sinf", box(b"frma", b"mp4a") + box(b"schm", bytes(4) + b"cenc" + struct.pack(">I", 0x10000)))
    changed, begin, end = bytearray(content), 0, len(content)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"mp4a"):
        size, = struct.unpack(">I", changed[begin : begin + 4])
        while changed[begin + 4 : begin + 8] != kind:
            begin += size
            size, = struct.unpack(">I", changed[begin : begin + 4])
        changed[begin : begin + 4] = struct.pack(">I", size + len(scheme))
        end = begin + size
        begin += 16 if kind == b"stsd" else 8
    changed[begin - 4 : begin] = b"enca"
    return bytes(changed[:end] + scheme + changed[end:])


def test_a_copy_protected_file(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.m4a", tone(44_100, 1, 440, 1000), 44_100, "aac", "fltp")
    path.write_bytes(protect(path.read_bytes()))
    for read in (decode, facts):
        with pytest.raises(DatasetError, match=r"a\.m4a is copy-protected \(DRM\)\. Get it without protection"):
            read(path)


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("text.mp3", b"These are the lyrics\n" * 50, "text.mp3 is damaged or not an audio file"),
    ("empty.wav", b"", r"empty.wav is empty \(0 bytes\)"),
    ("list.m3u", b"#EXTM3U\nother.mp3\n", "list.m3u is damaged or not an audio file"),
    ("list.pls", b"[playlist]\nFile1=other.mp3\n", r"list.pls holds no audio \(only subtitle\)")])
def test_no_audio(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in (decode, facts):
        with pytest.raises(DatasetError, match=expected):
            read(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.wav cannot be decoded: No such file"):
        facts(tmp_path / "a.wav")


def test_text_with_audio_name(tmp_path: Path) -> None:
    for ending in ("flac", "wav", "mp3", "ogg", "m4a"):
        path = tmp_path / f"letter.{ending}"
        path.write_text("a letter " * 1000, encoding="utf-8")
        with pytest.raises(DatasetError, match=f"letter.{ending}"):
            facts(path)
