"""A table that opens in any spreadsheet, and computes nothing there."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from sidestep_core.songs.report import Estimated, SongReport
from sidestep_core.songs.report_csv import COLUMNS, write_report
from sidestep_core.songs.song import Problem, Song, SongFolder


def report(name: str, **values: object) -> SongReport:
    facts: dict[str, object] = {
        "name": name, "seconds": 61.5, "sample_rate": 44_100, "channels": 2, "peak_db": -1.25, "loudness": -14.5,
        "clipped": 0.0, "silent": 0.25, "mono": False, "fingerprint": "00ff", **values}
    return SongReport(**facts)  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_every_column_is_written(tmp_path: Path) -> None:
    song = Song(path=tmp_path / "a.wav", name="\u97f3\u697d/a.wav", caption='soft, "warm"', lyrics="[Verse]\none",
                bpm=90, key="C minor", signature="3/4", genre="g", trigger_word="t", repeats=2, start=1.5, stop=63.0)
    heard = report(song.name, bpm=Estimated(value="91", confidence=0.876),
                   key=Estimated(value="C minor", confidence=0.5), signature=Estimated(value="3/4", confidence=0.1),
                   warnings=("One.", "Two."))
    found = SongFolder(folder=tmp_path, songs=(song, Song(path=tmp_path / "b.wav", name="b.wav")), reports=(heard,),
                       problems=(Problem(name="c.wav", reason="It is empty."),))
    path = tmp_path / "out" / "songs.csv"
    write_report(found, path)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfname,")
    one, two, three = rows(path)
    assert tuple(one) == COLUMNS
    assert one == {
        "name": "\u97f3\u697d/a.wav", "start": "1.5", "stop": "63.0", "caption": 'soft, "warm"',
        "lyrics": "[Verse]\none", "language": "unknown", "bpm": "90", "key": "C minor", "signature": "3/4",
        "genre": "g", "trigger_word": "t", "repeats": "2",
        "estimated_bpm": "91", "estimated_bpm_confidence": "0.88",
        "estimated_key": "C minor", "estimated_key_confidence": "0.5",
        "estimated_signature": "3/4", "estimated_signature_confidence": "0.1",
        "seconds": "61.5", "sample_rate": "44100", "channels": "2", "peak_dbfs": "-1.25", "loudness_lufs": "-14.5",
        "clipped_share": "0.0", "silent_share": "0.25", "mono": "no", "warnings": "One. Two.", "problem": ""}
    assert two["name"] == "b.wav"
    assert {two[column] for column in COLUMNS[12:]} == {""}
    assert (three["name"], three["problem"]) == ("c.wav", "It is empty.")


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", " =1", "\r=1"])
def test_formulas_are_text(tmp_path: Path, text: str) -> None:
    song = Song(path=tmp_path / "a.wav", name=f"{text}.wav", caption=text, lyrics=text)
    write_report(SongFolder(folder=tmp_path, songs=(song,), problems=(Problem(name=text, reason=text),)),
                 tmp_path / "a.csv")
    one, two = rows(tmp_path / "a.csv")
    assert one["caption"] == one["lyrics"] == two["problem"] == two["name"] == f"'{text}"
    assert one["name"] == f"'{text}.wav"


def test_silence_has_no_number(tmp_path: Path) -> None:
    song = Song(path=tmp_path / "a.wav", name="a.wav")
    heard = report("a.wav", peak_db=-math.inf, loudness=-math.inf, mono=True)
    write_report(SongFolder(folder=tmp_path, songs=(song,), problems=(), reports=(heard,)), tmp_path / "a.csv")
    assert rows(tmp_path / "a.csv")[0]["loudness_lufs"] == "silent"
    assert rows(tmp_path / "a.csv")[0]["mono"] == "yes"
