"""A tone of known pitch and loudness goes into every format and must come out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from demo.songs import write_demo_songs
from sidestep_core.audio.container import facts
from sidestep_core.audio.decode import SAMPLE_RATE, blocks, decode, flac, problem
from sidestep_core.errors import DatasetError
from sidestep_core.songs.scan import find_songs
from tests.tolerance import FP32
from tests.tones import LOUD, amplitude, encode, loudest_pitch, tone, wav

RESAMPLED = 1e-4
"""Relative error of a tone's amplitude through the resampler and 16 bits."""
LOSSY = 0.06
"""Tolerance through a lossy codec."""
STOPPED = 1e-4
"""Largest residual of a tone above the target's Nyquist frequency: -80 dB."""


@dataclass(frozen=True)
class Format:
    file: str
    codec: str
    sample_format: str
    rate: int = 44_100
    loss: float = RESAMPLED
    extra: int = 0
    """Samples at 48 kHz by which the codec's padding may lengthen or shorten it."""
    right: int = 1000
    """Pitch of the right channel; FFmpeg's Vorbis encoder spoils one that differs from the left."""


FORMATS = [
    Format("a.wav", "pcm_s16le", "s16"), Format("24.wav", "pcm_s24le", "s32"), Format("32.wav", "pcm_s32le", "s32"),
    Format("f.wav", "pcm_f32le", "flt"), Format("d.wav", "pcm_f64le", "dbl"),
    Format("8.wav", "pcm_u8", "u8", loss=0.01), Format("opus.ogg", "libopus", "flt", 48_000, loss=LOSSY),
    Format("a.flac", "flac", "s16"), Format("24.flac", "flac", "s32"), Format("a.aiff", "pcm_s16be", "s16"),
    Format("a.m4a", "aac", "fltp", loss=LOSSY, extra=1200), Format("alac.m4a", "alac", "s16p"),
    Format("a.aac", "aac", "fltp", loss=LOSSY, extra=3000), Format("a.mp4", "aac", "fltp", loss=LOSSY, extra=1200),
    Format("a.mp3", "libmp3lame", "fltp", loss=LOSSY),
    Format("a.ogg", "vorbis", "fltp", loss=LOSSY, extra=1200, right=440),
    Format("a.opus", "libopus", "flt", 48_000, loss=LOSSY), Format("a.webm", "libopus", "flt", 48_000, loss=LOSSY),
    Format("a.wma", "wmav2", "fltp", loss=LOSSY, extra=3000), Format("a.mka", "flac", "s16"),
    Format("a.wv", "wavpack", "s16p", loss=LOSSY), Format("a.tta", "tta", "s16"), Format("a.caf", "pcm_s16be", "s16"),
    Format("a.ac3", "ac3", "fltp", loss=LOSSY, extra=3000), Format("a.mp2", "mp2", "s16", loss=LOSSY, extra=1200),
    Format("8k.wav", "pcm_s16le", "s16", 8_000), Format("22k.flac", "flac", "s16", 22_050),
    Format("96k.flac", "flac", "s32", 96_000), Format("192k.wav", "pcm_s24le", "s32", 192_000),
]


@pytest.mark.parametrize("case", FORMATS, ids=lambda case: case.file)
def test_formats_become_48_khz_stereo(tmp_path: Path, case: Format) -> None:
    pitches = (440, case.right)
    path = encode(tmp_path / case.file, tone(case.rate, 2, *pitches), case.rate, case.codec, case.sample_format)
    waveform = decode(path)
    assert waveform.dtype == torch.float32
    assert waveform.shape[0] == 2
    assert waveform.is_contiguous()
    assert abs(waveform.shape[1] - 2 * SAMPLE_RATE) <= case.extra
    assert [loudest_pitch(channel) for channel in waveform] == [440, case.right]
    for channel, pitch in zip(waveform, pitches, strict=True):
        assert amplitude(channel, pitch) == pytest.approx(LOUD, rel=case.loss)
        assert amplitude(channel * (1 + 2 * case.loss), pitch) != pytest.approx(LOUD, rel=case.loss)


def test_cd_audio_keeps_its_length(tmp_path: Path) -> None:
    assert decode(wav(tmp_path / "a.wav", tone(44_100, 10, 440, 440), 44_100)).shape == (2, 480_000)


def test_48_khz_is_not_touched(tmp_path: Path) -> None:
    wave = tone(SAMPLE_RATE, 1, 440, 1000).astype(np.float32)
    path = encode(tmp_path / "a.wav", wave, SAMPLE_RATE, "pcm_f32le", "flt")
    assert torch.equal(decode(path), torch.from_numpy(wave))


def test_resampling_has_no_aliases(tmp_path: Path) -> None:
    high = decode(encode(tmp_path / "a.wav", tone(44_100, 2, 20_000, 18_000), 44_100, "pcm_f32le", "flt"))
    assert amplitude(high[0], 20_000) == pytest.approx(LOUD, rel=RESAMPLED)
    too_high = decode(encode(tmp_path / "b.wav", tone(96_000, 2, 30_000, 18_000), 96_000, "pcm_f32le", "flt"))
    assert too_high[0, 24_000:72_000].abs().max() < STOPPED * LOUD
    assert amplitude(too_high[1], 18_000) == pytest.approx(LOUD, rel=RESAMPLED)


def test_resampling_does_not_delay(tmp_path: Path) -> None:
    waveform = decode(encode(tmp_path / "a.wav", tone(44_100, 2, 1000, 1000), 44_100, "pcm_f32le", "flt"))
    expected = torch.from_numpy(tone(SAMPLE_RATE, 2, 1000, 1000)).float()
    middle = slice(4800, -4800)
    assert torch.allclose(waveform[:, middle], expected[:, middle], atol=RESAMPLED, rtol=0)
    assert not torch.allclose(waveform[:, middle].roll(1, 1), expected[:, middle], atol=RESAMPLED, rtol=0)


def test_mono_keeps_its_loudness(tmp_path: Path) -> None:
    wave = tone(SAMPLE_RATE, 1, 1000).astype(np.float32)
    waveform = decode(encode(tmp_path / "a.wav", wave, SAMPLE_RATE, "pcm_f32le", "flt", "mono"))
    assert torch.equal(waveform, torch.from_numpy(wave).expand(2, -1))


@pytest.mark.parametrize(("position", "left", "right"), [
    (0, 1.0, 0.0), (1, 0.0, 1.0), (2, math.sqrt(0.5), math.sqrt(0.5)), (3, 0.0, 0.0),
    (4, math.sqrt(0.5), 0.0), (5, 0.0, math.sqrt(0.5)),
])
def test_downmix_has_the_centre(tmp_path: Path, position: int, left: float, right: float) -> None:
    pitches = [0.0] * 6
    pitches[position] = 1000
    wave = tone(SAMPLE_RATE, 2, *pitches)
    waveform = decode(encode(tmp_path / "a.wav", wave, SAMPLE_RATE, "pcm_f32le", "flt", "5.1"))
    assert amplitude(waveform[0], 1000) == pytest.approx(LOUD * left, abs=FP32)
    assert amplitude(waveform[1], 1000) == pytest.approx(LOUD * right, abs=FP32)


def test_surround_does_not_clip(tmp_path: Path) -> None:
    wave = tone(SAMPLE_RATE, 2, *[1000.0] * 6)
    waveform = decode(encode(tmp_path / "a.wav", wave, SAMPLE_RATE, "pcm_f32le", "flt", "5.1"))
    assert float(waveform.abs().max()) == 1.0


def test_max_seconds_is_the_beginning(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", tone(44_100, 3, 440, 1000), 44_100)
    whole = decode(path)
    assert torch.equal(decode(path, max_seconds=1.5), whole[:, :72_000])
    assert torch.equal(decode(path, max_seconds=60), whole)


@pytest.mark.parametrize("case", FORMATS, ids=lambda case: case.file)
def test_section_equals_the_whole_song(tmp_path: Path, case: Format) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 2 * case.rate))
    path = encode(tmp_path / case.file, noise, case.rate, case.codec, case.sample_format)
    whole = decode(path)
    section = decode(path, start=0.7, max_seconds=0.613)
    assert torch.equal(section, whole[:, 33_600:63_024])
    assert not torch.equal(section, whole[:, 33_601:63_025])
    assert torch.equal(decode(path, start=1.25), whole[:, 60_000:])
    assert torch.equal(torch.cat(list(blocks(path, 0.3)), dim=1), whole)


def test_surround_section_has_the_songs_gain(tmp_path: Path) -> None:
    wave = tone(SAMPLE_RATE, 3, *[1000.0] * 6)
    wave[:, : 2 * SAMPLE_RATE] *= 0.1
    path = encode(tmp_path / "a.wav", wave, SAMPLE_RATE, "pcm_f32le", "flt", "5.1")
    assert torch.equal(decode(path, start=0.5, max_seconds=1), decode(path)[:, 24_000:72_000])


def test_section_behind_the_end(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", tone(SAMPLE_RATE, 1, 440, 440))
    with pytest.raises(DatasetError, match=r"a\.wav ends at 1\.0 s, before its section at 2\.0 s"):
        decode(path, start=2)


def test_blocks_of_a_truncated_file(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flac", tone(44_100, 10, 440, 1000), 44_100, "flac", "s16")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    pieces = blocks(path, 2)
    assert next(pieces).shape == (2, 96_000)
    with pytest.raises(DatasetError, match=r"a\.flac is truncated or damaged"):
        list(pieces)


def eight_hours(path: Path) -> Path:
    """Eight hours of almost nothing, at 1 kHz."""
    wav(path, tone(1000, 8, 200), 1000, "mono")
    content = path.read_bytes()
    at, size = content.index(b"data") + 4, 8 * 3600 * 1000 * 2
    path.write_bytes(content[:at] + size.to_bytes(4, "little") + content[at + 4 :])
    with path.open("rb+") as file:
        file.truncate(at + 4 + size)
    return path


def test_more_than_an_hour_is_refused(tmp_path: Path) -> None:
    path = eight_hours(tmp_path / "a.wav")
    assert facts(path).seconds == 8 * 3600
    for seconds in (0, 3601):
        with pytest.raises(DatasetError, match=r"a\.wav is longer than 60 minutes.*Split it into sections"):
            decode(path, max_seconds=seconds)
    assert decode(path, start=1, max_seconds=2).shape == (2, 96_000)


def test_unstated_length_is_bounded(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.aac", tone(44_100, 4, 440, 440), 44_100, "aac", "fltp")
    monkeypatch.setattr("sidestep_core.audio.decode.LONGEST_SECONDS", 3.0)
    with pytest.raises(DatasetError, match="is longer than"):
        decode(path)
    assert decode(path, start=2).shape[1] > 2 * SAMPLE_RATE


def test_one_khz_is_decoded(tmp_path: Path) -> None:
    waveform = decode(wav(tmp_path / "a.wav", tone(1000, 2, 200, 300), 1000))
    assert waveform.shape == (2, 96_000)
    assert [loudest_pitch(channel) for channel in waveform] == [200, 300]


def test_first_audio_stream_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(path, "w") as file:
        picture = file.add_stream("mjpeg", rate=1, pix_fmt="yuvj420p", width=16, height=16)
        sounds = [file.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16") for _ in range(2)]
        assert isinstance(picture, av.VideoStream)
        for second in (0, 30):  # also much longer than the sound
            still = av.VideoFrame(16, 16, "yuvj420p")
            still.pts, still.time_base = second, Fraction(1)
            for packet in picture.encode(still):
                file.mux(packet)
        for stream, pitch in zip(sounds, (440, 1000), strict=True):
            assert isinstance(stream, av.AudioStream)
            samples = (tone(SAMPLE_RATE, 2, pitch) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                file.mux(packet)
    assert loudest_pitch(decode(path)[0]) == 440


def test_tags_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(path, "w") as file:
        file.metadata["title"] = "TITLE"
        stream = file.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in stream.encode(frame):
            file.mux(packet)
    content = path.read_bytes()
    assert b"TITLE" in content
    path.write_bytes(content.replace(b"TITLE", b"caf\xe9\xff"))
    assert decode(path).shape == (2, 4800)


def frames_of(path: Path) -> bytes:
    """An MP3 without its tag and its first frame, which states the length; other files as they are."""
    content = path.read_bytes()
    return content[content.index(b"\xff\xfb", content.index(b"\xff\xfb") + 100) :] if path.suffix == ".mp3" else content


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.aac", "aac")])
def test_guessed_length_is_not_trusted(tmp_path: Path, name: str, codec: str) -> None:
    silence, noise = tone(44_100, 6, 0, 0), np.random.default_rng(0).uniform(-0.5, 0.5, (2, 6 * 44_100))
    thin = encode(tmp_path / f"thin_{name}", silence, 44_100, codec, "fltp", bit_rate=32_000)
    thick = encode(tmp_path / f"thick_{name}", noise, 44_100, codec, "fltp", bit_rate=256_000)
    mixed = tmp_path / name
    mixed.write_bytes(frames_of(thin) + frames_of(thick))
    with av.open(mixed) as container:
        assert container.duration is not None
        assert container.duration > 20_000_000  # FFmpeg goes by the bit rate at the beginning
    assert decode(mixed).shape[1] / SAMPLE_RATE == pytest.approx(12, abs=0.2)


def test_stream_changes_are_decoded(tmp_path: Path) -> None:
    one = encode(tmp_path / "a.mp3", tone(44_100, 2, 440), 44_100, "libmp3lame", "fltp", "mono")
    two = encode(tmp_path / "b.mp3", tone(48_000, 2, 1000, 1000), 48_000, "libmp3lame", "fltp")
    both = tmp_path / "both.mp3"
    both.write_bytes(frames_of(one) + frames_of(two))
    waveform = decode(both)
    assert waveform.shape[1] / SAMPLE_RATE == pytest.approx(4, abs=0.2)
    assert [loudest_pitch(waveform[0]), loudest_pitch(waveform[0, 2 * SAMPLE_RATE :])] == [440, 1000]


def test_junk_behind_the_music_is_skipped(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp3", tone(44_100, 4, 440, 1000), 44_100, "libmp3lame", "fltp")
    clean = decode(path)
    path.write_bytes(path.read_bytes() + b"APETAGEX" + bytes(5000) + b"\xff\xfb\x90" * 99)
    assert torch.equal(decode(path)[:, : clean.shape[1]], clean)


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("text.mp3", b"These are the lyrics\n" * 50, "text.mp3 is damaged or not an audio file"),
    ("list.mp3", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
     "list.mp3 is damaged or not an audio file"),
    ("empty.wav", b"", r"empty.wav is empty \(0 bytes\)"),
    ("noise.flac", np.random.default_rng(0).bytes(50_000), "noise.flac is damaged"),
    ("noise.mp3", np.random.default_rng(0).bytes(50_000), "noise.mp3 is damaged"),
])
def test_no_audio(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=expected):
        decode(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.wav cannot be decoded: No such file"):
        decode(tmp_path / "gone.wav")
    with pytest.raises(DatasetError, match="cannot be decoded: "):
        decode(tmp_path)


def test_a_picture_holds_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp3"
    with av.open(path, "w", format="image2pipe") as file:
        stream = file.add_stream("png", rate=1, pix_fmt="rgb24", width=16, height=16)
        assert isinstance(stream, av.VideoStream)
        for packet in [*stream.encode(av.VideoFrame(16, 16, "rgb24")), *stream.encode(None)]:
            file.mux(packet)
    with pytest.raises(DatasetError, match=r"cover\.mp3 holds no audio \(only video\)"):
        decode(path)


@pytest.mark.parametrize(("name", "codec", "sample_format"), [
    ("a.flac", "flac", "s16"), ("a.mp3", "libmp3lame", "fltp"), ("a.mka", "flac", "s16"), ("a.tta", "tta", "s16")])
def test_truncated_file_states_its_length(tmp_path: Path, name: str, codec: str, sample_format: str) -> None:
    path = encode(tmp_path / name, tone(44_100, 10, 440, 1000), 44_100, codec, sample_format)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=rf"{name} is truncated or damaged: decoded [345]\.\d of 10\.0 s"):
        decode(path)
    assert decode(path, max_seconds=2).shape == (2, 96_000)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.m4a", tone(44_100, 4, 440, 1000), 44_100, "aac", "fltp")
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(len(content) // 2, len(content) - 2000, 300):
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.m4a is damaged: \d+ of \d+ packets could not be decoded"):
        decode(path)
    assert decode(path, max_seconds=1).shape == (2, SAMPLE_RATE)


def test_a_format_without_a_decoder(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mka", tone(44_100, 1, 440, 440), 44_100, "flac", "s16")
    content = path.read_bytes()
    assert b"A_FLAC" in content
    path.write_bytes(content.replace(b"A_FLAC", b"A_XXXX"))
    with pytest.raises(DatasetError, match=r"a\.mka has no decoder here"):
        decode(path)


def test_problem() -> None:
    good = torch.from_numpy(tone(SAMPLE_RATE, 1, 440, 440)).float()
    assert problem(good) is None
    assert problem(good[:, :-1]) == "too short (1.0 s; at least 1 s)"
    assert problem(good[:, :9600]) == "too short (0.2 s; at least 1 s)"
    assert problem(good[:, :0]) == "too short (0.0 s; at least 1 s)"
    assert problem(good * 0) == "silent (peak -inf dBFS; at least -60 dBFS)"
    assert problem(good * 0.0019) == "silent (peak -60 dBFS; at least -60 dBFS)"
    assert problem(good * 0.0021) is None
    good[1, 7] = math.nan
    good[0, 9] = math.inf
    assert problem(good) == "2 of 96000 samples are not finite (NaN or infinity)"


def test_flac_round_trip(tmp_path: Path) -> None:
    wave = torch.from_numpy(tone(SAMPLE_RATE, 1.5, 440, 1000)).float()
    wave[0, 5], wave[1, 6] = 3, -3
    (tmp_path / "a.flac").write_bytes(flac(wave))
    found = decode(tmp_path / "a.flac")
    assert found.shape == wave.shape
    assert float((found - wave.clamp(-1, 1)).abs().max()) <= 1 / 32767
    assert (tmp_path / "a.flac").stat().st_size < wave.numel() * 2


def test_infinite_audio_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="not finite"):
        flac(torch.tensor([[0.0, math.nan], [0.0, 0.0]]))


def test_demo_songs(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_demo_songs(tmp_path / folder)
    files = sorted((tmp_path / "one").iterdir())
    assert [file.read_bytes() for file in files] == [(tmp_path / "two" / file.name).read_bytes() for file in files]
    scan = find_songs(tmp_path / "one")
    assert scan.problems == ()
    assert {song.path.suffix for song in scan.songs} == {".wav", ".flac", ".ogg"}
    assert all(song.caption and song.lyrics for song in scan.songs)
    waveforms = [decode(song.path) for song in scan.songs]
    assert [waveform.shape[1] for waveform in waveforms] == [288_000, 518_400, 384_000]
    assert [problem(waveform) for waveform in waveforms] == [None] * 3
    before = [file.stat().st_mtime_ns for file in files]
    write_demo_songs(tmp_path / "one")
    assert [file.stat().st_mtime_ns for file in sorted((tmp_path / "one").iterdir())] == before
