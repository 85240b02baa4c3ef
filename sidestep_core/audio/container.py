"""Audio files opened with FFmpeg: facts of the header, tags, and errors of files that cannot be used."""

from __future__ import annotations

import contextlib
import mmap
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError
from . import lengths, mp4

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer

# A player skips what it cannot decode (tags behind the last frame, a flipped bit); more than this is a damaged file.
BROKEN_SHARE = 0.05
_MISSING_SECONDS = 1.0
# FFmpeg would decode the beginning of a WAV file to be sure of what is in it, which takes ten times as long.
_HEADER_BYTES = "32"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts in the header of a file about its first audio stream."""

    seconds: float
    """Length; 0 if not stated."""
    guessed: bool
    """True if the length is FFmpeg's guess by size and bit rate, as for raw AAC and some MP3."""
    sample_rate: int
    channels: int
    codec: str
    """FFmpeg's name: flac, mp3, aac, pcm_s16le ..."""
    bit_rate: int
    """Bits per second; 0 if not stated."""


def facts(path: Path) -> Facts:
    """Read length and format from the header alone, which takes milliseconds.

    Raises DatasetError as `decode` does, but notices no damage behind the header.
    """
    with opened(path) as container:
        stream = first_audio(container, path)
        stated = stated_seconds(container, path)
        guess = container.duration / 1_000_000 if container.duration else 0.0
        codec = stream.codec_context
        if not codec.sample_rate:  # FFmpeg takes any file called .flac for one, until it is decoded
            raise DatasetError(f"{path.name} is damaged or not an audio file. Export it again or remove it.")
        bit_rate = stream.bit_rate or container.bit_rate or 0
        return Facts(seconds=max(0.0, guess if stated is None else stated), guessed=stated is None,
                     sample_rate=codec.sample_rate, channels=codec.channels, codec=codec.codec.canonical_name,
                     bit_rate=bit_rate)


def tags(path: Path) -> Mapping[str, str]:
    """Read the tags of an audio file (title, artist, lyrics ...) under FFmpeg's names, from its header only.

    Empty without tags, and for a file that is not audio, which decoding reports.
    """
    import av

    options = {"protocol_whitelist": "file", "probesize": _HEADER_BYTES}
    try:
        with av.open(path, metadata_errors="replace", options=options) as container:
            streams = [stream.metadata for stream in container.streams.audio[:1]]
            tempo = mp4.tempo(path) if "mp4" in container.format.name.split(",") else None
            return dict(ChainMap(dict(container.metadata), *streams, {} if tempo is None else {"tmpo": str(tempo)}))
    except (av.error.FFmpegError, OSError):
        return {}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a file for the block, in which errors of FFmpeg become DatasetErrors."""
    import av

    try:
        # Some files are scripts that name other files or addresses (playlists); only local ones may be opened.
        options = {"protocol_whitelist": "file"}
        if path.is_file() and lengths.wav_understates(path):
            options["ignore_length"] = "1"
        if path.is_file() and lengths.hides_sound(path):
            raise DatasetError(f"{path.name} holds more sound than its header says. Export it again as FLAC or WAV.")
        with av.open(path, metadata_errors="replace", options=options) as container:
            yield container
    except av.error.InvalidDataError as error:
        size = path.stat().st_size
        reason = "is damaged or not an audio file" if size else "is empty (0 bytes)"
        raise DatasetError(f"{path.name} {reason}. Export it again or remove it.") from error
    except av.error.FFmpegError as error:
        raise DatasetError(f"{path.name} cannot be decoded: {error.strerror}. Export it again as FLAC or WAV, or "
                           "remove it.") from error


def first_audio(container: InputContainer, path: Path) -> AudioStream:
    if not container.streams.audio:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise DatasetError(f"{path.name} holds no audio (only {kinds}). Remove it or export its sound.")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise DatasetError(f"{path.name} has no decoder here (copy-protected, or a rare format). Export it as FLAC.")
    if "mp4" in container.format.name and _is_encrypted(path):
        raise DatasetError(f"{path.name} is copy-protected (DRM). Get it without protection, or remove it.")
    return stream


def _is_encrypted(path: Path) -> bool:
    """True if an MP4 file has a protection scheme box (sinf) around its original format (frma, ISO 14496-12)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(rb"sinf.{4}frma", content, re.DOTALL) is not None


def check_length(path: Path, stated: float | None, seconds: float) -> None:
    """Raise DatasetError if over 1 s and 5 % of the stated length is missing."""
    if stated is not None and stated - seconds > max(_MISSING_SECONDS, stated * BROKEN_SHARE):
        raise DatasetError(f"{path.name} is truncated or damaged: decoded {seconds:.1f} of {stated:.1f} s. "
                           f"Copy it again or remove it.")


def stated_seconds(container: InputContainer, path: Path) -> float | None:
    """Length in the file's own header, or None where FFmpeg would only guess."""
    stream = container.streams.audio[0]
    if container.format.name == "aac":
        return None
    if container.format.name == "ogg" and (chained := lengths.chained_ogg_seconds(path)) is not None:
        return chained
    known = None if stream.duration is None or stream.time_base is None else float(stream.duration * stream.time_base)
    if container.format.name == "mp3":
        stated = lengths.mp3_seconds(path, stream.codec_context.sample_rate)
        # FFmpeg's is exact, without the encoder's delay, unless it guesses because something follows the last frame.
        return stated if stated is None or known is None or abs(known - stated) > _MISSING_SECONDS / 2 else known
    if known is not None:
        return known
    # Matroska states one length for all its streams; a video's is not the audio's.
    if container.duration is not None and not container.streams.video:
        return container.duration / 1_000_000
    return None
