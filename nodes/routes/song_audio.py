"""What the page hears and sees of a song: the file as it is or as FLAC, and the shape of its waveform."""

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
"""What browsers usually play.  Where one does not, the page asks for FLAC."""
HEARD_SECONDS = 300.0
"""At most so much of a song becomes FLAC."""
SEEN_SECONDS = 1200.0
"""The waveform shows so much of a song at most."""
PIECE_SECONDS = 60.0
"""Decoded at once, so that memory is bounded."""
PEAKS = 120
PEAKS_PER_SECOND = 10
MOST_REMEMBERED = 4096

_peaks: OrderedDict[str, list[int]] = OrderedDict()
_lock = threading.Lock()


def browsers_play(path: Path) -> bool:
    """Whether the file itself is worth a try."""
    return path.suffix.lower() in PLAYED


def require_audio(path: Path) -> None:
    """DatasetError where the file is gone, or is no audio by its content: no other is ever sent.

    A link is followed, as it is when songs are looked for; its target may have any name.
    """
    if not path.is_file():
        raise DatasetError("This song is not there any more.")
    container.facts(path)


def media_type(path: Path) -> str:
    """Of a file that browsers play."""
    return PLAYED[path.suffix.lower()]


def as_flac(song: Song) -> Path:
    """A FLAC file of the song, or of its section, in ComfyUI's folder for what need not last."""
    require_audio(song.path)
    folder = Path(folder_paths.get_temp_directory()) / "sidestep"
    file = folder / f"{_identity(song)}.flac"
    if not file.is_file():
        length = min(HEARD_SECONDS, song.stop - song.start) if song.stop else HEARD_SECONDS
        waveform = decode.decode(song.path, start=song.start, max_seconds=length)
        atomic.write_bytes(file, decode.flac(waveform.nan_to_num()))
    return file


def peaks(song: Song) -> list[int]:
    """PEAKS heights from 0 to 100 along the song, or along its section."""
    identity = _identity(song)
    with _lock:
        if identity in _peaks:
            _peaks.move_to_end(identity)
            return _peaks[identity]
    seen = _seen(song)
    with _lock:
        _peaks[identity] = seen
        while len(_peaks) > MOST_REMEMBERED:
            _peaks.popitem(last=False)
    return seen


def _seen(song: Song) -> list[int]:
    stop = min(song.stop or math.inf, song.start + SEEN_SECONDS)
    parts: list[Tensor] = []
    for number, waveform in enumerate(decode.blocks(song.path, PIECE_SECONDS)):
        parts.append(adaptive_max_pool1d(waveform.abs().amax(0, keepdim=True), _peaks_in(waveform)))
        if (number + 1) * PIECE_SECONDS >= stop:
            break
    first, last = (round(seconds * PEAKS_PER_SECOND) for seconds in (song.start, min(stop, 1e9)))
    seen = torch.cat(parts, 1)[:, first:max(last, first + 1)].nan_to_num().clamp(0, 1)
    return [round(100 * float(height)) for height in adaptive_max_pool1d(seen, PEAKS)[0]]


def _peaks_in(waveform: Tensor) -> int:
    return max(1, round(waveform.shape[1] / decode.SAMPLE_RATE * PEAKS_PER_SECOND))


def _identity(song: Song) -> str:
    """Of the song as it is on the disk now."""
    facts = song.path.stat()
    text = f"{song.path}:{facts.st_size}:{facts.st_mtime_ns}:{song.start}:{song.stop}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
