"""Audio files as waveforms: whatever FFmpeg decodes becomes float32 stereo at 48 kHz; and back, as FLAC.

PyAV decodes and resamples in one stream, so memory is bounded by the song itself.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .errors import DatasetError

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer
    from av.filter import Graph
    from torch import Tensor

SAMPLE_RATE = 48_000
MIN_SECONDS = 1.0
SILENCE_DBFS = -60.0
"""A song whose loudest sample is below this holds dither or nothing."""

# Flat to 21 kHz from 44.1 kHz material with residuals below -90 dB; FFmpeg's default filter loses 2 dB there.
_RESAMPLER = f"{SAMPLE_RATE}:filter_size=128:cutoff=0.98"
# A player skips what it cannot decode (tags behind the last frame, a flipped bit); more than this is a damaged file.
_BROKEN_SHARE = 0.05
_MISSING_SECONDS = 1.0


def decode(path: Path, *, max_seconds: float = 0) -> Tensor:
    """The first audio stream of a file: float32 [2, samples] at 48 kHz, nominally in [-1, 1].

    Mono is copied to both channels.  Surround is mixed down (centre and surrounds at -3 dB, no LFE, as FFmpeg does)
    and turned down to a peak of 1 where the sum is louder.  Encoder delay that the file states is cut off.

    max_seconds: the rest of a longer song is not even decoded; 0 decodes everything.
    Raises DatasetError naming the file when it holds no audio, is damaged (over 5 % of the packets cannot be decoded),
    or is truncated (over 1 s and 5 % shorter than its header says).
    """
    import av

    limit = round(max_seconds * SAMPLE_RATE)
    try:
        # Some files are scripts that name other files or addresses (playlists); only local ones may be opened.
        with av.open(path, metadata_errors="replace", options={"protocol_whitelist": "file"}) as container:
            waveform, whole = _decode(container, _first_audio(container, path), path, limit)
            if whole:
                _check_length(container, path, waveform.shape[1] / SAMPLE_RATE)
    except av.error.InvalidDataError as error:
        size = path.stat().st_size
        reason = "is damaged or not an audio file" if size else "is empty (0 bytes)"
        raise DatasetError(f"{path.name} {reason}. Export it again or remove it.") from error
    except av.error.FFmpegError as error:
        raise DatasetError(f"{path.name} cannot be decoded: {error.strerror}.") from error
    return waveform


def flac(waveform: Tensor) -> bytes:
    """The content of a 16-bit FLAC file of a stereo waveform [2, samples] at 48 kHz, cut off beyond [-1, 1].

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
    """Why a waveform [channels, samples] at 48 kHz is not worth training on, in a few words, or None."""
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


def _first_audio(container: InputContainer, path: Path) -> AudioStream:
    if not container.streams.audio:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise DatasetError(f"{path.name} holds no audio (only {kinds}). Remove it or export its sound.")
    return container.streams.audio[0]


def _decode(container: InputContainer, stream: AudioStream, path: Path, limit: int) -> tuple[Tensor, bool]:
    """The stereo waveform, cut at `limit` samples unless that is 0, and whether the file was read to its end."""
    chunks: list[Tensor] = []
    samples = 0
    loudest_downmix = 0.0
    for chunk, downmixed in _resample(_frames(container, stream, path)):
        chunks.append(chunk)
        samples += chunk.shape[1]
        if downmixed:
            loudest_downmix = max(loudest_downmix, float(chunk.abs().max()))
        if limit and samples >= limit:
            break
    if not samples:
        raise DatasetError(f"{path.name} is damaged: none of its audio could be decoded. Export it again or remove it.")
    waveform = torch.cat(chunks, dim=1)[:, : limit or samples]
    if loudest_downmix > 1:
        waveform /= loudest_downmix
    return waveform.contiguous(), not limit or samples < limit


def _frames(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[AudioFrame]:
    """Every frame that can be decoded; raises DatasetError at the end if too many packets could not."""
    import av

    if stream.codec_context is None:
        raise DatasetError(f"{path.name} has no decoder here (copy-protected, or a rare format). Export it as FLAC.")
    packets = broken = 0
    for packet in container.demux(stream):
        packets += 1
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            broken += 1
    if broken > 1 and broken > packets * _BROKEN_SHARE:
        raise DatasetError(f"{path.name} is damaged: {broken} of {packets} packets could not be decoded. "
                           f"Export it again or remove it.")


def _resample(frames: Iterator[AudioFrame]) -> Iterator[tuple[Tensor, bool]]:
    """Stereo chunks [2, samples] at 48 kHz, each with whether it was mixed down from more than two channels."""
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
    sink = graph.add("abuffersink")
    graph.link_nodes(source, graph.add("aresample", _RESAMPLER), graph.add("aformat", output), sink).configure()
    return graph


def _drain(graph: Graph) -> Iterator[Tensor]:
    """What the resampler still holds at the end of its input."""
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


def _check_length(container: InputContainer, path: Path, seconds: float) -> None:
    """Raises DatasetError when over 1 s and 5 % of what the header states is missing."""
    stated = _stated_seconds(container)
    if stated is not None and stated - seconds > max(_MISSING_SECONDS, stated * _BROKEN_SHARE):
        raise DatasetError(f"{path.name} is truncated or damaged: decoded {seconds:.1f} of {stated:.1f} s. "
                           f"Copy it again or remove it.")


def _stated_seconds(container: InputContainer) -> float | None:
    """How long the file's own header says the audio is, or None where FFmpeg would only guess."""
    stream = container.streams.audio[0]
    # Raw AAC, and MP3 without a LAME header (seen by its encoder delay), get a guess from size and bit rate.
    if container.format.name == "aac" or (container.format.name == "mp3" and not stream.start_time):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # Matroska states one length for all its streams; a video's is not the audio's.
    if container.duration is not None and not container.streams.video:
        return container.duration / 1_000_000
    return None
