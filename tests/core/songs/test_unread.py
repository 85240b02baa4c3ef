"""Every text among songs is read or noticed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.songs.files import find_files, sidecars_of
from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.sidecar_writer import sidecars_of_song, write_sidecar
from sidestep_core.songs.sidecars import SIDECARS
from sidestep_core.songs.song import SongFolder
from sidestep_core.songs.unread import unread
from tests.growth import MOST, growth
from tests.song_folders import put, song_in, write

NOTES = "caption: warm lo-fi\nbpm: 90\nlyrics:\n[Verse]\nRain\n"


NAME = st.text("aA .e\u0301\u00e9_\u3000\u00dfs", min_size=1, max_size=4).filter(lambda name: not name.startswith("."))
SONG = st.builds(str.__add__, NAME, st.sampled_from([".wav", ".mp3", ".WAV"]))
NOTE = st.tuples(st.sampled_from(["", "", "captions/", "Lyrics/", "notes/"]), NAME,
                 st.sampled_from([*SIDECARS, ".TXT", ".wav.txt", ".mp3.txt", ".wav"])).map("".join)


def shown(found: SongFolder) -> str:
    """Everything that a person sees of the songs."""
    lines = [f"{problem.name}: {problem.reason}" for problem in (*found.notices, *found.problems)]
    return "\n".join([*map(repr, found.songs), *lines])


@pytest.mark.parametrize("file", [
    "Song.wav.txt", "song.txt", "SONG.TXT", "captions/Song.txt", "Captions/song.wav.txt", "notes/Song.txt",
    "lyrics/Song.txt", "txt/Song.txt", "Song.caption.txt", "song_LYRICS.txt", " Song.txt",
])
def test_sidecar_in_any_place(tmp_path: Path, file: str) -> None:
    write(tmp_path / "Song.wav")
    write(tmp_path / file, NOTES)
    song = song_in(tmp_path)
    assert (song.caption, song.bpm, song.lyrics) == ("warm lo-fi", 90, "[Verse]\nRain")
    assert find_songs(tmp_path).notices == ()
    assert write_sidecar(song, {"caption": "cold", "lyrics": "Snow"}) == tmp_path / file
    assert sorted(path.name for path in tmp_path.rglob("*") if path.suffix.lower() == ".txt") == [Path(file).name]
    assert (song_in(tmp_path).caption, song_in(tmp_path).bpm, song_in(tmp_path).lyrics) == ("cold", 90, "Snow")


def test_folder_settles_plain_text(tmp_path: Path) -> None:
    write(tmp_path / "Song.wav")
    write(tmp_path / "captions" / "Song.txt", "short\n" * 9)
    write(tmp_path / "lyrics" / "Song.txt", "la")
    assert (song_in(tmp_path).caption, song_in(tmp_path).lyrics) == (" ".join(["short"] * 9), "la")


@pytest.mark.parametrize(("files", "unread"), [
    (["Song.txt", "song.txt"], ["song.txt"]), (["song.txt", "SONG.txt"], ["SONG.txt", "song.txt"]),
    (["Song.txt", "Song.wav.txt"], ["Song.wav.txt"]), (["notes/Song.txt", "txt/Song.txt"], ["txt/Song.txt"]),
    (["old/Song.txt"], ["old/Song.txt"]), (["Sung.lrc"], ["Sung.lrc"]),
    (["Song.srt"], ["Song.srt"]), (["captions/Sung.txt"], ["captions/Sung.txt"]),
    (["Song.yaml", "notes.md", "LICENSE"], ["LICENSE", "Song.yaml", "notes.md"]),
    (["Song.txt.bak", "Thumbs.db", "cover.jpg", ".hidden.txt"], []),
])
def test_unread_file_is_noticed(tmp_path: Path, files: list[str], unread: list[str]) -> None:
    write(tmp_path / "Song.wav")
    for file in files:
        write(tmp_path / file, "\0\0" if file == "cover.jpg" else f"caption: {file}\n")
    found = find_songs(tmp_path)
    assert [notice.name for notice in found.notices] == unread
    assert all("It is not read" in notice.reason and "Song" in notice.reason for notice in found.notices)


def test_same_spelling_shares_nothing(tmp_path: Path) -> None:
    for song in ("Song.wav", "SONG.wav"):
        write(tmp_path / song)
    write(tmp_path / "song.txt", NOTES)
    found = find_songs(tmp_path)
    assert [song.caption for song in found.songs] == ["", ""]
    assert [notice.name for notice in found.notices] == ["song.txt"]


def test_unread_files_share_a_notice(tmp_path: Path) -> None:
    write(tmp_path / "Song.wav")
    for number in range(100):
        write(tmp_path / f"{number:03}.md", "words")
    notices = find_songs(tmp_path).notices
    assert len(notices) == 6
    assert "nor are 006.md, 007.md" in notices[5].reason
    assert "and 75 more" in notices[5].reason


def test_unknown_key_is_noticed_once(tmp_path: Path) -> None:
    for number in range(9):
        write(tmp_path / f"{number}.wav")
        write(tmp_path / f"{number}.txt", f"caption: c\nbpm: 90\ncaptoin: {number}\n")
    [notice] = find_songs(tmp_path).notices
    assert (notice.name, notice.reason) == (
        "0.wav", "0.txt line 3 says captoin: '0', which is not used, as nothing is called so. The nearest is caption. "
                 "There are 8 more of this name.")


ROW = {"file_name": "Song.wav", "text": "warm lo-fi", "bpm": 90}


@pytest.mark.parametrize("folder", ["", "lists/"])
@pytest.mark.parametrize(("file", "content"), [
    ("metadata.jsonl", json.dumps(ROW)), ("train.jsonl", f"\n{json.dumps(ROW)}\n\n"),
    ("metadata.csv", "file_name,text,bpm\nSong.wav,warm lo-fi,90\n"),
    ("my songs.tsv", "song\tprompt\tbpm\nSong\twarm lo-fi\t90\n"),
    ("metadata.csv", "sep=;\r\nfile;caption;bpm\r\nSong.wav;warm lo-fi;90\r\n"),
    ("captions.csv", "file|caption|bpm\nSONG.WAV|warm lo-fi|90\n"),
    ("my_lora_dataset.json", json.dumps({"samples": [{"audio_path": "Song.wav", "caption": "warm lo-fi", "bpm": 90}]})),
    ("a.json", json.dumps([ROW])), ("b.json", json.dumps({"data": [ROW]})),
    ("c.json", json.dumps({"Song.wav": {"caption": "warm lo-fi", "bpm": 90}})),
])  # fmt: skip
def test_a_list_of_any_name(tmp_path: Path, folder: str, file: str, content: str) -> None:
    write(tmp_path / folder / "Song.wav")
    write(tmp_path / folder / file, content)
    song = song_in(tmp_path)
    assert (song.caption, song.bpm) == ("warm lo-fi", 90)
    assert find_songs(tmp_path).notices == ()


def test_contradicting_lists_are_noticed(tmp_path: Path) -> None:
    put(tmp_path, Song__wav="x", a__csv="file,caption\nSong.wav,one\n",
        b__json='[{"file": "Song.wav", "caption": "two"}]')
    assert song_in(tmp_path).caption == "two"
    [notice] = find_songs(tmp_path).notices
    assert "b.json sample 1 says 'two', which counts; another list says 'one'" in notice.reason


KEYS = st.sampled_from(["caption", "prompt", "style", "mood", "title", "Tempo", "genre", "lyrics", "raw_lyrics", "text",
                        "language", "notes", "key", "custom_tag", "instruments"])
FILES = st.sampled_from(["{}.txt", "Song.{}", "captions/{}.txt", "Song.{}.txt", "{}.json", "{}.csv", "{}.jsonl",
                         "{}.md",
                         "deep/down/{}.yaml", "{}", "Song_{}.txt", "{}/Song.txt", "song.wav.{}"])


@given(name=FILES, text=st.sampled_from(["", "words", NOTES, "{}", "[1]", "a,b\n1,2\n", "\ufeff"]))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_no_file_is_lost(tmp_path_factory: pytest.TempPathFactory, name: str, text: str) -> None:
    folder = tmp_path_factory.mktemp("songs")
    write(folder / "Song.wav")
    write(folder / name.format("zxqmarker"), text or "x")
    found = find_songs(folder)
    assert "zxqmarker" in shown(found) or text == NOTES and found.songs[0].caption == "warm lo-fi"


@given(place=st.sampled_from(["line", "tag", "json", "sample", "csv", "jsonl", "heading", "bold", "below", "metadata"]),
       key=KEYS, others=st.dictionaries(KEYS.filter(lambda key: key != "Tempo"), st.just("other"), max_size=3))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_no_field_is_lost(tmp_path_factory: pytest.TempPathFactory, place: str, key: str,
                          others: dict[str, str]) -> None:
    folder = tmp_path_factory.mktemp("songs")
    for song in ("Song.wav", "other.wav"):
        write(folder / song)
    values = {**others, key: "zxqmarker"}
    lines = [f"{name}: {value}" for name, value in values.items()]
    row = {"file": "Song.wav", **values}
    file, content = {
        "line": ("Song.txt", "\n".join(lines)), "json": ("Song.json", json.dumps(values)),
        "tag": ("Song.txt", "".join(f"<{name}>{value}</{name}>" for name, value in values.items()) + "<bpm>3</bpm>"),
        "sample": ("any.json", json.dumps([row])), "jsonl": ("any.jsonl", json.dumps(row)),
        "csv": ("any.csv", f"{','.join(row)}\n{','.join(row.values())}\n"),
        "heading": ("Song.txt", "\n\n".join(f"# {name}\n{value}" for name, value in values.items())),
        "bold": ("Song.txt", "\n".join(f"**{name}:** {value}" for name, value in values.items())),
        "below": ("Song.txt", "lyrics:\n[Verse]\nla\n\n" + "\n".join([*lines, "bpm: 90"])),
        "metadata": ("dataset.json", json.dumps({"metadata": values, "samples": [{"file": "Song.wav"}]})),
    }[place]
    write(folder / file, content)
    found = find_songs(folder)
    refused = any(file in problem.reason for problem in found.problems)
    assert refused or "zxqmarker" in shown(found)


def test_sidecars_of_agrees_with_scan(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", "b.flac", "b_lyrics.wav"):
        write(tmp_path / name)
    for name in ("a.txt", "b_lyrics.txt", "B.caption", "lyrics/b.txt", "captions/b.wav",
                 "captions/b.txt"):
        write(tmp_path / name, "la")
    for song in find_songs(tmp_path).songs:
        write(song.path.with_suffix(".other"), "")
        alone = sidecars_of(song.path)
        assert set(alone.values()) == {
            "a.wav": {"a.txt"}, "b.wav": {"B.caption", "lyrics/b.txt"},
            "b.flac": {"B.caption", "lyrics/b.txt"}, "b_lyrics.wav": {"b_lyrics.txt"}, "captions/b.wav": {"b.txt"},
        }[song.name]


@settings(deadline=None)
@given(songs=st.lists(SONG, min_size=1, max_size=3), notes=st.lists(NOTE, max_size=5))
def test_metadata_is_written_where_read(songs: list[str], notes: list[str]) -> None:
    """Whatever the names: spaces at their ends, other letters, names that two songs share."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (*songs, *notes):
            write(Path(folder) / name)
        found = find_files(Path(folder), lambda name, reason: None)
        assert {name: sidecars_of(file.path) for name, file in found.songs.items()} == {
            name: file.sidecars for name, file in found.songs.items()}


@pytest.mark.parametrize("file", ["name .txt", "captions/name .txt", "captions/name.txt", "name .wav.txt"])
def test_name_ending_in_a_space(tmp_path: Path, file: str) -> None:
    write(tmp_path / "name .wav")
    write(tmp_path / file, NOTES)
    assert write_sidecar(song_in(tmp_path), {"caption": "cold"}) == tmp_path / file
    assert song_in(tmp_path).caption == "cold"


def test_outside_link_is_no_sidecar(tmp_path: Path) -> None:
    music = tmp_path / "music"
    write(music / "album" / "song.wav")
    secret = write(tmp_path / "secret.txt", "caption: secret\nbpm: 77\n")
    (music / "album" / "song.txt").symlink_to(secret)
    (music / "album" / "captions").symlink_to(tmp_path)
    write(music / "texts" / "lyrics.txt", "[Verse]\nla\n")
    (music / "album" / "song.lyrics.txt").symlink_to(music / "texts" / "lyrics.txt")
    [song] = find_songs(music).songs
    assert (song.caption, song.lyrics) == ("", "[Verse]\nla")
    assert sidecars_of_song(song).keys() == {".lyrics.txt"}
    write_sidecar(song, {"caption": "mine"})
    [song] = find_songs(music).songs
    assert (song.caption, song.bpm, song.lyrics) == ("mine", None, "[Verse]\nla")
    assert secret.read_text(encoding="utf-8") == "caption: secret\nbpm: 77\n"
    assert not [path for path in music.rglob("*.bak") if "secret" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("sign", ["\u202e", "\u2067", "\x1b", "\ufffd"])
def test_illegible_name_is_noticed(tmp_path: Path, sign: str) -> None:
    write(tmp_path / f"a{sign}3pm.wav")
    found = find_songs(tmp_path)
    assert [song.name for song in found.songs] == [f"a{sign}3pm.wav"]
    assert f"U+{ord(sign):04X}" in shown(found)


def test_object_under_ignored_name_is_noticed(tmp_path: Path) -> None:
    put(tmp_path, a__wav="x", a__json='{"song": {"caption": "calm"}}')
    [notice] = find_songs(tmp_path).notices
    assert "a.json says song" in notice.reason
    assert "calm" in notice.reason


def test_matching_time_is_linear(tmp_path: Path) -> None:
    for size in (150, 1350):
        for number in range(size):
            put(tmp_path / str(size), **{f"{number}__wav": "x", f"{number}__txt": "x"})
    assert growth(lambda size: find_files(tmp_path / str(size), lambda name, reason: None), 150) < MOST


def test_notice_time_is_linear(tmp_path: Path) -> None:
    def told(size: int) -> None:
        assert len(list(unread([f"{number}.{ending}" for number in range(size) for ending in ("txt", "bin")], [], {},
                               tmp_path))) == 6

    assert growth(told, 1000) < MOST


def test_unknown_names_share_a_notice(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    names = {f"key {number} {'k' * 1000}": "x" for number in range(500)}
    (tmp_path / "dataset.json").write_text(json.dumps([{"audio_path": "a.wav", **names}]), encoding="utf-8")
    notices = [notice.reason for notice in find_songs(tmp_path).notices]
    assert len(notices) == 51
    assert "says 450 more names that mean nothing, such as key 50 k" in notices[-1]
    assert max(map(len, notices)) < 500


def test_reading_lists_can_be_stopped(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    for number in range(9):
        write(tmp_path / f"{number}.json", "{}")
    ticks: list[int] = []
    find_songs(tmp_path, lambda: ticks.append(1))
    assert len(ticks) > 9
