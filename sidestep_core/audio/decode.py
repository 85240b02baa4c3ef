"""Decoding of audio files to float32 stereo at 48 kHz, and encoding to FLAC.

PyAV decodes and resamples in one stream, so memory is bounded by the song itself.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import DatasetError
from .container import BROKEN_SHARE, check_length, first_audio, opened, stated_seconds

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer
    from av.filter import Graph
    from torch import Tensor

SAMPLE_RATE = 48_000
MIN_SECONDS = 1.0
SILENCE_DBFS = -60.0
"""Peak below which a song holds dither or nothing."""
LONGEST_SECONDS = 3600.0
"""Longest audio decoded at once, 1.4 GB; longer files are split first."""

# Flat to 21 kHz from 44.1 kHz material with residuals below -90 dB; FFmpeg's default filter loses 2 dB there.
_RESAMPLER = f"{SAMPLE_RATE}:filter_size=128:cutoff=0.98"


def decode(path: Path, *, start: float = 0, max_seconds: float = 0, tick: Callable[[], None] = lambda: None) -> Tensor:
    """Decode the first audio stream of a file: float32 [2, samples] at 48 kHz, nominally in [-1, 1].

    Mono is copied to both channels.  Surround is mixed down (centre and surrounds at -3 dB, no LFE, as FFmpeg does)
    and the whole song turned down to a peak of 1 where the sum is louder.  Encoder delay that the file states is cut.

    start, max_seconds: section to return, equal to that part of the whole song sample for sample; so audio before it is
    decoded and dropped.  Audio behind it is decoded for surround only, as its peak may be there.  max_seconds 0 is all
    the rest.
    tick: called for every decoded block; may raise.
    Raises DatasetError naming the file when it holds no audio, is damaged (over 5 % of the packets cannot be decoded),
    is truncated (over 1 s and 5 % shorter than stated), ends before `start`, or is longer than an hour
    where max_seconds does not say less.
    """
    first = round(start * SAMPLE_RATE)
    stop = round((start + max_seconds) * SAMPLE_RATE) if max_seconds else 0
    with opened(path) as container:
        stream = first_audio(container, path)
        stated = stated_seconds(container, path)
        _check_room(path, (max_seconds or (stated or 0) - start))
        waveform, samples, whole = _decode(container, stream, path, first, stop, tick)
        if whole:
            check_length(path, stated, samples / SAMPLE_RATE)
    if not waveform.shape[1]:
        raise DatasetError(f"{path.name} ends at {samples / SAMPLE_RATE:.1f} s, before its section at {start:.1f} s. "
                           "Split it into sections again.")
    return waveform


def blocks(path: Path, seconds: float) -> Iterator[Tensor]:
    """Decode the whole song as `decode` does, in blocks of `seconds` (the last is shorter), for files of any length.

    Surround is not turned down.  Raises DatasetError as `decode` does, at the end where damage shows only there.
    """
    size = round(seconds * SAMPLE_RATE)
    samples = held = 0
    waiting: list[Tensor] = []
    with opened(path) as container:
        for chunk, _ in _resample(_frames(container, first_audio(container, path), path)):
            waiting.append(chunk)
            samples += chunk.shape[1]
            held += chunk.shape[1]
            while held >= size:
                joined = torch.cat(waiting, dim=1)
                waiting, held = [joined[:, size:].clone()], held - size
                yield joined[:, :size].contiguous()
        check_length(path, stated_seconds(container, path), samples / SAMPLE_RATE)
    if held:
        yield torch.cat(waiting, dim=1)


def flac(waveform: Tensor) -> bytes:
    """Encode a 16-bit FLAC file of a stereo waveform [2, samples] at 48 kHz, cut off beyond [-1, 1].

    Raises ValueError for NaN and infinity, which would become noise at full volume.
    """
    import av

    if not torch.isfinite(waveform).all():
        raise ValueError("The audio is not finite (NaN or infinity).")
    whole = (waveform.detach().cpu().float().clamp(-1, 1) * 32767).round().to(torch.int16)
    frame = av.AudioFrame.from_ndarray(whole.T.reshape(1, -1).numpy(), format="s16", layout="stereo")
    frame.sample_rate = SAMPLE_RATE
    content = io.BytesIO()
    with av.open(content, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="stereo", format="s16")
        for part in (frame, None):
            container.mux(stream.encode(part))
    return content.getvalue()


def problem(waveform: Tensor) -> str | None:
    """Reason not to train on a waveform [channels, samples] at 48 kHz, in a few words, or None."""
    broken = int((~torch.isfinite(waveform)).sum())
    if broken:
        return f"{broken} of {waveform.numel()} samples are not finite (NaN or infinity)"
    seconds = waveform.shape[-1] / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        return f"too short ({seconds:.1f} s; at least {MIN_SECONDS:g} s)"
    peak = float(waveform.abs().max())
    decibels = 20 * math.log10(peak) if peak > 0 else -math.inf
    if decibels < SILENCE_DBFS:
        return f"silent (peak {decibels:.0f} dBFS; at least {SILENCE_DBFS:g} dBFS)"
    return None


def _decode(container: InputContainer, stream: AudioStream, path: Path, first: int, stop: int,
            tick: Callable[[], None]) -> tuple[Tensor, int, bool]:
    """Decode sample `first` to `stop` (0 is the end); return the stereo waveform, the number of decoded samples, and
    True if these are all of the file's."""
    chunks: list[Tensor] = []
    samples = 0
    loudest_downmix = 0.0
    for chunk, downmixed in _resample(_frames(container, stream, path)):
        tick()
        part = chunk[:, max(0, first - samples) : max(0, stop - samples) if stop else None]
        samples += chunk.shape[1]
        if part.shape[1]:
            # A copy, as a few samples of a frame would keep all of it.
            chunks.append(part.clone())
            _check_room(path, (samples - first) / SAMPLE_RATE if not stop else 0)
        if downmixed:
            loudest_downmix = max(loudest_downmix, float(chunk.abs().max()))
        if stop and samples >= stop and not downmixed:
            break
    else:
        stop = 0
    if not samples:
        raise DatasetError(f"{path.name} is damaged: none of its audio could be decoded. Export it again or remove it.")
    waveform = torch.cat(chunks, dim=1) if chunks else torch.empty(2, 0)
    if loudest_downmix > 1:
        waveform /= loudest_downmix
    return waveform, samples, not stop


def _check_room(path: Path, seconds: float) -> None:
    if seconds > LONGEST_SECONDS:
        raise DatasetError(f"{path.name} is longer than {LONGEST_SECONDS / 60:g} minutes, which is too much at once. "
                           "Split it into sections, or set a maximum length.")


def _frames(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[AudioFrame]:
    """Yield every frame that can be decoded; raises DatasetError at the end if too many packets could not."""
    import av

    packets = broken = 0
    for packet in container.demux(stream):
        packets += 1
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            broken += 1
    if broken > 1 and broken > packets * BROKEN_SHARE:
        raise DatasetError(f"{path.name} is damaged: {broken} of {packets} packets could not be decoded. "
                           f"Export it again or remove it.")


def _resample(frames: Iterator[AudioFrame]) -> Iterator[tuple[Tensor, bool]]:
    """Yield stereo blocks [2, samples] at 48 kHz, each with True if it was mixed down from more than two channels."""
    graph: Graph | None = None
    shape: tuple[int, str, str] | None = None
    downmixed = False
    for frame in frames:
        # Streams may change their rate or channels midway (recorded radio); each part gets its own resampler.
        if graph is None or shape != (frame.sample_rate, frame.format.name, frame.layout.name):
            if graph is not None:
                yield from ((chunk, downmixed) for chunk in _drain(graph))
            shape = (frame.sample_rate, frame.format.name, frame.layout.name)
            downmixed = frame.layout.nb_channels > 2
            graph = _resampler(*shape, downmixed)
        graph.push(frame)
        yield from ((chunk, downmixed) for chunk in _pull(graph))
    if graph is not None:
        yield from ((chunk, downmixed) for chunk in _drain(graph))


def _resampler(rate: int, sample_format: str, layout: str, downmix: bool) -> Graph:
    from av.filter import Graph

    graph = Graph()
    source = graph.add_abuffer(sample_rate=rate, format=sample_format, layout=layout, time_base=Fraction(1, rate))
    # Mono stays mono here: FFmpeg would turn it down by 3 dB.
    output = "sample_fmts=fltp" + (":channel_layouts=stereo" if downmix else "")
    # A second at a time: the frames of a codec are so short that handling them one by one took a third of the time.
    seconds = graph.add("asetnsamples", f"{SAMPLE_RATE}:pad=0")
    graph.link_nodes(source, graph.add("aresample", _RESAMPLER), graph.add("aformat", output), seconds,
                     graph.add("abuffersink")).configure()
    return graph


def _drain(graph: Graph) -> Iterator[Tensor]:
    """Yield the rest in the resampler at the end of its input."""
    graph.push(None)
    yield from _pull(graph)


def _pull(graph: Graph) -> Iterator[Tensor]:
    import av

    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield torch.from_numpy(frame.to_ndarray()).expand(2, -1)
