"""Stated lengths: trailing data is ignored, and understating headers are not trusted."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sidestep_core.audio import container, decode
from sidestep_core.audio.lengths import chained_ogg_seconds, mp3_seconds, wav_understates
from sidestep_core.errors import DatasetError
from tests.tones import encode, tone, wav

SECONDS = 6.0
NEARLY = 0.1
"""Seconds that an encoder may add."""


def noise(count: int) -> bytes:
    return np.random.default_rng(2).integers(0, 255, count, dtype=np.uint8).tobytes()


def id3(content: bytes) -> bytes:
    size = bytes(len(content) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + content


def ape(content: bytes) -> bytes:
    return b"APETAGEX" + struct.pack("<IIII", 2000, len(content) + 32, 1, 0x80000000) + bytes(8) + content


@pytest.fixture(scope="module")
def mp3(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("mp3") / "plain.mp3"
    encode(file, tone(44_100, SECONDS, 440, 660), 44_100, "libmp3lame", "fltp", container="mp3", bit_rate=192_000)
    return file.read_bytes()


def seconds(file: Path) -> float:
    return decode.decode(file).shape[1] / decode.SAMPLE_RATE


@pytest.mark.parametrize("share", [0.03, 0.1, 0.9])
@pytest.mark.parametrize("tail", [bytes, lambda count: id3(noise(count)), lambda count: ape(noise(count)),
                                  lambda count: noise(count) + b"TAG" + bytes(125)])
def test_mp3_with_a_tail_is_whole(mp3: bytes, tmp_path: Path, share: float, tail: Callable[[int], bytes]) -> None:
    file = tmp_path / "a.mp3"
    file.write_bytes(mp3 + tail(round(len(mp3) * share)))
    assert seconds(file) == pytest.approx(SECONDS, abs=NEARLY)
    found = container.facts(file)
    assert (found.seconds, found.guessed) == (pytest.approx(SECONDS, abs=NEARLY), False)


def test_mp3_with_a_cover_in_front_is_whole(mp3: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.mp3"
    file.write_bytes(id3(noise(200_000)) + mp3)
    assert mp3_seconds(file, 44_100) == pytest.approx(SECONDS, abs=NEARLY)
    assert seconds(file) == pytest.approx(SECONDS, abs=NEARLY)


def test_cut_mp3_is_truncated(mp3: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.mp3"
    file.write_bytes(mp3[:len(mp3) // 2] + bytes(len(mp3) // 3))
    with pytest.raises(DatasetError, match="truncated or damaged"):
        seconds(file)


def test_understating_wav_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    wav(file, tone(48_000, SECONDS, 440, 660))
    content = bytearray(file.read_bytes())
    place = content.index(b"data") + 4
    size = struct.unpack_from("<I", content, place)[0]
    struct.pack_into("<I", content, place, size // 2 // 4 * 4)
    file.write_bytes(bytes(content))
    assert wav_understates(file)
    assert seconds(file) == pytest.approx(SECONDS, abs=NEARLY)


@pytest.mark.parametrize("rest", [b"", b"LIST" + struct.pack("<I", 4) + b"INFO",
                                  b"id3 " + struct.pack("<I", 300_000) + bytes(300_000)])
def test_trailing_wav_chunks_are_ignored(tmp_path: Path, rest: bytes) -> None:
    file = tmp_path / "a.wav"
    wav(file, tone(48_000, SECONDS, 440, 660))
    file.write_bytes(file.read_bytes() + rest)
    assert not wav_understates(file)
    assert seconds(file) == pytest.approx(SECONDS, abs=1e-3)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"ID3", b"ID3\x03\0\0\x7f\x7f\x7f\x7f",
                                     b"\xff\xfb" * 99])
def test_torn_headers_are_ignored(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a"
    file.write_bytes(content)
    assert mp3_seconds(file, 44_100) is None
    assert not wav_understates(file)


@pytest.mark.parametrize(("codec", "layout"), [("vorbis", "fltp"), ("libopus", "flt"), ("flac", "s16")])
def test_chained_ogg_length(tmp_path: Path, codec: str, layout: str) -> None:
    parts = []
    for number, length in enumerate((2.0, 3.0, 1.0)):
        encode(tmp_path / f"{number}.ogg", tone(48_000, length, 440, 660), 48_000, codec, layout, container="ogg")
        parts.append((tmp_path / f"{number}.ogg").read_bytes())
        assert chained_ogg_seconds(tmp_path / f"{number}.ogg") is None
    file = tmp_path / "chained.ogg"
    file.write_bytes(b"".join(parts))
    assert container.facts(file).seconds == pytest.approx(SECONDS, abs=NEARLY)
    assert seconds(file) == pytest.approx(SECONDS, abs=NEARLY)
    file.write_bytes(b"".join(parts)[:-len(parts[2]) - len(parts[1]) // 2])
    assert container.facts(file).seconds < SECONDS - 1.0


def test_two_wavs_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    wav(file, tone(48_000, SECONDS, 440, 660))
    file.write_bytes(file.read_bytes() * 2)
    with pytest.raises(DatasetError, match="holds more sound than its header says"):
        seconds(file)


def test_understating_aiff_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.aiff"
    encode(file, tone(48_000, SECONDS, 440, 660), 48_000, "pcm_s16be", "s16", container="aiff")
    assert seconds(file) == pytest.approx(SECONDS, abs=NEARLY)
    content = bytearray(file.read_bytes())
    place = content.index(b"SSND") + 4
    size = struct.unpack_from(">I", content, place)[0]
    struct.pack_into(">I", content, place, size // 2 // 4 * 4)
    file.write_bytes(bytes(content))
    with pytest.raises(DatasetError, match="holds more sound than its header says"):
        seconds(file)
