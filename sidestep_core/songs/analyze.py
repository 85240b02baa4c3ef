"""Listens to a folder of songs: what each sounds like, what is wrong with it, and which are there twice.

Every song is decoded once, one at a time, and what was heard is kept by the file's place, size and time of change, so
that only new and changed songs are listened to again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..audio import container, decode
from ..audio.fingerprint import duplicates, fingerprint
from ..audio.key import musical_key
from ..audio.levels import levels
from ..audio.loudness import integrated
from ..audio.tempo import analysed, rhythm
from ..config import Config, require
from ..errors import DatasetError
from ..io import atomic, hashing, strict_json
from ..io.record import parse
from ..progress import Progress, Report, ignore
from .report import Estimated, SongReport
from .song import Problem, Song, SongFolder, none_left
from .warnings import warnings

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the names of what is kept; raised when the same audio would be heard differently."""
LISTENED_SECONDS = 600.0
"""Of a longer song only so much is listened to: as much as ACE-Step makes at once, in 1 GB of memory."""

Fill = Literal["missing", "all", "nothing"]


@dataclass(frozen=True, kw_only=True)
class ListenConfig(Config):
    """What becomes of the tempo, key and time signature that are heard."""

    fill: Fill = "missing"
    """missing: they are noted where nobody wrote them; all: also in place of what was written; nothing: only shown."""
    confidence: float = 0.5
    """0 to 1; what is less sure is only shown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.confidence <= 1, f"confidence must be 0 to 1, got {self.confidence}.")


def listen(found: SongFolder, config: ListenConfig, cache: Path, *, report: Report = ignore) -> SongFolder:
    """The songs with a report on each, and with bpm, key and signature where they were missing and are sure enough.

    A song that cannot be decoded, is silent or shorter than a second becomes a Problem.  What was heard is kept in the
    folder `cache`, song by song, so a cancelled run goes on where it stopped.
    Raises DatasetError when no song is left, MissingDependency without librosa and pyloudnorm.
    """
    songs: list[Song] = []
    reports: list[SongReport] = []
    problems = list(found.problems)
    for number, song in enumerate(found.songs):
        tick = partial(_tick, report, number, len(found.songs), f"Listening to {song.name}")
        tick()
        try:
            heard = _remembered(song, cache, tick)
        except DatasetError as error:
            problems.append(Problem(name=song.name, reason=str(error)))
            continue
        songs.append(_filled(song, heard, config))
        reports.append(heard)
    if not songs:
        raise none_left("No song can be used", problems)
    _tick(report, len(found.songs), len(found.songs), "Looking for duplicates")
    return replace(found, songs=tuple(songs), reports=tuple(_with_duplicates(reports, songs)),
                   problems=tuple(sorted(problems, key=lambda problem: problem.name)))


def _tick(report: Report, step: int, total: int, message: str) -> None:
    report(Progress(stage="listen", step=step, total=total, message=message))


def _remembered(song: Song, cache: Path, tick: Callable[[], None]) -> SongReport:
    """The report that is kept of this song, or a new one, which then is."""
    try:
        facts = song.path.stat()
    except OSError as error:
        raise DatasetError(f"It cannot be opened: {error.strerror}.") from error
    key = hashing.fingerprint(VERSION, str(song.path), facts.st_size, facts.st_mtime_ns, song.start, song.stop)
    kept = cache / f"{key}.json"
    if kept.is_file():
        try:
            return replace(_from_json(strict_json.read(kept)), name=song.name)
        except strict_json.BadJson as error:
            log.warning("%s is listened to again, because what was kept of it cannot be read: %s", song.name, error)
    heard = _hear(song, tick)
    atomic.write_json(kept, _to_json(heard))
    return heard


def _hear(song: Song, tick: Callable[[], None]) -> SongReport:
    facts = container.facts(song.path)
    length = song.stop - song.start if song.stop else 0.0
    limit = min(length, LISTENED_SECONDS) if length else LISTENED_SECONDS
    waveform = decode.decode(song.path, start=song.start, max_seconds=limit, tick=tick)
    if reason := decode.problem(waveform):
        raise DatasetError(reason)
    measured, loudness, mark = levels(waveform), integrated(waveform), fingerprint(waveform)
    seconds = waveform.shape[1] / decode.SAMPLE_RATE
    mono = analysed(waveform)
    del waveform
    tick()
    beats = rhythm(mono)
    tick()
    key = musical_key(mono)
    # What was listened to is the beginning only where it is as long as that.
    whole = length or max(seconds, facts.seconds - song.start) if seconds >= LISTENED_SECONDS else seconds
    return SongReport(
        name=song.name, seconds=whole, sample_rate=facts.sample_rate, channels=facts.channels,
        peak_db=measured.peak_db, loudness=loudness, clipped=measured.clipped, silent=measured.silent,
        mono=measured.mono, fingerprint=mark,
        bpm=Estimated(value=str(round(beats.bpm)), confidence=beats.confidence) if beats else None,
        key=Estimated(value=key.name, confidence=key.confidence) if key else None,
        signature=Estimated(value=beats.signature, confidence=beats.signature_confidence) if beats else None,
        warnings=warnings(facts, measured, loudness, whole, seconds))


def _filled(song: Song, heard: SongReport, config: ListenConfig) -> Song:
    """The song with what was heard, where that is wanted and sure enough."""
    def wanted(value: Estimated | None, written: object) -> bool:
        allowed = config.fill == "all" or (config.fill == "missing" and not written)
        return value is not None and allowed and value.confidence >= config.confidence

    if wanted(heard.bpm, song.bpm) and heard.bpm:
        song = replace(song, bpm=int(heard.bpm.value))
    if wanted(heard.key, song.key) and heard.key:
        song = replace(song, key=heard.key.value)
    if wanted(heard.signature, song.signature) and heard.signature:
        song = replace(song, signature=heard.signature.value)
    return song


def _with_duplicates(reports: Sequence[SongReport], songs: Sequence[Song]) -> list[SongReport]:
    """Each report with a warning that names every other song that is the same recording."""
    others: dict[int, list[int]] = {}
    for one, other in duplicates([heard.fingerprint for heard in reports]):
        # Sections of one file are alike where the music repeats; they are not the same.
        if songs[one].path != songs[other].path:
            others.setdefault(one, []).append(other)
            others.setdefault(other, []).append(one)
    found = list(reports)
    for number, same in others.items():
        names = " and ".join(repr(reports[other].name) for other in sorted(same))
        found[number] = replace(reports[number], warnings=(
            *reports[number].warnings, f"It is the same recording as {names}: keep one, or it counts twice."))
    return found


def _to_json(heard: SongReport) -> dict[str, Any]:
    """-inf is null, as JSON has no word for it."""
    return {name: None if value == -math.inf else value for name, value in asdict(heard).items()}


def _from_json(values: strict_json.Json) -> SongReport:
    where = "what was kept"
    fields = strict_json.as_object(values, where)
    silent = {name for name in ("peak_db", "loudness") if fields.get(name) is None}
    report = parse(fields | dict.fromkeys(silent, 0.0), SongReport, where)
    return replace(report, peak_db=-math.inf if "peak_db" in silent else report.peak_db,
                   loudness=-math.inf if "loudness" in silent else report.loudness)
