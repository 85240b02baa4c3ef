"""Tones of known pitch and amplitude, written by FFmpeg's encoders and measured in waveforms."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LOUD = 0.5
Wave = NDArray[np.floating[Any]]


def tone(rate: int, seconds: float, *pitches: float) -> Wave:
    """Render one channel for each pitch; 0 is silence."""
    time = np.arange(round(rate * seconds)) / rate
    return np.stack([LOUD * np.sin(2 * np.pi * pitch * time) for pitch in pitches])


def encode(path: Path, wave: Wave, rate: int, codec: str, sample_format: str, layout: str = "stereo",
           container: str | None = None, bit_rate: int = 192_000) -> Path:
    resampler = av.AudioResampler(format=sample_format, layout=layout, rate=rate)
    with av.open(path, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout, format=sample_format, bit_rate=bit_rate)
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.options = {"strict": "experimental"}
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave, dtype=np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in [*resampler.resample(frame), None]:
            for packet in stream.encode(part):
                file.mux(packet)
    return path


def wav(path: Path, wave: Wave, rate: int = 48_000, layout: str = "stereo") -> Path:
    return encode(path, wave, rate, "pcm_s16le", "s16", layout, "wav")


def amplitude(channel: Tensor, pitch: float) -> float:
    """Measure the amplitude of a pitch from 0.5 s to 1.5 s; whole numbers of Hz fall on exact bins."""
    spectrum = torch.fft.rfft(channel[24_000:72_000].double()).abs() / 24_000
    return float(spectrum[round(pitch)])


def loudest_pitch(channel: Tensor) -> int:
    return int(torch.fft.rfft(channel[24_000:72_000].double()).abs().argmax())
