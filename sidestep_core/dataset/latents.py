"""First pass of preprocessing: the VAE encodes songs to latents while the next song is decoded."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio import decode
from ..audio.loudness import normalised
from ..config import Normalise
from ..device import OutOfMemory, explain_out_of_memory, free_memory, peak_memory, start_peak, used_memory
from ..errors import DatasetError
from ..io import hashing
from ..model import flow_matching
from ..model.checkpoint import Checkpoint, ModelSource
from ..progress import Progress, Report
from ..sentence import Sentence
from . import tensor_file
from .prefetch import Tick, one_ahead

log = logging.getLogger(__name__)

VERSION = 1
"""Version in the latents' names; raised if the same audio would be encoded differently."""
SAMPLES_PER_FRAME = decode.SAMPLE_RATE // flow_matching.FRAMES_PER_SECOND
MOST_TILES = 8
USABLE = 0.7
"""Share of the free memory that tiles may take."""
TILE_OVERLAP = 8
"""Frames of context on each side of a VAE tile; the encoder reaches 7, so tiles join exactly."""


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Size and time that identify an unchanged audio file without reading it."""

    size: int
    modified: int
    """Nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> Stamp:
        facts = path.stat()
        return cls(size=facts.st_size, modified=facts.st_mtime_ns)


class Tiles:
    """Number of tiles that the device encodes at once: as many as the memory of the first one shows to fit.

    Only where the peak is known, which is on CUDA; elsewhere one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.count = 1

    @contextlib.contextmanager
    def watched(self, tiles: int) -> Iterator[None]:
        """Watch the memory of encoding so many tiles."""
        before = used_memory(self._device)
        start_peak(self._device)
        yield
        peak, free = peak_memory(self._device), free_memory(self._device)
        if before is not None and peak is not None and free is not None:
            self.count = fitting(free, (peak - before) / tiles)


def fitting(free: int, of_one: float) -> int:
    """Number of tiles that fit into USABLE of the free memory, at least one."""
    return max(1, min(MOST_TILES, int(USABLE * free / max(of_one, 1.0))))


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Section of an audio file, with the file's state at the time of planning."""

    name: str
    """Name of the song."""
    path: Path
    stamp: Stamp
    audio: str
    """SHA-256 of the file."""
    start: float
    seconds: float
    """Maximum length; 0: to the end of the file."""
    normalise: Normalise

    def latents(self, checkpoint: Checkpoint) -> str:
        """Name of the latents' file, a hash of everything that they depend on."""
        # What is not used does not count, so that older datasets stay whole.
        used = (self.start, self.normalise) if self.start or self.normalise != "none" else ()
        key = hashing.fingerprint(VERSION, self.audio, self.seconds, checkpoint.fingerprint, *used)
        return f"{key}.latents.safetensors"


def encode_recordings(source: ModelSource, checkpoint: Checkpoint, recordings: Sequence[Recording], folder: Path,
                      tile_seconds: float, device: torch.device, report: Report) -> dict[str, str]:
    """Write the latents of every recording; return the reasons for those without, by the latents' name.

    Two songs are in memory: the encoded one and the next.
    """
    encode: Callable[[Tensor], Tensor] | None = None
    unusable: dict[str, str] = {}
    rate, tiles = _Rate(), Tiles(device)
    with one_ahead(_prepared, recordings) as next_recording:
        for number, recording in enumerate(recordings):
            tick = partial(report, Progress(stage="preprocess", step=number, total=2 * len(recordings),
                                            message=rate.sentence(recording.name)))
            waveform = next_recording(tick)
            if isinstance(waveform, str):
                unusable[recording.latents(checkpoint)] = waveform
                continue
            encode = encode or source.audio_encoder(checkpoint, device)
            latents_TC = encode_tiled(encode, waveform, tile_seconds, tick, tiles)
            rate.seconds += waveform.shape[1] / decode.SAMPLE_RATE
            del waveform
            if not torch.isfinite(latents_TC).all():
                raise DatasetError(f"The VAE gives values that are not finite for {recording.name!r}. "
                                   "The VAE's file or the song is damaged; get it again.")
            tensor_file.write(folder / recording.latents(checkpoint), "latents", latents_TC)
    if rate.seconds:
        log.info("Encoded %.0f s of audio (%d s of audio per second).", rate.seconds, rate.value)
    return unusable


class _Rate:
    """Encoded seconds of audio per second since the first song, decoding included."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self.seconds = 0.0

    @property
    def value(self) -> int:
        return round(self.seconds / max(time.monotonic() - self._begun, 1e-3))

    def sentence(self, name: str) -> Sentence:
        """Message about the song that is encoded now."""
        if not self.seconds:
            return Sentence("Encoding {name}", name=name)
        return Sentence("Encoding {name} ({rate} s of audio per second)", name=name, rate=self.value)


def _prepared(recording: Recording, tick: Tick) -> Tensor | str:
    """Decode the waveform to encode, or return the reason that it cannot be used."""
    try:
        with explain_out_of_memory(f"decoding {recording.name}", "Set max_seconds, or cut it into sections."):
            waveform = decode.decode(recording.path, start=recording.start, max_seconds=recording.seconds, tick=tick)
            reason = decode.problem(waveform)
            if reason is None:
                waveform = normalised(waveform, recording.normalise)
        if Stamp.of(recording.path) != recording.stamp:
            return "changed while it was read. Preprocess the songs again when it is complete"
    except (DatasetError, OutOfMemory) as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return waveform if reason is None else reason


def encode_tiled(encode: Callable[[Tensor], Tensor], waveform_CN: Tensor, tile_seconds: float,
                 tick: Tick = lambda: None, tiles: Tiles | None = None) -> Tensor:
    """Encode stereo audio at 48 kHz in tiles to latents [T, 64], equal to encoding it all at once.

    The end is padded with silence to a whole frame; tiles overlap by more than the encoder's receptive field.  `tiles`
    says how many of equal length the device has memory for at once, by default one.
    """
    frames = -(-waveform_CN.shape[1] // SAMPLES_PER_FRAME)
    tile = max(1, round(tile_seconds * flow_matching.FRAMES_PER_SECOND))
    parts = []
    for group in _groups(frames, tile, tiles):
        tick()
        stop = min(group[0] + tile, frames)
        first, last = max(0, group[0] - TILE_OVERLAP), min(frames, stop + TILE_OVERLAP)
        tile_BCN = torch.stack([waveform_CN[:, (first + start - group[0]) * SAMPLES_PER_FRAME:
                                            (last + start - group[0]) * SAMPLES_PER_FRAME] for start in group])
        tile_BCN = F.pad(tile_BCN, (0, -tile_BCN.shape[2] % SAMPLES_PER_FRAME))
        with contextlib.nullcontext() if tiles is None else tiles.watched(len(group)):
            latents_BCT = encode(tile_BCN)
        parts += [one[:, group[0] - first:stop - first].T.float().cpu() for one in latents_BCT]
    return torch.cat(parts)


def _groups(frames: int, tile: int, tiles: Tiles | None) -> Iterator[list[int]]:
    """Yield the first frames of tiles to encode at once; those at the ends lack context on one side, so go alone."""
    starts = deque(range(0, frames, tile))
    while starts:
        group = [starts.popleft()]
        most = 1 if tiles is None or group[0] < TILE_OVERLAP else tiles.count
        while starts and len(group) < most and starts[0] + tile + TILE_OVERLAP <= frames:
            group.append(starts.popleft())
        yield group
