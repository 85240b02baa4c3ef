"""Analysis of songs: levels, loudness, tempo, key, time signature, duplicates and warnings.

Songs are decoded one at a time.  Reports are cached by the file's path, size and modification time, so that only new
and changed songs are analyzed again.
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
from ..audio.tempo import analyzed, rhythm
from ..config import Config, require
from ..errors import DatasetError
from ..io import atomic, hashing, strict_json
from ..io.record import parse
from ..progress import Progress, Report, ignore
from ..sentence import Sentence
from .report import Estimated, SongReport
from .song import Problem, Song, SongFolder, none_left
from .warnings import warnings

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the cache key; raised when the same audio would be analyzed differently."""
ANALYZED_SECONDS = 600.0
"""Longest part of a song that is analyzed: the most that ACE-Step generates at once, in 1 GB of memory."""

Fill = Literal["missing", "all", "nothing"]


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(Config):
    """Use of the estimated tempo, key and time signature."""

    fill: Fill = "missing"
    """missing: fill fields without a value; all: replace values, too; nothing: only report."""
    confidence: float = 0.5
    """Least confidence of an estimate that is used, 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.confidence <= 1, f"confidence must be 0 to 1, got {self.confidence}.")


def analyze(found: SongFolder, config: AnalyzeConfig, cache: Path, *, report: Report = ignore) -> SongFolder:
    """Analyze every song: add a report on each, and fill in bpm, key and signature as configured.

    A song that cannot be decoded, is silent or shorter than a second becomes a Problem.  Reports are cached in the
    folder `cache` one by one, so a cancelled run continues.
    Raises DatasetError when no song is left, MissingDependency without librosa and pyloudnorm.
    """
    songs: list[Song] = []
    reports: list[SongReport] = []
    problems = list(found.problems)
    for number, song in enumerate(found.songs):
        tick = partial(_tick, report, number, len(found.songs), Sentence("Analyzing {name}", name=song.name))
        tick()
        try:
            song_report = _cached_report(song, cache, tick)
        except DatasetError as error:
            problems.append(Problem(name=song.name, reason=str(error)))
            continue
        songs.append(_filled(song, song_report, config))
        reports.append(song_report)
    if not songs:
        raise none_left("No song can be used", problems)
    _tick(report, len(found.songs), len(found.songs), Sentence("Looking for duplicates"))
    return replace(found, songs=tuple(songs), reports=tuple(_with_duplicates(reports, songs)),
                   problems=tuple(sorted(problems, key=lambda problem: problem.name)))


def _tick(report: Report, step: int, total: int, message: str) -> None:
    report(Progress(stage="analyze", step=step, total=total, message=message))


def _cached_report(song: Song, cache: Path, tick: Callable[[], None]) -> SongReport:
    """Read the cached report on a song, or analyze it and cache the report."""
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
            log.warning("%s is analyzed again, as its cached report cannot be read: %s", song.name, error)
    report = _analyze_song(song, tick)
    atomic.write_json(kept, _to_json(report))
    return report


def _analyze_song(song: Song, tick: Callable[[], None]) -> SongReport:
    facts = container.facts(song.path)
    length = song.stop - song.start if song.stop else 0.0
    limit = min(length, ANALYZED_SECONDS) if length else ANALYZED_SECONDS
    waveform = decode.decode(song.path, start=song.start, max_seconds=limit, tick=tick)
    if reason := decode.problem(waveform):
        raise DatasetError(reason)
    measured, loudness, mark = levels(waveform), integrated(waveform), fingerprint(waveform)
    seconds = waveform.shape[1] / decode.SAMPLE_RATE
    mono = analyzed(waveform)
    del waveform
    tick()
    beats = rhythm(mono)
    tick()
    key = musical_key(mono)
    # Only an analyzed part of the full length can be the beginning of a longer song.
    whole = length or max(seconds, facts.seconds - song.start) if seconds >= ANALYZED_SECONDS else seconds
    return SongReport(
        name=song.name, seconds=whole, sample_rate=facts.sample_rate, channels=facts.channels,
        peak_db=measured.peak_db, loudness=loudness, clipped=measured.clipped, silent=measured.silent,
        mono=measured.mono, fingerprint=mark,
        bpm=Estimated(value=str(round(beats.bpm)), confidence=beats.confidence) if beats else None,
        key=Estimated(value=key.name, confidence=key.confidence) if key else None,
        signature=Estimated(value=beats.signature, confidence=beats.signature_confidence) if beats else None,
        warnings=warnings(facts, measured, loudness, whole, seconds))


def _filled(song: Song, report: SongReport, config: AnalyzeConfig) -> Song:
    """Fill in estimates where the config asks for them and they are confident enough."""
    def use(estimate: Estimated | None, written: object) -> bool:
        allowed = config.fill == "all" or (config.fill == "missing" and not written)
        return estimate is not None and allowed and estimate.confidence >= config.confidence

    if use(report.bpm, song.bpm) and report.bpm:
        song = replace(song, bpm=int(report.bpm.value))
    if use(report.key, song.key) and report.key:
        song = replace(song, key=report.key.value)
    if use(report.signature, song.signature) and report.signature:
        song = replace(song, signature=report.signature.value)
    return song


def _with_duplicates(reports: Sequence[SongReport], songs: Sequence[Song]) -> list[SongReport]:
    """Add a warning to each report whose recording other songs have, too, with their names."""
    others: dict[int, list[int]] = {}
    for one, other in duplicates([report.fingerprint for report in reports]):
        # Sections of one file are alike where the music repeats, but no duplicates.
        if songs[one].path != songs[other].path:
            others.setdefault(one, []).append(other)
            others.setdefault(other, []).append(one)
    found = list(reports)
    for number, same in others.items():
        names = " and ".join(repr(reports[other].name) for other in sorted(same))
        found[number] = replace(reports[number], warnings=(
            *reports[number].warnings, f"It is the same recording as {names}: keep one, or it counts twice."))
    return found


def _to_json(report: SongReport) -> dict[str, Any]:
    """Convert a report; -inf becomes null, as JSON has no infinity."""
    return {name: None if value == -math.inf else value for name, value in asdict(report).items()}


def _from_json(values: strict_json.Json) -> SongReport:
    where = "the cached report"
    fields = strict_json.as_object(values, where)
    silent = {name for name in ("peak_db", "loudness") if fields.get(name) is None}
    report = parse(fields | dict.fromkeys(silent, 0.0), SongReport, where)
    return replace(report, peak_db=-math.inf if "peak_db" in silent else report.peak_db,
                   loudness=-math.inf if "loudness" in silent else report.loudness)
