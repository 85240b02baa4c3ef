"""First pass of preprocessing: the VAE encodes songs to latents while the next song is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio import decode
from ..audio.loudness import normalised
from ..config import Normalise
from ..device import OutOfMemory, explain_out_of_memory
from ..errors import DatasetError
from ..io import hashing
from ..model import flow_matching
from ..model.checkpoint import Checkpoint, ModelSource
from ..progress import Progress, Report
from ..sentence import Sentence
from . import tensor_file
from .prefetch import Tick, one_ahead

VERSION = 1
"""Version in the latents' names; raised if the same audio would be encoded differently."""
SAMPLES_PER_FRAME = decode.SAMPLE_RATE // flow_matching.FRAMES_PER_SECOND
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
    with one_ahead(_prepared, recordings) as next_recording:
        for number, recording in enumerate(recordings):
            tick = partial(report, Progress(stage="preprocess", step=number, total=2 * len(recordings),
                                            message=Sentence("Encoding {name}", name=recording.name)))
            waveform = next_recording(tick)
            if isinstance(waveform, str):
                unusable[recording.latents(checkpoint)] = waveform
                continue
            encode = encode or source.audio_encoder(checkpoint, device)
            latents_TC = encode_tiled(encode, waveform, tile_seconds, tick)
            del waveform
            if not torch.isfinite(latents_TC).all():
                raise DatasetError(f"The VAE gives values that are not finite for {recording.name!r}. "
                                   "The VAE's file or the song is damaged; get it again.")
            tensor_file.write(folder / recording.latents(checkpoint), "latents", latents_TC)
    return unusable


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
                 tick: Tick = lambda: None) -> Tensor:
    """Encode stereo audio at 48 kHz in tiles to latents [T, 64], equal to encoding it all at once.

    The end is padded with silence to a whole frame; tiles overlap by more than the encoder's receptive field.
    """
    frames = -(-waveform_CN.shape[1] // SAMPLES_PER_FRAME)
    tile = max(1, round(tile_seconds * flow_matching.FRAMES_PER_SECOND))
    parts = []
    for start in range(0, frames, tile):
        tick()
        stop = min(start + tile, frames)
        first, last = max(0, start - TILE_OVERLAP), min(frames, stop + TILE_OVERLAP)
        tile_1CN = waveform_CN[None, :, first * SAMPLES_PER_FRAME:last * SAMPLES_PER_FRAME]
        tile_1CN = F.pad(tile_1CN, (0, -tile_1CN.shape[2] % SAMPLES_PER_FRAME))
        parts.append(encode(tile_1CN)[0, :, start - first:stop - first].T.float().cpu())
    return torch.cat(parts)
