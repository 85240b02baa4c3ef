"""Written metadata is read back as intended, and everything else stays as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidestep_core.config import TriggerPosition
from sidestep_core.errors import DatasetError
from sidestep_core.io.text import bad_character, mojibake
from sidestep_core.songs.files import sidecars_of
from sidestep_core.songs.metadata import SongMetadata, validated
from sidestep_core.songs.sidecar_writer import _candidates, edited, write_sidecar
from sidestep_core.songs.sidecars import SIDECARS, Sidecars, SidecarText, parse_sidecars, read_sidecars
from sidestep_core.songs.song import Song
from tests.song_folders import put, write

PIECES = ["bpm: 3", "caption: x", "lyrics:", "[verse]", "# comment", "<BPM>", "</CAPTION>", "<LYRICS>", "\ufeff",
          "\r\n", "\r", "\n", "\n\n", "\0", "\x1b", "\x0b", "\x85", "\u2028", "\U0001f3b5", "\u05e9\u05dc\u05d5\u05dd",
          "e\u0301", "{", "\"", "\\", "key:", "\n\nbpm: 3",
          "**Caption:** ", "# Lyrics", "```", "bpm\uff1a3", "style: x", "text: y",
          "is_instrumental: true", "n/a", " ", "a", "one short line\n" * 5,
          "mood: blue", "-" * 70]
TEXT = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=8).map("".join)
LEGIBLE = TEXT.map(lambda text: "".join(sign for sign in text if not bad_character(sign))).filter(
    lambda text: not mojibake(text) and not mojibake(text.strip()))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "caption": LEGIBLE, "lyrics": LEGIBLE, "genre": LEGIBLE, "key": LEGIBLE, "signature": LEGIBLE,
    "trigger_word": LEGIBLE, "language": LEGIBLE,
    "bpm": st.integers(0, 999) | st.none(), "repeats": st.integers(1, 1000), "instrumental": st.booleans(),
    "prompt_override": st.sampled_from(["", "caption", "genre"]),
    "trigger_position": st.sampled_from(get_args(TriggerPosition)),
}  # fmt: skip
NOTES = st.fixed_dictionaries({}, optional=FIELDS)
CHECKED = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def kept(notes: SongMetadata) -> dict[str, Any]:
    """Metadata as validated, without removed fields."""
    return {name: value for name, value in validated(notes).items() if value is not None}


def beside(song: Path) -> dict[str, Any]:
    return dict(parse_sidecars(read_sidecars(song.parent, sidecars_of(song))))


def song_at(folder: Path) -> Song:
    return Song(path=write(folder / "song.wav"), name="song.wav")


@given(notes=NOTES)
@CHECKED
@example({"caption": "# not a comment", "lyrics": "# sung\nbpm: 3\n[verse]"})
@example({"caption": "a\nb\r\nc", "lyrics": "\ufeffone\r\ntwo\rthree"})
@example({"caption": "```", "lyrics": "```\nla\n\nbpm: 3", "genre": "---"})
@example({"caption": "**Caption:** a", "lyrics": "# Caption\n\n# Caption\n**bpm**: 3", "genre": "key\uff1aC"})
@example({"caption": "", "lyrics": ""})
def test_written_metadata_is_read_back(tmp_path_factory: pytest.TempPathFactory, notes: SongMetadata) -> None:
    song = song_at(tmp_path_factory.mktemp("songs"))
    write_sidecar(song, notes)
    assert beside(song.path) == kept(notes)


FILES = st.dictionaries(st.sampled_from([suffix for suffix in SIDECARS if suffix != ".json"]), TEXT, max_size=4)


def readable(files: dict[str, str]) -> Sidecars | None:
    """Sidecars as read from disk, or None where they are invalid."""
    sidecars = {suffix: SidecarText(f"song{suffix}", text.replace("\r\n", "\n").replace("\r", "\n"))
                for suffix, text in files.items()}
    try:
        parse_sidecars(sidecars)
    except DatasetError:
        return None
    return sidecars


@given(files=FILES, values=st.none() | NOTES, notes=NOTES)
@example(files={".caption": "BPM:1"}, values=None, notes={"bpm": 0})
@CHECKED
def test_only_changed_fields_change(files: dict[str, str], values: SongMetadata | None,
                                        notes: SongMetadata) -> None:
    if values is not None:
        files = {**files, ".json": json.dumps({**kept(values), "mood": "blue"})}
    sidecars = readable(files)
    if sidecars is None:
        return
    expected = dict(parse_sidecars(sidecars))
    for field, value in validated(notes).items():
        sidecars = edited(sidecars, "song", field, value)
        expected = {name: said for name, said in {**expected, field: value}.items() if said is not None}
        assert parse_sidecars(sidecars) == expected
    if values is not None:
        assert json.loads(sidecars[".json"].text)["mood"] == "blue"


def test_untried_candidate_is_misread() -> None:
    """The twin of the two above: the first way to say it would do in most cases, and not in this one."""
    plain = {".txt": SidecarText("song.txt", "calm")}
    untried = next(_candidates(plain, "song", "caption", "# 1 hit"))
    assert parse_sidecars(untried) == {}
    assert parse_sidecars(edited(plain, "song", "caption", "# 1 hit")) == {"caption": "# 1 hit"}


def after(folder: Path, notes: SongMetadata, **files: str) -> dict[str, str]:
    """Sidecars after writing the metadata, without backups."""
    put(folder, **files)
    write_sidecar(song_at(folder), notes)
    return {path.name: path.read_bytes().decode() for path in folder.iterdir() if path.suffix not in (".wav", ".bak")}


KEYED = "# mine\ncaption: old\n# why\nand long\nTempo : 90\nmood: blue\n\nlyrics:\n[Verse]\nbpm: sung\n"


@pytest.mark.parametrize(("notes", "expected"), [
    ({"bpm": 91}, KEYED.replace("Tempo : 90", "Tempo: 91")),
    ({"caption": "new"}, KEYED.replace("old\n# why\nand long", "new\n# why")),
    ({"caption": "# 1 hit"}, KEYED.replace("old\n# why\nand long", "# 1 hit\n# why")),
    ({"lyrics": "la\nla"}, KEYED.replace("[Verse]\nbpm: sung", "la\nla")),
    ({"key": "A minor", "instrumental": True},
     KEYED.replace("lyrics:", "key: A minor\nis_instrumental: true\nlyrics:")),
    ({"bpm": None}, KEYED.replace("Tempo : 90", "Tempo:")),
    ({"bpm": 90, "caption": "old and long"}, KEYED),
])  # fmt: skip
def test_other_lines_stay_as_typed(tmp_path: Path, notes: SongMetadata, expected: str) -> None:
    found = after(tmp_path, notes, song__txt=KEYED)
    assert found == {"song.txt": expected}
    assert (tmp_path / "song.txt.bak").exists() == (expected != KEYED)


TAGS = "<CAPTION>old</CAPTION>\nby me\n<BPM>80\n<LYRICS>la\n"


@pytest.mark.parametrize(("notes", "expected"), [
    ({"caption": "new", "bpm": 81}, {"song.txt": TAGS.replace("old", "new").replace("80", "81</BPM>")}),
    ({"key": "C major"}, {"song.txt": f"{TAGS}<KEYSCALE>C major</KEYSCALE>\n"}),
    ({"caption": "a </CAPTION>"}, {"song.txt": TAGS.replace("old", ""), "song.caption.txt": "a </CAPTION>\n"}),
])  # fmt: skip
def test_tags_stay_tags(tmp_path: Path, notes: SongMetadata, expected: dict[str, str]) -> None:
    assert after(tmp_path, notes, song__txt=TAGS) == expected


@pytest.mark.parametrize(("files", "notes", "expected"), [
    ({}, {"caption": "calm", "bpm": 90, "lyrics": "la"}, {"song.txt": "caption: calm\nbpm: 90\nlyrics:\nla\n"}),
    ({"song__txt": "calm\n"}, {"caption": "wild"}, {"song.txt": "wild\n"}),
    ({"song__txt": "# mine\ncalm"}, {"bpm": 90}, {"song.txt": "# mine\ncalm\nbpm: 90\n"}),
    ({"song__txt": "calm"}, {"caption": "#1"}, {"song.txt": "caption: #1\n"}),
    ({"song__txt": "[Verse]\nla"}, {"caption": "calm"}, {"song.txt": "[Verse]\nla", "song.caption.txt": "calm\n"}),
    ({"song__txt": "[Verse]\nla"}, {"bpm": 90}, {"song.txt": "[Verse]\nla", "song.json": '{\n  "bpm": 90\n}\n'}),
    ({"song_lyrics__txt": "la"}, {"lyrics": "[Verse]\nbpm: 3"}, {"song_lyrics.txt": "[Verse]\nbpm: 3\n"}),
    ({"song__lyrics__txt": "la", "song__txt": "calm"}, {"lyrics": "ho"},
     {"song.lyrics.txt": "ho\n", "song.txt": "calm"}),
    ({"song__caption__txt": "# mine\na\nb"}, {"caption": "new"}, {"song.caption.txt": "# mine\nnew\n"}),
    ({"song__json": '{"caption": "a", "mood": 1.5, "keyscale": "C major"}'},
     {"caption": "b", "key": "", "trigger_word": "t"},
     {"song.json": '{\n  "caption": "b",\n  "mood": 1.5\n}\n', "song.txt": "custom_tag: t\n"}),
    ({"song__caption__txt": "calm", "song__txt": "la\n"}, {"caption": ""},
     {"song.caption.txt": "", "song.txt": "lyrics:\nla\n"}),
])  # fmt: skip
def test_form_of_each_file_stays(tmp_path: Path, files: dict[str, str], notes: SongMetadata,
                                 expected: dict[str, str]) -> None:
    assert after(tmp_path, notes, **files) == expected


def test_line_ends_and_bom_stay(tmp_path: Path) -> None:
    found = after(tmp_path, {"bpm": 91}, song__txt="\ufeffcaption: calm\r\nbpm: 90\r\n")
    assert found == {"song.txt": "\ufeffcaption: calm\r\nbpm: 91\r\n"}
    assert (tmp_path / "song.txt.bak").read_bytes() == "\ufeffcaption: calm\r\nbpm: 90\r\n".encode()


def test_backup_is_previous_content(tmp_path: Path) -> None:
    song = song_at(tmp_path)
    assert write_sidecar(song, {"bpm": 90}) == tmp_path / "song.txt"
    assert not (tmp_path / "song.txt.bak").exists()
    for bpm in (91, 92, 92):
        write_sidecar(song, {"bpm": bpm})
    assert (tmp_path / "song.txt.bak").read_text(encoding="utf-8") == "bpm: 91\n"
    assert (tmp_path / "song.txt").read_text(encoding="utf-8") == "bpm: 92\n"


@pytest.mark.parametrize(("notes", "named"), [
    ({"caption": "new", "bpm": 4000}, "bpm must be beats per minute from 1 to 999, got 4000"),
    ({"caption": "new", "lyrics": "\ud800"}, "lyrics is not valid Unicode"),
    ({"caption": "new", "genre": "Caf\ufffd"}, "genre holds the character U\\+FFFD"),
    ({"caption": "new", "lyrics": "la\0"}, "lyrics holds the character U\\+0000"),
    ({"caption": "\u202ewen"}, r"caption holds the hidden character U\+202E"),
    ({"caption": "new", "repeats": 0}, "repeats must be a whole number from 1 to 1000, got 0"),
    ({"caption": "new", "prompt_override": "both"}, "prompt_override must be caption or genre, got 'both'"),
])  # fmt: skip
def test_invalid_value_writes_nothing(tmp_path: Path, notes: Any, named: str) -> None:
    song = song_at(tmp_path)
    with pytest.raises(DatasetError, match=named):
        write_sidecar(song, notes)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


def test_unreadable_sidecar_is_not_overwritten(tmp_path: Path) -> None:
    song = song_at(tmp_path)
    (tmp_path / "song.txt").write_bytes("d\u00e9j\u00e0".encode("cp1252"))
    with pytest.raises(DatasetError, match=r"song\.txt line 1 is not UTF-8"):
        write_sidecar(song, {"bpm": 90})
    assert (tmp_path / "song.txt").read_bytes() == b"d\xe9j\xe0"


def test_sections_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is a section of song\.wav"):
        write_sidecar(Song(path=tmp_path / "song.wav", name="song.wav [1]", stop=9.0), {"bpm": 90})
