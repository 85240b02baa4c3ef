"""Levels before and after, against FFmpeg's own meters."""

from __future__ import annotations

import math
import re
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from sidestep_core.audio.loudness import (
    PEAK_DBFS,
    TARGET_LUFS,
    TRUE_PEAK_DBTP,
    decibels,
    integrated,
    metered,
    normalised,
    true_peak,
)
from sidestep_core.errors import MissingDependency
from tests.music import RATE, music, noise

LUFS = 0.1
"""LU between two meters of BS.1770, which is also what EBU Tech 3341 allows."""
DBTP = 0.2
"""dB between two ways to look between the samples."""
PEAK = 1e-4


def measured_by_ffmpeg(waveform: Tensor) -> tuple[float, float]:
    """Integrated LUFS and true peak in dBTP by the filter ebur128."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=RATE, format="fltp", layout="stereo", time_base=Fraction(1, RATE))
    meter = graph.add("ebur128", "peak=true:metadata=1")
    sink = graph.add("abuffersink")
    graph.link_nodes(source, meter, sink).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform.numpy()), format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    av.logging.set_level(av.logging.INFO)
    with av.logging.Capture() as lines:
        graph.push(frame)
        graph.push(None)
        while True:
            try:
                sink.pull()
            except (av.error.EOFError, av.error.BlockingIOError):
                break
        del sink, meter, source, graph
        import gc

        gc.collect()
    av.logging.set_level(None)
    text = "".join(line for _, _, line in lines)
    loudness = re.findall(r"I:\s+(-?[\d.]+) LUFS", text)
    peak = re.findall(r"Peak:\s+(-?[\d.]+) dBFS", text)
    return float(loudness[-1]), float(peak[-1])


@pytest.mark.parametrize("waveform", [
    music(bars=8), 0.1 * music(bars=8, minor=True), noise(6), noise(6)[:1].expand(2, -1),
], ids=["music", "quiet", "noise", "mono"])
def test_loudness_is_what_ffmpeg_measures(waveform: Tensor) -> None:
    loudness, peak = measured_by_ffmpeg(waveform)
    assert integrated(waveform) == pytest.approx(loudness, abs=LUFS)
    assert metered(waveform) == pytest.approx(loudness, abs=LUFS)
    assert metered(waveform * 1.05) != pytest.approx(loudness, abs=LUFS)
    assert integrated(waveform * 1.05) != pytest.approx(loudness, abs=LUFS)
    assert decibels(true_peak(waveform)) == pytest.approx(peak, abs=DBTP)
    assert decibels(true_peak(waveform * 1.05)) != pytest.approx(peak, abs=DBTP)


def test_silence_has_no_loudness() -> None:
    assert metered(torch.zeros(2, RATE)) is None
    assert metered(noise(1)[:, :4800]) is None


def test_nothing_is_the_same_object() -> None:
    song = noise(2)
    assert normalised(song, "none") is song


def test_peak() -> None:
    song = music(bars=2) * 0.1
    before = song.clone()
    louder = normalised(song, "peak")
    assert decibels(float(louder.abs().max())) == pytest.approx(PEAK_DBFS, abs=PEAK)
    assert torch.equal(song, before)
    assert torch.allclose(louder, song * (louder.abs().max() / song.abs().max()))


def test_lufs_reaches_its_target() -> None:
    for song in (music(bars=8, parts=4) * 0.02, (noise(6) * 5).clamp(-1, 1)):
        target = normalised(song, "lufs")
        guarded = decibels(true_peak(target)) > TRUE_PEAK_DBTP - 0.01
        assert guarded or integrated(target) == pytest.approx(TARGET_LUFS, abs=LUFS)
        assert decibels(true_peak(target)) <= TRUE_PEAK_DBTP + PEAK
    assert integrated(target) == pytest.approx(TARGET_LUFS, abs=LUFS)
    assert integrated(song) > TARGET_LUFS + 2


def test_high_peaks_limit_the_gain() -> None:
    song = noise(6) * 0.02
    song[:, 48_000] = 0.9
    target = normalised(song, "lufs")
    assert decibels(true_peak(target)) == pytest.approx(TRUE_PEAK_DBTP, abs=PEAK)
    assert integrated(target) < TARGET_LUFS - 5


def test_true_peak_is_between_samples() -> None:
    """A quarter of the sample rate, sampled 45 degrees off its peaks: 3 dB more than any sample shows."""
    wave = torch.sin(math.pi / 2 * torch.arange(4800) + math.pi / 4) * 0.5
    fade = torch.hann_window(4800)
    assert true_peak((wave * fade).expand(2, -1)) == pytest.approx(0.5, rel=0.01)
    assert float((wave * fade).abs().max()) == pytest.approx(0.5 * math.sqrt(0.5), rel=0.01)


def test_true_peak_ignores_block_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    song = noise(2)
    whole = true_peak(song)
    monkeypatch.setattr("sidestep_core.audio.loudness._BLOCK", 9_999)
    assert true_peak(song) == pytest.approx(whole, rel=PEAK)
    assert true_peak(song * (1 + 2 * PEAK)) != pytest.approx(whole, rel=PEAK)


@pytest.mark.parametrize("how", ["none", "peak", "lufs"])
def test_silence_stays_silent(how: str) -> None:
    silence = torch.zeros(2, RATE)
    assert torch.equal(normalised(silence, how), silence)  # type: ignore[arg-type]
    assert integrated(silence) == -math.inf


def test_no_loudness_changes_nothing() -> None:
    for song in (noise(0.3), noise(3) * 1e-5, torch.full((2, RATE), math.nan)):
        assert normalised(song, "lufs") is song


def test_without_pyloudnorm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    assert normalised(noise(1), "peak").shape == (2, RATE)
    with pytest.raises(MissingDependency, match="pip install --upgrade pyloudnorm"):
        normalised(noise(1), "lufs")
