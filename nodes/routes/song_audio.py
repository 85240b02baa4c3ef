"""Audio of songs for the page: the file itself or FLAC, and peaks for the waveform."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from pathlib import Path

import folder_paths
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d

from ...sidestep_core.audio import container, decode
from ...sidestep_core.errors import DatasetError
from ...sidestep_core.io import atomic
from ...sidestep_core.songs.song import Song

PLAYED = {".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac", ".ogg": "audio/ogg", ".oga": "audio/ogg",
          ".opus": "audio/ogg", ".m4a": "audio/mp4", ".mp4": "audio/mp4", ".webm": "audio/webm"}
"""File ending -> media type of formats that most browsers play; for others the page asks for FLAC."""
FLAC_SECONDS = 300.0
"""Longest part of a song that becomes FLAC."""
WAVEFORM_SECONDS = 1200.0
"""Longest part of a song in the waveform."""
BLOCK_SECONDS = 60.0
"""Audio decoded at once, which bounds memory."""
PEAKS = 120
PEAKS_PER_SECOND = 10
MAX_REMEMBERED = 4096

_peaks: OrderedDict[str, list[int]] = OrderedDict()
_lock = threading.Lock()


def browsers_play(path: Path) -> bool:
    """True for files that browsers usually play."""
    return path.suffix.lower() in PLAYED


def require_audio(path: Path) -> None:
    """Raise DatasetError unless the file is there and its content is audio; nothing else is ever sent.

    Links are followed as in a scan; the target may have any name.
    """
    if not path.is_file():
        raise DatasetError("This song is not there any more.")
    container.facts(path)


def media_type(path: Path) -> str:
    """Media type of a file that browsers play."""
    return PLAYED[path.suffix.lower()]


def as_flac(song: Song) -> Path:
    """Encode the song, or its section, as FLAC in ComfyUI's temp folder."""
    require_audio(song.path)
    folder = Path(folder_paths.get_temp_directory()) / "sidestep"
    file = folder / f"{_identity(song)}.flac"
    if not file.is_file():
        length = min(FLAC_SECONDS, song.stop - song.start) if song.stop else FLAC_SECONDS
        waveform = decode.decode(song.path, start=song.start, max_seconds=length)
        atomic.write_bytes(file, decode.flac(waveform.nan_to_num()))
    return file


def peaks(song: Song) -> list[int]:
    """Compute PEAKS heights from 0 to 100 along the song, or along its section."""
    identity = _identity(song)
    with _lock:
        if identity in _peaks:
            _peaks.move_to_end(identity)
            return _peaks[identity]
    computed = _computed_peaks(song)
    with _lock:
        _peaks[identity] = computed
        while len(_peaks) > MAX_REMEMBERED:
            _peaks.popitem(last=False)
    return computed


def _computed_peaks(song: Song) -> list[int]:
    stop = min(song.stop or math.inf, song.start + WAVEFORM_SECONDS)
    parts: list[Tensor] = []
    for number, waveform in enumerate(decode.blocks(song.path, BLOCK_SECONDS)):
        parts.append(adaptive_max_pool1d(waveform.abs().amax(0, keepdim=True), _peaks_in(waveform)))
        if (number + 1) * BLOCK_SECONDS >= stop:
            break
    first, last = (round(seconds * PEAKS_PER_SECOND) for seconds in (song.start, min(stop, 1e9)))
    seen = torch.cat(parts, 1)[:, first:max(last, first + 1)].nan_to_num().clamp(0, 1)
    return [round(100 * float(height)) for height in adaptive_max_pool1d(seen, PEAKS)[0]]


def _peaks_in(waveform: Tensor) -> int:
    return max(1, round(waveform.shape[1] / decode.SAMPLE_RATE * PEAKS_PER_SECOND))


def _identity(song: Song) -> str:
    """Hash of the file's path, size, time and section."""
    facts = song.path.stat()
    text = f"{song.path}:{facts.st_size}:{facts.st_mtime_ns}:{song.start}:{song.stop}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
