"""Every way in which a folder can be untidy, and the tables that describe whole folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sidestep_core.errors import DatasetError
from sidestep_core.songs import Song, _Found, _song, find_songs
from tests.song_folders import names, put, song_in, write


def test_a_bare_song_is_instrumental_and_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "song.wav")
    assert song_in(tmp_path) == Song(path=path, name="song.wav")
    assert song_in(tmp_path).language == "unknown"
    assert song_in(tmp_path).path.is_absolute()


@pytest.mark.parametrize("as_list", [True, False])
def test_dataset_json(tmp_path: Path, as_list: bool) -> None:
    write(tmp_path / "a" / "song.wav")
    write(tmp_path / "b" / "song.wav")
    samples = [
        {"audio_path": "b/song.wav", "caption": "second", "bpm": None, "is_instrumental": True, "lyrics": "no"},
        {"audio_path": "./a/song.wav", "filename": "song.wav", "caption": "first", "genre": "folk", "lyrics": "yes",
         "is_instrumental": False, "prompt_override": "genre", "custom_tag": "mine", "repeat": 3}]
    content = samples if as_list else {"metadata": {"custom_tag": "ours"}, "samples": samples}
    write(tmp_path / "dataset.json", json.dumps(content))
    first, second = find_songs(tmp_path).songs
    assert (first.name, first.caption, first.lyrics, first.tag) == ("a/song.wav", "folk", "yes", "mine")
    assert (second.name, second.caption, second.lyrics) == ("b/song.wav", "second", "")
    assert second.tag == ("" if as_list else "ours")


def test_absolute_paths_of_another_computer(tmp_path: Path) -> None:
    for name in ("disc1/01.wav", "disc2/01.wav", "deep/inside/solo.wav"):
        write(tmp_path / name)
    paths = [r"D:\Music\album\disc2\01.wav", "/home/her/album/disc1/01.wav", r"\\server\share\solo.wav"]
    samples = [{"audio_path": path, "caption": path} for path in paths]
    write(tmp_path / "dataset.json", json.dumps(samples))
    captions = {song.name: song.caption for song in find_songs(tmp_path).songs}
    assert captions == {"disc2/01.wav": paths[0], "disc1/01.wav": paths[1], "deep/inside/solo.wav": paths[2]}


def test_a_song_that_is_gone_does_not_give_its_notes_to_another(tmp_path: Path) -> None:
    write(tmp_path / "a" / "song.wav")
    samples = [{"audio_path": "/x/b/song.wav", "caption": "wrong"}, {"audio_path": "/x/a/song.wav", "caption": "right"},
               {"audio_path": "b/song.wav", "caption": "wrong"}, {"audio_path": "a/song.wav", "caption": "twice"}]
    write(tmp_path / "dataset.json", json.dumps(samples))
    scan = find_songs(tmp_path)
    assert [song.caption for song in scan.songs] == ["right"]
    assert [problem.name for problem in scan.problems] == [f"dataset.json sample {number}" for number in (1, 3, 4)]


def test_a_relative_path_means_one_place(tmp_path: Path) -> None:
    write(tmp_path / "a" / "song.wav")
    write(tmp_path / "dataset.json", '[{"audio_path": "b/song.wav", "caption": "wrong"}]')
    scan = find_songs(tmp_path)
    assert [song.caption for song in scan.songs] == [""]
    assert "'b/song.wav', which is not in the folder" in scan.problems[0].reason


def test_a_file_name_that_two_songs_share_names_neither(tmp_path: Path) -> None:
    write(tmp_path / "a" / "song.wav")
    write(tmp_path / "b" / "song.wav")
    write(tmp_path / "metadata.csv", "file,bpm\nsong.wav,90\n")
    scan = find_songs(tmp_path)
    assert [song.bpm for song in scan.songs] == [None, None]
    assert "'song.wav'" in scan.problems[0].reason


@pytest.mark.parametrize("table", [
    "File,Artist,BPM,Key,Caption\nsong.wav,me,120.4,A minor,\"calm, slow\"\n",
    "filename;bpm;keyscale;caption\r\n.\\song.wav;120;A minor;calm, slow\r\n",
    "\ufefffile_name\tBPM\tKey\tCaption\nsong.wav\t120\tA minor\tcalm, slow\n",
])
@pytest.mark.parametrize("name", ["metadata.csv", "key_bpm.csv"])
def test_tables(tmp_path: Path, name: str, table: str) -> None:
    write(tmp_path / "song.wav")
    write(tmp_path / name, table)
    song = song_in(tmp_path)
    assert (song.bpm, song.key, song.caption) == (120, "A minor", "calm, slow")


def test_sidecar_over_dataset_over_table(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", song__txt="caption: sidecar\n", song__json='{"caption": "json", "language": "fr"}',
        dataset__json='[{"audio_path": "song.wav", "caption": "dataset", "bpm": 100, "language": "en"}]',
        metadata__csv="file,caption,bpm,key\nsong.wav,table,80,C major\n", key_bpm__csv="file,key\nsong.wav,D major\n")
    song = song_in(tmp_path)
    assert (song.caption, song.language, song.bpm, song.key) == ("sidecar", "fr", 100, "C major")


@pytest.mark.parametrize(("files", "expected"), [
    ({"dataset__json": "{"}, "dataset.json line 1 is not valid JSON"),
    ({"dataset__json": '{"songs": []}'}, "dataset.json must hold a list of samples"),
    ({"dataset__json": '[{"caption": "x"}]'}, "dataset.json sample 1 has no audio_path"),
    ({"metadata__csv": "a,b\n1,2\n"}, "metadata.csv has no column 'file'"),
    ({"metadata__csv": "file,caption\nsong.wav,calm, slow\n"}, "metadata.csv line 2 has more cells than line 1"),
])
def test_a_broken_table_is_an_error_for_all(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    put(tmp_path, song__wav="x", **files)
    with pytest.raises(DatasetError, match=expected):
        find_songs(tmp_path)


def test_two_songs_of_one_name_keep_their_own_notes(tmp_path: Path) -> None:
    for folder in "ab":
        put(tmp_path / folder, song__wav="x", song__txt=f"caption: {folder}")
    write(tmp_path / "a" / "song.mp3")
    assert [(song.name, song.caption) for song in find_songs(tmp_path).songs] == [
        ("a/song.mp3", "a"), ("a/song.wav", "a"), ("b/song.wav", "b")]


def test_hidden_files_and_folders_are_no_songs(tmp_path: Path) -> None:
    for name in ("song.wav", "._song.wav", ".hidden.wav", "__MACOSX/song.wav", ".git/song.wav", "sub/LOUD.WAV"):
        write(tmp_path / name)
    write(tmp_path / "._song.txt", "caption: not this")
    scan = find_songs(tmp_path)
    assert names(scan) == ["song.wav", "sub/LOUD.WAV"]
    assert scan.songs[0].caption == ""


def test_empty_and_missing_files_are_problems(tmp_path: Path) -> None:
    put(tmp_path, good__wav="x", empty__wav="")
    (tmp_path / "link.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "self.wav").symlink_to(tmp_path / "self.wav")
    scan = find_songs(tmp_path)
    assert names(scan) == ["good.wav"]
    assert [problem.name for problem in scan.problems] == ["empty.wav", "link.wav", "self.wav"]
    assert "empty (0 bytes)" in scan.problems[0].reason


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    music = tmp_path / "music"
    write(music / "song.wav")
    write(tmp_path / "elsewhere" / "other.wav")
    (music / "link").symlink_to(tmp_path / "elsewhere")
    (music / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(music)
    scan = find_songs(music)
    assert len(scan.songs) == 2
    assert {song.path.name for song in scan.songs} == {"song.wav", "other.wav"}


def test_names_of_any_kind(tmp_path: Path) -> None:
    odd = ["\U0001f3b5.wav", "\u05e9\u05dc\u05d5\u05dd.wav", "01. a (b) [c].wav", "e\u0301.wav"]
    if sys.platform != "win32":
        odd.append("new\nline.wav")
    for name in odd:
        write(tmp_path / name)
        write(tmp_path / name.replace(".wav", ".txt"), f"caption: {name.encode().hex()}")
    write(tmp_path / "metadata.csv", "file,bpm\n\u00e9.wav,77\n")
    scan = find_songs(tmp_path)
    assert {song.name: song.caption for song in scan.songs} == {name: name.encode().hex() for name in odd}
    assert [song.bpm for song in scan.songs if song.bpm] == [77]
    assert scan.problems == ()


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    """Straight at the function, as most systems refuse to make such a file."""
    path = write(tmp_path / "song.wav")
    assert _song("song.wav", _Found(path=path, sidecars={}), []).name == "song.wav"
    with pytest.raises(DatasetError, match="not valid Unicode"):
        _song("\udcff.wav", _Found(path=path, sidecars={}), [])


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere does not exist"):
        find_songs(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"notes\.txt is not a folder"):
        find_songs(write(tmp_path / "notes.txt"))
    with pytest.raises(DatasetError, match=r"Looked for .*\.flac .*; found 1 x \.txt"):
        find_songs(tmp_path)
    write(tmp_path / "empty.wav", "")
    with pytest.raises(DatasetError, match=r"No song in .* can be used\. empty\.wav: It is empty"):
        find_songs(tmp_path)
