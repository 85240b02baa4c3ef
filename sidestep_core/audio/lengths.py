"""Lengths stated in audio files, where FFmpeg would guess or read too little."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_SEARCHED = 1 << 16
"""Bytes behind an MP3's leading tag within which its first frame must begin."""
_SIDE_INFO = 40
"""Bytes of a frame within which its Xing header begins."""
_UNDERSTATED = 0.05
"""Share of a WAV file's audio that may follow the stated length, such as an unreadable rest."""
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
"""Data sizes written to pipes; FFmpeg then reads to the end by itself."""


def mp3_seconds(path: Path, sample_rate: int) -> float | None:
    """Length by the number of frames in the Xing, Info or VBRI header; None where there is none.

    The size of the file is no measure: tags, covers and zeros may follow the last frame.
    """
    with path.open("rb") as file:
        file.seek(_behind_id3(file))
        content = file.read(_SEARCHED)
    start = next((offset for offset in range(len(content) - 200)
                  if content[offset] == 0xFF and content[offset + 1] & 0xE0 == 0xE0
                  and content[offset + 1] & 0x18 != 0x08 and content[offset + 1] & 0x06 == 0x02), None)
    if start is None or sample_rate <= 0:
        return None
    frame = content[start:start + 200]
    samples = 1152 if frame[1] & 0x18 == 0x18 else 576  # of MPEG 1; of MPEG 2 and 2.5
    frames = None
    for name in (b"Xing", b"Info"):
        offset = frame.find(name, 4, _SIDE_INFO + 4)
        if offset >= 0 and frame[offset + 7] & 1:
            frames = struct.unpack_from(">I", frame, offset + 8)[0]
    if frame[36:40] == b"VBRI":
        frames = struct.unpack_from(">I", frame, 50)[0]
    return None if not frames else frames * samples / sample_rate


def _behind_id3(file: BinaryIO) -> int:
    """Offset of the first byte behind all leading ID3v2 tags."""
    offset = 0
    while (head := _read_at(file, offset, 10))[:3] == b"ID3" and len(head) == 10:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        offset += 10 + size + (10 if head[5] & 0x10 else 0)
    return offset


def _read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def wav_understates(path: Path) -> bool:
    """True if a WAV file continues behind its stated data with something that is not a chunk."""
    with path.open("rb") as file:
        return _is_wav(file) and _goes_on(file, "<", b"data")


def hides_sound(path: Path) -> bool:
    """True if FFmpeg cannot read all of a file: an AIFF that continues behind its stated sound, or a WAV followed by
    another."""
    with path.open("rb") as file:
        if _is_wav(file):
            return any(chunk.name == b"RIFF" and _read_at(file, chunk.start + 8, 4) == b"WAVE"
                       for chunk in _chunks(file, "<"))
        return (_read_at(file, 0, 4) == b"FORM" and _read_at(file, 8, 4) in (b"AIFF", b"AIFC")
                and _goes_on(file, ">", b"SSND"))


class _Chunk(NamedTuple):
    name: bytes
    size: int
    start: int

    @property
    def end(self) -> int:
        return self.start + 8 + self.size + self.size % 2


def _is_wav(file: BinaryIO) -> bool:
    return _read_at(file, 0, 4) == b"RIFF" and _read_at(file, 8, 4) == b"WAVE"


def _chunks(file: BinaryIO, order: str) -> Iterator[_Chunk]:
    """Yield the chunks of a WAV or AIFF file, of byte order < or >, up to the first invalid one."""
    total, offset = file.seek(0, os.SEEK_END), 12
    while offset + 8 <= total:
        name, size = struct.unpack(f"{order}4sI", _read_at(file, offset, 8))
        chunk = _Chunk(name, size, offset)
        if not all(32 <= letter < 127 for letter in chunk.name):
            return
        yield chunk
        offset = chunk.end


def _goes_on(file: BinaryIO, order: str, sound: bytes) -> bool:
    """True if more than an unreadable rest follows the last chunk, relative to the chunk `sound`."""
    size, end = 0, 12
    for chunk in _chunks(file, order):
        end = chunk.end
        if chunk.name == sound:
            if chunk.size in _UNKNOWN_SIZES:
                return False
            size = chunk.size
    return size > 0 and file.seek(0, os.SEEK_END) - end > max(size * _UNDERSTATED, 8)


def chained_ogg_seconds(path: Path) -> float | None:
    """Length of chained Ogg streams, of which FFmpeg states one; None for a single stream."""
    links: list[float] = []
    rate = skipped = 0
    serial, headers = -1, False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for begins, granule, page_serial, body in _ogg_pages(content):
            if begins and not headers:
                links.append(0.0)
                serial = -1
            headers = begins
            if begins and serial < 0 and (found := _ogg_rate(content[body:body + 64])) is not None:
                serial, (rate, skipped) = page_serial, found
            elif page_serial == serial and granule >= 0 and rate > 0:
                links[-1] = max(links[-1], (granule - skipped) / rate)
    return sum(links) if len(links) > 1 else None


def _ogg_pages(content: mmap.mmap) -> Iterator[tuple[bool, int, int, int]]:
    """Yield (begins a stream, position in samples, serial number, offset of the body) of each page."""
    offset = 0
    while content[offset:offset + 4] == b"OggS" and offset + 27 <= len(content):
        flags, granule, serial = struct.unpack_from("<BqI", content, offset + 5)
        body = offset + 27 + content[offset + 26]
        yield bool(flags & 2), granule, serial, body
        offset = body + sum(content[offset + 27:body])


def _ogg_rate(packet: bytes) -> tuple[int, int] | None:
    """Positions per second and samples to skip, from the first packet of a stream; None for an unknown codec."""
    if packet[:8] == b"OpusHead":
        return 48_000, struct.unpack_from("<H", packet, 10)[0]
    if packet[:7] == b"\x01vorbis":
        return struct.unpack_from("<I", packet, 12)[0], 0
    if packet[:5] == b"\x7fFLAC":
        return int.from_bytes(packet[27:30], "big") >> 4, 0
    return None
