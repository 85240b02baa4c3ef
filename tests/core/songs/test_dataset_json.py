"""dataset.json: Side-Step's schema, and read back to the same songs wherever it lies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.config import TriggerPosition
from sidestep_core.errors import DatasetError
from sidestep_core.io.text import bad_character, mojibake
from sidestep_core.songs.dataset_json import write_dataset_json
from sidestep_core.songs.defaults import BuildConfig, build
from sidestep_core.songs.metadata import validated
from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.song import Song, SongFolder
from tests.song_folders import names, put, write

METADATA = {"name", "custom_tag", "tag_position", "created_at", "num_samples", "all_instrumental", "genre_ratio"}
SAMPLE = {"id", "audio_path", "filename", "caption", "genre", "lyrics", "raw_lyrics", "formatted_lyrics", "bpm",
          "keyscale", "timesignature", "duration", "language", "is_instrumental", "custom_tag", "labeled",
          "prompt_override", "repeat"}
"""The keys that Side-Step writes and reads."""


def music(root: Path) -> SongFolder:
    """A folder with songs that say a little of everything."""
    put(root, one__wav="x", one__txt="caption: calm\nbpm: 90\nrepeat: 3\nlyrics:\n[Verse]\nsung\n")
    put(root / "sub", one__wav="x", one__txt="genre: folk\nis_instrumental: true\nprompt_override: genre\ntag: mine\n")
    write(root / "sub" / "\u05e9\u05dc\u05d5\u05dd \U0001f3b5.wav")
    return find_songs(root)


def without_sidecars(root: Path) -> None:
    for path in root.rglob("*.txt"):
        path.unlink()


@pytest.fixture
def found(tmp_path: Path) -> SongFolder:
    config = BuildConfig(trigger_word="zxq", trigger_position="append", genre_ratio=0.25, language="en")
    return build(music(tmp_path / "music"), config)


def test_format_is_side_steps(found: SongFolder) -> None:
    path = found.folder / "dataset.json"
    write_dataset_json(found, path, "my music")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metadata"].keys() == METADATA
    assert {key for sample in content["samples"] for key in sample} == SAMPLE
    assert (content["metadata"]["name"], content["metadata"]["genre_ratio"]) == ("my music", 25)
    assert content["metadata"]["tag_position"] == "append"
    first = content["samples"][0]
    assert (first["audio_path"], first["filename"], first["repeat"], first["bpm"]) == ("one.wav", "one.wav", 3, 90)
    assert (first["custom_tag"], first["prompt_override"], first["labeled"]) == ("zxq", None, True)
    assert len({sample["id"] for sample in content["samples"]}) == 3


@pytest.mark.parametrize("place", ["dataset.json", "../out/dataset.json"])
def test_written_songs_are_read_back(found: SongFolder, place: str) -> None:
    path = found.folder / place
    write_dataset_json(found, path, "x")
    assert find_songs(path) == found
    if path.parent == found.folder:
        without_sidecars(found.folder)
        assert find_songs(found.folder) == found
    else:
        assert find_songs(path.parent) == found, "a folder without audio stands for its list"


def test_opened_file_is_only_source(found: SongFolder) -> None:
    path = found.folder / "dataset.json"
    write_dataset_json(replace(found, songs=(replace(found.songs[0], caption="edited", lyrics=""),)), path, "x")
    [song] = find_songs(path).songs
    assert (song.caption, song.lyrics) == ("edited", "")
    assert len(find_songs(found.folder).songs) == 3
    assert find_songs(found.folder).songs[0].caption == "calm"


def test_sections_come_back_as_sections(found: SongFolder) -> None:
    whole = found.songs[0]
    parts = [replace(whole, name=f"{whole.name} [{start}]", start=start, stop=stop, lyrics=lyrics)
             for start, stop, lyrics in ((0.0, 9.5, "la"), (9.5, 0.0, ""))]
    cut = replace(found, songs=(*parts, *found.songs[1:]))
    for path in (found.folder / "dataset.json", found.folder.parent / "dataset.json"):
        write_dataset_json(cut, path, "x")
        assert find_songs(path) == cut
    without_sidecars(found.folder)
    assert find_songs(found.folder) == cut


def test_path_detours_change_nothing(found: SongFolder) -> None:
    detour = found.folder / "sub" / ".."
    assert find_songs(detour).folder == found.folder
    write_dataset_json(found, detour / "dataset.json", "x")
    samples = json.loads((found.folder / "dataset.json").read_text(encoding="utf-8"))["samples"]
    assert [sample["audio_path"] for sample in samples] == [song.name for song in found.songs]
    assert find_songs(detour / "dataset.json") == found


def test_list_order_is_kept(found: SongFolder) -> None:
    turned = replace(found, songs=found.songs[::-1])
    write_dataset_json(turned, found.folder / "dataset.json", "x")
    assert find_songs(found.folder / "dataset.json") == turned


def test_a_moved_folder_is_found_again(found: SongFolder, tmp_path: Path) -> None:
    write_dataset_json(found, found.folder / "dataset.json", "x")
    moved = shutil.move(found.folder, tmp_path / "elsewhere")
    again = find_songs(moved / "dataset.json")
    assert [replace(song, path=found.folder / song.name) for song in again.songs] == list(found.songs)


def test_foreign_absolute_paths_are_matched(tmp_path: Path) -> None:
    for name in ("disc1/01.wav", "disc2/01.wav", "solo.wav"):
        write(tmp_path / name)
    paths = [r"D:\Music\disc2\01.wav", "/home/her/disc1/01.wav", r"\\server\share\solo.wav", r"C:\gone\02.wav"]
    write(tmp_path / "dataset.json", json.dumps([{"audio_path": path, "caption": path} for path in paths]))
    again = find_songs(tmp_path / "dataset.json")
    assert {song.name: song.caption for song in again.songs} == {
        "disc2/01.wav": paths[0], "disc1/01.wav": paths[1], "solo.wav": paths[2]}
    assert [problem.name for problem in again.problems] == ["dataset.json sample 4"]


def test_unusable_entries_are_problems(tmp_path: Path) -> None:
    put(tmp_path, good__wav="x", empty__wav="", secret__key="x")
    write(tmp_path / "dataset.json", json.dumps([{"audio_path": name} for name in (
        "good.wav", "empty.wav", "secret.key", "good.wav", "/etc/passwd")]))
    again = find_songs(tmp_path / "dataset.json")
    assert names(again) == ["good.wav"]
    assert [problem.name for problem in again.problems] == ["dataset.json sample 3", "dataset.json sample 5",
                                                            "empty.wav", "good.wav"]
    assert "dataset.json sample 4 lists it a second time" in again.problems[-1].reason


def test_empty_list_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, dataset__json='{"samples": []}')
    with pytest.raises(DatasetError, match=r"No song in .* can be used\. dataset\.json: It lists no song"):
        find_songs(tmp_path)


@pytest.mark.parametrize("reference", ["x" * 5000 + ".wav", "a\0b.wav", "..", "/", "\ud800.wav"])
def test_impossible_paths_are_problems(tmp_path: Path, reference: str) -> None:
    put(tmp_path, good__wav="x", dataset__json=json.dumps([{"audio_path": "good.wav"}, {"audio_path": reference}]))
    for place in (tmp_path, tmp_path / "dataset.json"):
        assert [problem.name for problem in find_songs(place).problems] == ["dataset.json sample 2"]


@pytest.mark.parametrize(("key", "value"), [("start", "1:30"), ("stop", -1), ("start", True)])
def test_section_must_be_seconds(tmp_path: Path, key: str, value: object) -> None:
    put(tmp_path, a__wav="x", dataset__json=json.dumps([{"audio_path": "a.wav", key: value}]))
    with pytest.raises(DatasetError, match=rf"dataset\.json sample 1: {key} must be a number"):
        find_songs(tmp_path)


def test_genre_ratio_is_bounded(tmp_path: Path) -> None:
    put(tmp_path, a__wav="x", dataset__json='{"metadata": {"genre_ratio": 250}, "samples": []}')
    with pytest.raises(DatasetError, match=r"genre_ratio must be a number from 0 to 100, got 250"):
        find_songs(tmp_path)


def test_identical_file_is_not_rewritten(found: SongFolder) -> None:
    path = found.folder.parent / "dataset.json"
    write_dataset_json(found, path, "x")
    stamp = path.stat().st_mtime_ns, path.read_bytes()
    write_dataset_json(found, path, "x")
    assert (path.stat().st_mtime_ns, path.read_bytes()) == stamp
    write_dataset_json(found, path, "y")
    assert path.read_bytes() != stamp[1]


TEXT = st.text(max_size=30).filter(lambda text: not bad_character(text) and not mojibake(text.strip()))
NOTES = st.fixed_dictionaries({}, optional={
    "caption": TEXT, "lyrics": TEXT, "genre": TEXT, "key": TEXT, "signature": TEXT, "language": TEXT,
    "trigger_word": TEXT | st.just("same"), "bpm": st.integers(1, 999), "repeats": st.integers(1, 99),
    "instrumental": st.booleans(), "prompt_override": st.sampled_from(["caption", "genre"]),
    "trigger_position": st.sampled_from(get_args(TriggerPosition)),
})  # fmt: skip


@given(notes=st.lists(NOTES, min_size=1, max_size=4), percent=st.integers(0, 100), beside=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_songs_round_trip(tmp_path_factory: pytest.TempPathFactory, notes: list[Any], percent: int,
                              beside: bool) -> None:
    root = tmp_path_factory.mktemp("songs") / "music"
    songs = []
    for number, said in enumerate(notes):
        kept = {name: value for name, value in validated(said).items() if value is not None}
        songs.append(Song(path=write(root / f"{number}.wav"), name=f"{number}.wav", **kept))
    found = SongFolder(folder=root, songs=tuple(songs), problems=(), genre_ratio=percent / 100)
    path = (root if beside else root.parent) / "dataset.json"
    write_dataset_json(found, path, "x")
    assert find_songs(path) == found
    if beside:
        assert find_songs(root) == found
