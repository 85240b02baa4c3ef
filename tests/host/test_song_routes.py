"""The table of songs, asked as the page asks: rows, sound, waveforms; and what can be written, and what not."""

from __future__ import annotations

import io
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import pytest

from demo.server import ComfyUI
from sidestep_core.songs.scan import find_songs
from tests.host.test_datasets import CAPTIONS, NAMES, building, files_of, node, splitting, told, write_long_song
from tests.host.test_pipeline import ran

JSON = {"Content-Type": "application/json"}


def ask(server: ComfyUI, path: str, body: object = None, headers: Mapping[str, str] = JSON) -> tuple[int, Any, bytes]:
    """Status, headers and content."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.address}/sidestep/songs/{path}", data, dict(headers))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@pytest.fixture
def folder(server: ComfyUI, request: pytest.FixtureRequest) -> Path:
    """A copy of the demo's songs, for each test its own."""
    found = server.base / "input" / request.node.name.partition("[")[0]
    shutil.rmtree(found, ignore_errors=True)
    shutil.copytree(server.base / "input" / "demo_songs", found)
    return found


@pytest.fixture
def key(server: ComfyUI, folder: Path) -> str:
    """The id of its songs."""
    return str(told(ran(server, {"b": building(folder=folder.name)}), "b")["preview"])


def rows(server: ComfyUI, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get_json(f"/sidestep/songs/{key}")["rows"]
    return found


def test_rows_hold_no_path(server: ComfyUI, folder: Path, key: str) -> None:
    status, _, content = ask(server, f"{key}?first=1&count=1")
    answer = json.loads(content)
    assert (status, answer["total"], answer["first"], len(answer["rows"])) == (200, 3, 1, 1)
    [row] = answer["rows"]
    assert (row["name"], row["caption"], row["bpm"], row["key"]) == (NAMES[1], CAPTIONS[1], "100", "G major")
    assert row["seconds"] == pytest.approx(10.8, abs=0.1)
    assert str(folder) not in content.decode()


def test_unknown_songs_are_not_found(server: ComfyUI, key: str) -> None:
    assert ask(server, "another")[0] == 204
    for path in ("another/0/audio", f"{key}/3/audio", f"{key}/-1/audio", f"{key}/..%2F..%2F0/audio",
                 f"{key}/999999999/peaks"):
        assert ask(server, path)[0] == 404
    assert ask(server, "another/0/metadata", {})[0] == 404


def test_playable_file_is_sent_unchanged(server: ComfyUI, folder: Path, key: str) -> None:
    status, headers, content = ask(server, f"{key}/0/audio")
    assert (status, headers["Content-Type"], content) == (200, "audio/wav", (folder / NAMES[0]).read_bytes())
    status, _, part = ask(server, f"{key}/0/audio", headers={"Range": "bytes=4-99"})
    assert (status, part) == (206, content[4:100])


def test_other_files_become_flac(server: ComfyUI, folder: Path, key: str) -> None:
    (folder / NAMES[0]).rename(folder / "odd.wma")
    key = str(told(ran(server, {"b": building(folder=folder.name)}), "b")["preview"])
    place = next(row["index"] for row in rows(server, key) if row["name"] == "odd.wma")
    assert not rows(server, key)[place]["as_it_is"]
    status, headers, content = ask(server, f"{key}/{place}/audio")
    assert (status, headers["Content-Type"], content[:4]) == (200, "audio/flac", b"fLaC")
    with av.open(io.BytesIO(content)) as file:
        assert float(file.duration) / 1e6 == pytest.approx(6.0, abs=0.01)
    assert ask(server, f"{key}/{place}/audio?as=flac", headers={"Range": "bytes=0-3"})[2] == b"fLaC"


@pytest.mark.parametrize("query", ["", "?as=flac"])
def test_only_songs_are_sent(server: ComfyUI, folder: Path, key: str, query: str) -> None:
    """Songs that vanished, are no audio, or lead elsewhere since the folder was read."""
    secret = folder / "secret.txt"
    secret.write_text("a letter " * 1000, encoding="utf-8")
    for name in NAMES:
        (folder / name).unlink()
    shutil.copy(secret, folder / NAMES[1])
    (folder / NAMES[2]).symlink_to(secret)
    for place in range(len(NAMES)):
        status, _, content = ask(server, f"{key}/{place}/audio{query}")
        assert status == 422
        assert NAMES[place] in content.decode() or "not there any more" in content.decode()
        assert b"a letter" not in content


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b"[1]", b"{", b'{"bpm": NaN}', b" " * 10_000_001])
def test_malformed_note_is_refused(server: ComfyUI, folder: Path, key: str, body: bytes) -> None:
    before = files_of(folder)
    request = urllib.request.Request(f"{server.address}/sidestep/songs/{key}/0/metadata", body, JSON)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)
    assert refused.value.code in (400, 413, 422)
    assert files_of(folder) == before


def test_waveform_follows_the_song(server: ComfyUI, key: str) -> None:
    peaks = json.loads(ask(server, f"{key}/0/peaks")[2])["peaks"]
    assert len(peaks) == 120
    assert max(peaks) == pytest.approx(80, abs=2)
    assert len(set(peaks)) > 5
    assert peaks != json.loads(ask(server, f"{key}/1/peaks")[2])["peaks"]


def test_damaged_song_gives_a_reason(server: ComfyUI, folder: Path) -> None:
    (folder / "bad.mp3").write_bytes(b"nonsense" * 100)
    key = str(told(ran(server, {"b": building(folder=folder.name)}), "b")["preview"])
    answer = server.get_json(f"/sidestep/songs/{key}")
    assert "damaged" in json.dumps(answer)
    for bad in (row for row in answer["rows"] if row["name"] == "bad.mp3"):
        assert json.loads(ask(server, f"{key}/{bad['index']}/peaks")[2]) == {"peaks": []}
        assert ask(server, f"{key}/{bad['index']}/audio?as=flac")[0] == 422


def test_edits_are_written_beside_song(server: ComfyUI, folder: Path, key: str) -> None:
    before = files_of(folder)
    words = {"caption": "now a march", "bpm": "132", "lyrics": "[Verse]\nLeft\nRight"}
    status, _, content = ask(server, f"{key}/0/metadata", words)
    assert status == 200, content
    row = json.loads(content)
    assert {name: row[name] for name in words} == words
    assert rows(server, key)[0] == row
    found = {song.name: song for song in find_songs(folder).songs}
    song = found[NAMES[0]]
    assert (song.caption, song.bpm, song.lyrics) == ("now a march", 132, "[Verse]\nLeft\nRight")
    assert (song.genre, song.key) == ("synthwave", "A minor"), "what was not edited stays"
    [kept] = folder.glob("*.bak")
    assert kept.read_bytes() == before["neon drive.txt"][0]
    others = {name: content for name, content in files_of(folder).items() if not name.startswith("neon drive")}
    assert others == {name: content for name, content in before.items() if not name.startswith("neon drive")}


@pytest.mark.parametrize("words", [{"bpm": "fast"}, {"bpm": "-3"}, {"path": "/etc/passwd"}, {"caption": 7},
                                   {"caption": "x" * 100_001}])
def test_impossible_write_changes_nothing(server: ComfyUI, folder: Path, key: str, words: dict[str, object]) -> None:
    before = files_of(folder)
    status, _, content = ask(server, f"{key}/0/metadata", {"genre": "polka"} | words)
    assert status == 422
    assert next(iter(words)) in content.decode()
    assert files_of(folder) == before


@pytest.mark.parametrize(("headers", "status"), [
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    (JSON | {"Origin": "https://elsewhere.example"}, 403),
    (JSON | {"Sec-Fetch-Site": "cross-site"}, 403),
])
def test_other_sites_cannot_write(server: ComfyUI, folder: Path, key: str, headers: dict[str, str],
                                  status: int) -> None:
    before = files_of(folder)
    assert ask(server, f"{key}/0/metadata", {"caption": "hostile"}, headers)[0] == status
    assert ask(server, f"{key}/metadata", {}, headers)[0] == status
    assert files_of(folder) == before


def test_reading_writes_nothing(server: ComfyUI, folder: Path, key: str) -> None:
    before = files_of(folder)
    assert ask(server, f"{key}/0/metadata")[0] in (404, 405)
    for path in (key, f"{key}/0/audio", f"{key}/0/peaks"):
        ask(server, path)
    assert files_of(folder) == before


def test_all_notes_are_written(server: ComfyUI, folder: Path) -> None:
    prompt = {"b": building(folder=folder.name),
              "l": node("SideStepSongAudio", songs=["b", 0], seconds=1.0, start=0.0),
              "t": node("StringConcatenate", string_a="about", string_b=["l", 1], delimiter=" "),
              "c": node("SideStepCaptionSongs", songs=["b", 0], captions=["t", 0], replace=True)}
    key = told(ran(server, prompt), "c")["preview"]
    assert [song.caption for song in find_songs(folder).songs] == CAPTIONS
    # What a model wrote is new, although the person changed nothing of it.
    first = {name: rows(server, key)[0][name] for name in ("caption", "bpm")}
    assert ask(server, f"{key}/0/metadata", first)[0] == 200
    assert [song.caption for song in find_songs(folder).songs] == [f"about {NAMES[0]}", *CAPTIONS[1:]]
    assert json.loads(ask(server, f"{key}/metadata", {})[2]) == {"songs": 2, "problems": []}
    assert [song.caption for song in find_songs(folder).songs] == [f"about {name}" for name in NAMES]
    assert json.loads(ask(server, f"{key}/metadata", {})[2]) == {"songs": 0, "problems": []}


def test_stale_table_keeps_later_edit(server: ComfyUI, folder: Path) -> None:
    """The caption is corrected in the table of Build Dataset, the tempo then in one that shows the caption before."""
    prompt = {"b": building(folder=folder.name),
              "c": node("SideStepCaptionSongs", songs=["b", 0], captions=["t", 0], replace=True),
              "l": node("SideStepSongAudio", songs=["b", 0], seconds=1.0, start=0.0),
              "t": node("StringConcatenate", string_a="about", string_b=["l", 1], delimiter=" ")}
    outcome = ran(server, prompt)
    first, second = (told(outcome, name)["preview"] for name in ("b", "c"))
    assert ask(server, f"{first}/0/metadata", {"caption": "by hand"})[0] == 200
    (folder / "paper waltz.caption.txt").write_text("in an editor", encoding="utf-8")
    row = json.loads(ask(server, f"{second}/0/metadata", {"bpm": "77"})[2])
    assert (row["caption"], row["bpm"]) == ("by hand", "77")
    assert json.loads(ask(server, f"{second}/metadata", {})[2]) == {"songs": 1, "problems": []}
    captions = [song.caption for song in find_songs(folder).songs]
    assert captions == ["by hand", "in an editor", f"about {NAMES[2]}"]
    assert find_songs(folder).songs[0].bpm == 77


def test_text_can_be_removed(server: ComfyUI, folder: Path, key: str) -> None:
    for caption in ("", CAPTIONS[0]):
        assert json.loads(ask(server, f"{key}/0/metadata", {"caption": caption})[2])["caption"] == caption
        assert find_songs(folder).songs[0].caption == caption


def test_remotely_listed_songs_are_readonly(server: ComfyUI, folder: Path) -> None:
    listed = server.base / "input" / "a list"
    listed.mkdir()
    samples = [{"audio_path": str(folder / name), "caption": name} for name in NAMES]
    (listed / "dataset.json").write_text(json.dumps(samples), encoding="utf-8")
    key = told(ran(server, {"b": building(folder="a list")}), "b")["preview"]
    assert [row["caption"] for row in rows(server, key)] == NAMES
    before = files_of(folder)
    status, _, content = ask(server, f"{key}/0/metadata", {"caption": "in vain"})
    assert status == 422
    assert "dataset.json" in content.decode()
    assert files_of(folder) == before


def test_sections_cannot_be_written(server: ComfyUI, folder: Path) -> None:
    shutil.rmtree(folder)
    write_long_song(folder)
    prompt = {"b": building(folder=folder.name), "s": splitting()}
    key = told(ran(server, prompt), "s")["preview"]
    sections = [row for row in rows(server, key) if row["section"]]
    before = files_of(folder)
    assert len(sections) == 2
    status, _, content = ask(server, f"{key}/{sections[1]['index']}/metadata", {"caption": "part"})
    assert status == 422
    assert "section" in content.decode()
    assert [json.loads(ask(server, f"{key}/{row['index']}/peaks")[2])["peaks"] for row in sections]
    assert files_of(folder) == before
