"""Every way in which a folder can be untidy, and the tables that describe whole folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sidestep_core.errors import DatasetError
from sidestep_core.io import walk
from sidestep_core.progress import Cancelled
from sidestep_core.songs import lists
from sidestep_core.songs.scan import _require_usable, find_songs
from sidestep_core.songs.sidecar_writer import write_sidecar
from sidestep_core.songs.song import Song
from tests.growth import MOST, growth
from tests.song_folders import names, put, song_in, write


def test_song_without_metadata(tmp_path: Path) -> None:
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
    assert (first.name, first.caption, first.lyrics, first.trigger_word) == ("a/song.wav", "first", "yes", "mine")
    assert (first.genre, first.prompt_override, first.repeats, first.instrumental) == ("folk", "genre", 3, False)
    assert (second.name, second.caption, second.lyrics, second.instrumental) == ("b/song.wav", "second", "no", True)
    assert second.trigger_word == ("" if as_list else "ours")


def test_foreign_absolute_paths(tmp_path: Path) -> None:
    for name in ("disc1/01.wav", "disc2/01.wav", "deep/inside/solo.wav"):
        write(tmp_path / name)
    paths = [r"D:\Music\album\disc2\01.wav", "/home/her/album/disc1/01.wav", r"\\server\share\solo.wav"]
    samples = [{"audio_path": path, "caption": path} for path in paths]
    write(tmp_path / "dataset.json", json.dumps(samples))
    captions = {song.name: song.caption for song in find_songs(tmp_path).songs}
    assert captions == {"disc2/01.wav": paths[0], "disc1/01.wav": paths[1], "deep/inside/solo.wav": paths[2]}


def test_missing_song_keeps_its_metadata(tmp_path: Path) -> None:
    write(tmp_path / "a" / "song.wav")
    samples = [{"audio_path": "/x/b/song.wav", "caption": "wrong"}, {"audio_path": "/x/a/song.wav", "caption": "right"},
               {"audio_path": "b/song.wav", "caption": "wrong"}, {"audio_path": "a/song.wav", "caption": "twice"}]
    write(tmp_path / "dataset.json", json.dumps(samples))
    scan = find_songs(tmp_path)
    assert [song.caption for song in scan.songs] == ["right"]
    assert [problem.name for problem in scan.problems] == [f"dataset.json sample {number}" for number in (1, 3, 4)]


def test_relative_path_means_one_place(tmp_path: Path) -> None:
    write(tmp_path / "a" / "song.wav")
    write(tmp_path / "dataset.json", '[{"audio_path": "b/song.wav", "caption": "wrong"}]')
    scan = find_songs(tmp_path)
    assert [song.caption for song in scan.songs] == [""]
    assert "'b/song.wav', which is not in the folder" in scan.problems[0].reason


def test_ambiguous_file_name_matches_none(tmp_path: Path) -> None:
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


def test_order_of_strength(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", song__txt="caption: sidecar\n", song__json='{"caption": "json", "language": "fr"}',
        dataset__json='[{"audio_path": "song.wav", "caption": "dataset", "bpm": 100, "language": "en"}]',
        metadata__csv="file,caption,bpm,key\nsong.wav,table,80,C major\n", key_bpm__csv="file,key\nsong.wav,D major\n")
    song = song_in(tmp_path)
    assert (song.caption, song.language, song.bpm, song.key) == ("sidecar", "fr", 100, "C major")


@pytest.mark.parametrize(("files", "expected"), [
    ({"dataset__json": "{"}, "dataset.json line 1 is not valid JSON"),
    ({"dataset__json": "[" * 100_000}, "dataset.json is nested too deeply"),
    ({"dataset__json": '{"songs": []}'}, "dataset.json must hold a list of samples"),
    ({"dataset__json": '[{"caption": "x"}]'}, "dataset.json sample 1 has no audio_path"),
    ({"metadata__csv": "a,b\n1,2\n"}, "metadata.csv has no column 'file'"),
    ({"metadata__csv": "song|warm lo-fi\n"}, "metadata.csv has one line only"),
    ({"metadata__csv": "file,caption\nsong.wav,calm, slow\n"}, "metadata.csv line 2 has more cells than line 1"),
])
def test_broken_table_is_an_error(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    put(tmp_path, song__wav="x", **files)
    with pytest.raises(DatasetError, match=expected):
        find_songs(tmp_path)


def test_same_name_in_two_folders(tmp_path: Path) -> None:
    for folder in "ab":
        put(tmp_path / folder, song__wav="x", song__txt=f"caption: {folder}")
    write(tmp_path / "a" / "song.mp3")
    assert [(song.name, song.caption) for song in find_songs(tmp_path).songs] == [
        ("a/song.mp3", "a"), ("a/song.wav", "a"), ("b/song.wav", "b")]


def test_hidden_files_are_skipped(tmp_path: Path) -> None:
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


def test_vanishing_file_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/song.wav", "gone/song.wav", "z/song.wav"):
        write(tmp_path / name)
    scandir = os.scandir

    def vanish(path: Path | int) -> Any:
        if isinstance(path, Path) and path.name == "gone":
            shutil.rmtree(path, ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    scan = find_songs(tmp_path)
    assert names(scan) == ["a/song.wav", "z/song.wav"]
    [problem] = scan.problems
    assert (problem.name, problem.reason) == ("gone", "The folder cannot be read: No such file or directory.")


UNREADABLE = """
import os, pathlib, sys
import av
from sidestep_core.songs.scan import find_songs
if os.geteuid() == 0:
    os.setuid(65534)
scan = find_songs(pathlib.Path(sys.argv[1]))
print([song.name for song in scan.songs])
for problem in scan.problems:
    print(problem.name, "|", problem.reason)
"""


if sys.platform != "win32":  # where chmod does not take reading away
    def test_unreadable_song_is_a_problem(tmp_path: Path) -> None:
        """Run as another user, because root may read everything, in a folder that this user can reach."""
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            root.chmod(0o755)
            for name in ("good.wav", "secret.wav", "noted.wav", "noted.txt", "locked/song.wav"):
                write(root / name)
                (root / name).chmod(0o644)
            for name in ("secret.wav", "noted.txt", "locked"):
                (root / name).chmod(0)
            try:
                run = subprocess.run([sys.executable, "-c", UNREADABLE, place], capture_output=True, text=True,
                                     check=True)
            finally:
                (root / "locked").chmod(0o755)
        assert run.stdout.splitlines() == [
            "['good.wav']",
            "locked | The folder cannot be read: Permission denied.",
            "noted.wav | noted.txt cannot be read: Permission denied.",
            "secret.wav | It cannot be opened: permission denied. Allow your account to read it."]


def test_scan_time_is_linear(tmp_path: Path) -> None:
    def scan(count: int) -> None:
        folder = tmp_path / str(count)
        if not folder.is_dir():
            folder.mkdir()
            for number in range(count):
                (folder / f"{number:05}.wav").write_bytes(b"RIFF\x24\0\0\0WAVE")
                (folder / f"{number:05}.txt").write_text(f"caption: song {number}\n", encoding="utf-8")
        assert len(find_songs(folder).songs) == count

    assert growth(scan, 100) < MOST


# What could be meant in two ways


def test_shared_sidecar_is_noticed(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", song__mp3="x", song__txt="caption: both\n", other__wav="x", other__flac="x")
    scan = find_songs(tmp_path)
    assert [song.caption for song in scan.songs] == ["", "", "both", "both"]
    assert [notice.name for notice in scan.notices] == ["song.mp3", "song.wav"]
    assert "shares song.txt with song.wav" in scan.notices[0].reason
    assert scan.problems == ()


@pytest.mark.parametrize(("files", "told"), [
    ({"song__txt": "caption: first\nbpm: 90\ncaption: second\n"}, "song.txt line 3 says 'second', which counts"),
    ({"song__txt": "keyscale: C major\nkey: A minor\n"}, "song.txt line 2 says 'A minor', which counts"),
    ({"song__txt": "caption: first\n", "song__caption__txt": "second"}, "song.caption.txt says 'second'"),
    ({"song__caption": "first", "song_caption__txt": "second"}, "song_caption.txt says 'second', which counts; before, "
                                                                 "caption was 'first'. Remove one of them."),
    ({"song__json": '{"caption": "first"}', "song__txt": "second\n"}, "song.txt says 'second'"),
    ({"dataset__json": '[{"audio_path": "song.wav", "caption": "first", "Caption": "second"}]'},
     "dataset.json sample 1: Caption says 'second'"),
])  # fmt: skip
def test_duplicate_fields_are_noticed(tmp_path: Path, files: dict[str, str], told: str) -> None:
    put(tmp_path, song__wav="x", **files)
    scan = find_songs(tmp_path)
    [notice] = scan.notices
    assert notice.name == "song.wav"
    assert told in notice.reason
    assert scan.songs[0].caption in ("second", "")


def test_equal_duplicates_are_fine(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", song__json='{"caption": "a  b", "bpm": 90, "tempo": "90.2"}', song__txt="a b\n",
        song__caption__txt="a\nb\n")
    assert find_songs(tmp_path).notices == ()


def test_stronger_lyrics_are_sung(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", dataset__json='[{"audio_path": "song.wav", "is_instrumental": true, "lyrics": ""}]')
    assert song_in(tmp_path).instrumental
    put(tmp_path, song__lyrics__txt="la")
    assert (song_in(tmp_path).lyrics, song_in(tmp_path).instrumental) == ("la", False)
    put(tmp_path, song__txt="is_instrumental: true\n")
    assert (song_in(tmp_path).lyrics, song_in(tmp_path).instrumental) == ("la", True)


@pytest.mark.parametrize(("metadata", "sample", "expected"), [
    ({"custom_tag": "t", "tag_position": "append"}, {}, ("t", "append", False)),
    ({"tag_position": "append"}, {}, ("", None, False)),
    ({"tag_position": "append"}, {"custom_tag": "own"}, ("own", "append", False)),
    ({"custom_tag": "t", "tag_position": "append"}, {"tag_position": "replace"}, ("t", "replace", False)),
    ({"all_instrumental": True}, {}, ("", None, True)),
    ({"all_instrumental": True}, {"is_instrumental": False}, ("", None, False)),
])  # fmt: skip
def test_shared_metadata_of_a_list(tmp_path: Path, metadata: object, sample: dict[str, object],
                                   expected: object) -> None:
    content = {"metadata": metadata, "samples": [{"audio_path": "song.wav", **sample}]}
    put(tmp_path, song__wav="x", dataset__json=json.dumps(content))
    song = song_in(tmp_path)
    assert (song.trigger_word, song.trigger_position, song.instrumental) == expected


def test_genre_ratio_is_percent(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", dataset__json='{"metadata": {"genre_ratio": 25}, "samples": []}')
    assert find_songs(tmp_path).genre_ratio == 0.25
    put(tmp_path, dataset__json='{"samples": []}')
    assert find_songs(tmp_path).genre_ratio == 0


def test_outside_links_are_problems(tmp_path: Path) -> None:
    music = tmp_path / "music"
    write(music / "song.wav")
    write(tmp_path / "elsewhere" / "other.wav")
    (music / "link").symlink_to(tmp_path / "elsewhere")
    (music / "again").symlink_to(tmp_path / "elsewhere")
    (music / "other.wav").symlink_to(tmp_path / "elsewhere" / "other.wav")
    (music / "loop").symlink_to(music)
    (music / "within.wav").symlink_to(music / "song.wav")
    scan = find_songs(music)
    assert names(scan) == ["song.wav", "within.wav"]
    assert [problem.name for problem in scan.problems] == ["again", "link", "other.wav"]
    assert "leads out of the folder" in scan.problems[0].reason


def test_whole_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        write(tmp_path / str(number % 3) / f"{number}.wav")
    ticks: list[int] = []
    monkeypatch.setattr(walk, "TICK_EVERY", 5)
    assert len(find_songs(tmp_path, lambda: ticks.append(1)).songs) == 30
    assert len(ticks) > 6

    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        find_songs(tmp_path, stop)
    monkeypatch.setattr(walk, "MAX_ENTRIES", 20)
    with pytest.raises(DatasetError, match="holds more than 20 files and folders"):
        find_songs(tmp_path)


def test_deep_folders_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "song.wav")
    write(tmp_path / "a" / "b" / "song.wav")
    monkeypatch.setattr(walk, "MAX_DEPTH", 1)
    scan = find_songs(tmp_path)
    assert names(scan) == ["a/song.wav"]
    assert "more than 1 levels down" in scan.problems[0].reason


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


def test_decomposed_names_match_composed_ones(tmp_path: Path) -> None:
    write(tmp_path / "Cafe\u0301.wav")
    write(tmp_path / "Caf\u00e9.txt", "piano")
    write(tmp_path / "Caf\u00e9_lyrics.txt", "la la")
    song = find_songs(tmp_path).songs[0]
    assert (song.caption, song.lyrics) == ("piano", "la la")
    assert write_sidecar(song, {"caption": "organ"}).name == "Caf\u00e9.txt"


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    """Straight at the function, as most systems refuse to make such a file."""
    path = write(tmp_path / "song.wav")
    _require_usable(path, "song.wav")
    with pytest.raises(DatasetError, match="not valid Unicode"):
        _require_usable(path, "\udcff.wav")


@pytest.mark.parametrize("samples", [
    [{"audio_path": "a.wav", "song": "\ud800", "start": 1, "stop": 2}],
    [{"audio_path": "a.wav", "start": 5, "stop": 2}],
    [{"audio_path": "a.wav", "caption": {"x": "y" * 10**6}}],
    [{"audio_path": "a.wav", "song": "x", "start": 1, "stop": 2}, {"audio_path": "a.wav", "song": "x", "start": 2}],
], ids=["name that is no text", "stop before start", "endless value", "one name twice"])
def test_bad_entry_costs_one_song(tmp_path: Path, samples: list[dict[str, Any]]) -> None:
    for name in ("a.wav", "b.wav"):
        write(tmp_path / name)
    (tmp_path / "dataset.json").write_text(json.dumps(samples), encoding="utf-8")
    found = find_songs(tmp_path)
    assert "b.wav" in [song.name for song in found.songs]
    assert [problem.name for problem in found.problems] == ["a.wav"]
    assert len(found.problems[0].reason) < 200


def test_endless_path_is_a_problem(tmp_path: Path) -> None:
    """Each of its ends could be the name of a song: a hundred thousand names, ten gigabytes."""
    write(tmp_path / "a.wav")
    samples = [{"audio_path": "/a" * 100_000 + "/b.wav"}, {"audio_path": "/a" * 100_000 + "/a.wav", "caption": "x"}]
    (tmp_path / "dataset.json").write_text(json.dumps(samples), encoding="utf-8")
    found = find_songs(tmp_path)
    assert [(song.name, song.caption) for song in found.songs] == [("a.wav", "x")]
    assert len(found.problems[0].reason) < 300


@pytest.mark.parametrize(("name", "content"), [
    ("metadata.csv", "file\n" + "a.wav\n" * 8), ("metadata.jsonl", '{"file": "a.wav"}\n' * 8),
    ("dataset.json", json.dumps([{"audio_path": "a.wav"}] * 8)),
])
def test_too_long_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
                                  content: str) -> None:
    monkeypatch.setattr(lists, "MAX_ROWS", 7)
    write(tmp_path / "a.wav")
    write(tmp_path / name, content)
    with pytest.raises(DatasetError, match=f"{name} lists more than 7 songs"):
        find_songs(tmp_path)


def test_too_wide_table_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    write(tmp_path / "metadata.csv", "file" + "".join(f",{number}" for number in range(1000)) + "\na.wav\n")
    with pytest.raises(DatasetError, match=r"metadata.csv has 1001 columns"):
        find_songs(tmp_path)


def test_endless_folder_is_ignored(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    content = {"metadata": {"folder": "/" + "x" * 9999}, "samples": [{"audio_path": "a.wav"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    assert [song.name for song in find_songs(tmp_path / "dataset.json").songs] == ["a.wav"]


def test_forbidden_paths_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, shared = write(tmp_path / "private" / "a.wav"), write(tmp_path / "shared" / "b.wav")
    content = {"metadata": {"folder": str(private.parent)},
               "samples": [{"audio_path": path} for path in ("../private/a.wav", str(private), str(shared), "c\0.wav")]}
    file = write(tmp_path / "list" / "dataset.json", json.dumps(content))
    asked: list[str] = []
    monkeypatch.setattr(Path, "is_file", lambda path: asked.append(str(path)) or os.path.isfile(path))  # noqa: PTH113
    monkeypatch.setattr(Path, "is_dir", lambda path: asked.append(str(path)) or os.path.isdir(path))  # noqa: PTH112
    found = find_songs(file, may_read=lambda path: not path.is_relative_to(private.parent))
    assert [song.path for song in found.songs] == [shared]
    assert len(found.problems) == 3
    assert str(shared) in asked
    assert not [path for path in asked if path.startswith(str(private.parent))]


@pytest.mark.parametrize(("start", "stop"), [(2.0, 1.0), (1.0, 1.0), (-1.0, 0.0), (-2.0, -1.0)])
def test_a_section_ends_after_it_begins(tmp_path: Path, start: float, stop: float) -> None:
    with pytest.raises(DatasetError, match=f"section ends at {stop:g} s, but begins at {start:g} s"):
        Song(path=tmp_path / "a.wav", name="a.wav", start=start, stop=stop)


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
