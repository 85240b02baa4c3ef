"""Every dialect that people keep their notes in, as `find_songs` reads it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidestep_core.songs.scan import find_songs
from tests.growth import MOST, growth
from tests.song_folders import problem_in, put, song_in, write


def test_key_value_lines(tmp_path: Path) -> None:
    put(tmp_path, song__mp3="x", song__txt=(
        "# Side-Step sidecar\ncaption: dreamy synths: wide\nand slow\ngenre: ambient\nbpm: 119.6\nkey: C# minor\n"
        "signature: 6/8\nlanguage: JA\ncustom_tag: mystyle\nmood: blue\nrepeat: 2\n\n"
        "lyrics:\n[Verse]\nbpm: this is sung\n\n# and so is this\n"))
    song = song_in(tmp_path)
    assert song.caption == "dreamy synths: wide and slow"
    assert song.lyrics == "[Verse]\nbpm: this is sung\n\n# and so is this"
    assert (song.bpm, song.key, song.signature) == (120, "C# minor", "6/8")
    assert (song.language, song.genre, song.trigger_word) == ("ja", "ambient", "mystyle")


@pytest.mark.parametrize(("line", "field", "value"), [
    ("tempo: 90 BPM", "bpm", 90), ("BPM : 90", "bpm", 90), ("bpm: N/A", "bpm", None), ("bpm: 0", "bpm", None),
    ("keyscale: A minor", "key", "A minor"), ("scale: A minor", "key", "A minor"), ("key: unknown", "key", ""),
    ("timesignature: 3", "signature", "3"), ("time_signature: 3/4", "signature", "3/4"),
    ("Time Signature: 3/4", "signature", "3/4"), ("sig: 4", "signature", "4"),
    ("lang: de", "language", "de"), ("language: N/A", "language", "unknown"),
    ("trigger: abc", "trigger_word", "abc"), ("tags: rock, live", "genre", "rock, live"),
    ("tag_position: Append", "trigger_position", "append"), ("prompt_override: genre", "prompt_override", "genre"),
    ("prompt_override: none", "prompt_override", ""), ("repeat: 3", "repeats", 3), ("repeats: 3.0", "repeats", 3),
    ("is_instrumental: yes", "instrumental", True), ("instrumental: false", "instrumental", False),
])
def test_key_aliases(tmp_path: Path, line: str, field: str, value: object) -> None:
    put(tmp_path, song__wav="x", song__txt=f"caption: c\n{line}\n")
    assert vars(song_in(tmp_path))[field] == value
    assert song_in(tmp_path).caption == "c"


NOTES = "caption: warm lo-fi\nbpm: 90\nlyrics:\n[Verse]\nRain\n"
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("content", [
    BOM * 2 + NOTES.encode(), NOTES.replace("lyrics", "\ufefflyrics").encode(), NOTES.encode("utf-16"),
    NOTES.replace(": ", "\uff1a").replace("lyrics:", "lyrics\uff1a").encode(), NOTES.replace("\n", "\r").encode(),
    b"**Caption:** warm lo-fi\n**BPM**: 90\n__Lyrics:__\n[Verse]\nRain\n", b"```yaml\n" + NOTES.encode() + b"```\n",
    b"# Caption\nwarm\nlo-fi\n\n# BPM\n90\n\n# Lyrics\n[Verse]\nRain\n", b"---\n" + NOTES.encode(),
    b"## Lyrics:\n[Verse]\nRain\n\n## Caption\nwarm lo-fi\n## Tempo\n90\n",
    b"- caption: warm lo-fi\n* bpm: 90\n1. lyrics:\n[Verse]\nRain\n",
    b"> **Caption: warm lo-fi**\nbpm: ~90\n" + NOTES[-22:].encode(),
    b"lyrics:\n[Verse]\nRain\n\ncaption: warm lo-fi\nbpm: 90\n", b"[Verse]\nRain\n\ncaption: warm lo-fi\nbpm: 90\n",
    b"Caption\xc2\xa0: warm lo-fi\nTempo: 90,0 BPM\n" + NOTES[-22:].encode(),
    "\u63cf\u8ff0: warm lo-fi\nbpm: 90\n\u6b4c\u8bcd\uff1a\n[Verse]\nRain".encode(),
])  # fmt: skip
@pytest.mark.parametrize("file", ["song.txt", "song.caption.txt", "song_lyrics.txt"])
def test_keys_in_any_markup(tmp_path: Path, content: bytes, file: str) -> None:
    put(tmp_path, song__wav="x")
    (tmp_path / file).write_bytes(content)
    if file != "song.txt" and content.startswith(b"[Verse]"):
        return  # plain text that is one field whatever it looks like
    song = song_in(tmp_path)
    assert (song.caption, song.bpm, song.lyrics) == ("warm lo-fi", 90, "[Verse]\nRain")
    assert find_songs(tmp_path).notices == ()


@pytest.mark.parametrize("sung", [
    "[Verse]\nTempo: I feel it\nKey: to my heart", "la\n\nKey: to my heart", "caption: of us\n\nla",
    "la\ncaption: this",
    "la\n\nTempo: I feel it", "la\n\nbpm: 3\n\nla",
])  # fmt: skip
def test_key_in_lyrics_is_noticed(tmp_path: Path, sung: str) -> None:
    put(tmp_path, song__wav="x", song__txt=f"genre: pop\nlyrics:\n{sung}\n")
    assert song_in(tmp_path).lyrics == sung
    [notice] = find_songs(tmp_path).notices
    assert "song.txt line 2 has the line" in notice.reason


def test_windows_text_files(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", song__txt="\ufeffcaption: a b\r\nbpm: 90\r\nlyrics: first\r\nsecond\r\n")
    song = song_in(tmp_path)
    assert (song.caption, song.bpm, song.lyrics) == ("a b", 90, "first\nsecond")


def test_caption_before_first_key(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", song__txt="# note\na quiet song\nbpm: 70\n")
    assert (song_in(tmp_path).caption, song_in(tmp_path).bpm) == ("a quiet song", 70)


@pytest.mark.parametrize("text", [
    "[Instrumental]", "[Verse]\nKey: to my heart\n", "a\nb\n\nc\nd\n", "one short line\n" * 4,
])
def test_plain_lyrics(tmp_path: Path, text: str) -> None:
    put(tmp_path, song__wav="x", song__txt=text)
    song = song_in(tmp_path)
    assert (song.lyrics, song.caption, song.key) == (text.strip(), "", "")


@pytest.mark.parametrize("text", [
    "a dreamy synthwave track", "# written by me\na dreamy\nsynthwave track\n",
    "\n".join(["a line of prose that is long enough to be no line of any lyrics at all"] * 6),
])
def test_plain_caption(tmp_path: Path, text: str) -> None:
    put(tmp_path, song__wav="x", song__txt=text)
    song = song_in(tmp_path)
    assert song.caption == " ".join(line for line in text.splitlines() if not line.startswith("#"))
    assert song.lyrics == ""


def test_own_files_settle_plain_text(tmp_path: Path) -> None:
    put(tmp_path, a__wav="x", a__txt="s\n" * 9, a__lyrics__txt="[Verse]\nla", b__wav="x", b__txt="short",
        b__caption__txt="a caption")
    first, second = find_songs(tmp_path).songs
    assert (first.caption, first.lyrics) == ("s s s s s s s s s", "[Verse]\nla")
    assert (second.caption, second.lyrics) == ("a caption", "short")


@pytest.mark.parametrize("caption", ["song.caption.txt", "song_caption.txt", "song_prompt.txt", "song.caption"])
@pytest.mark.parametrize("lyrics", ["song.lyrics.txt", "song_lyrics.txt", "song.lyrics", "song.Lyrics.TXT"])
def test_caption_and_lyrics_files(tmp_path: Path, caption: str, lyrics: str) -> None:
    write(tmp_path / "song.flac")
    write(tmp_path / caption, "calm\npiano\n")
    write(tmp_path / lyrics, "la\n\nla la\n")
    song = song_in(tmp_path)
    assert (song.caption, song.lyrics) == ("calm piano", "la\n\nla la")


def test_sidecar_belongs_to_its_stem(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", song_lyrics__wav="x", song_lyrics__txt="a caption of another song")
    scan = find_songs(tmp_path)
    assert [(song.name, song.caption, song.lyrics) for song in scan.songs] == [
        ("song.wav", "", ""), ("song_lyrics.wav", "a caption of another song", "")]


@pytest.mark.parametrize("text", [
    "<CAPTION>calm piano</CAPTION>\n<LYRICS>[Verse]\n<oh> la</LYRICS>\n<BPM>80</BPM><KEYSCALE>D major</KEYSCALE>"
    "<TIMESIGNATURE>3</TIMESIGNATURE><DURATION>10</DURATION><LANGUAGE>en</LANGUAGE>",
    "<caption>calm piano\n<LYRICS>[Verse]\n<oh> la\n<BPM>80<KEYSCALE>D major<TIMESIGNATURE>3<LANGUAGE>en",
])
def test_tags_closed_or_not(tmp_path: Path, text: str) -> None:
    put(tmp_path, song__wav="x", song__txt=text)
    song = song_in(tmp_path)
    assert (song.caption, song.lyrics) == ("calm piano", "[Verse]\n<oh> la")
    assert (song.bpm, song.key, song.signature, song.language) == (80, "D major", "3", "en")


def test_json_sidecar(tmp_path: Path) -> None:
    notes = {"caption": "J-pop", "lyrics": "la", "bpm": 190, "keyscale": "D major", "timesignature": 4,
             "language": "ja", "genre": ["pop", "rock"], "duration": 12}
    put(tmp_path, song__wav="x", song__json=json.dumps(notes))
    song = song_in(tmp_path)
    assert (song.caption, song.lyrics, song.bpm, song.key) == ("J-pop", "la", 190, "D major")
    assert (song.signature, song.language, song.genre) == ("4", "ja", "pop, rock")


@pytest.mark.parametrize(("files", "expected"), [
    ({"bad__txt": "caption: c\nbpm: fast\n"}, "bad.wav: bad.txt line 2 must be beats per minute such as 120, got 'fa"),
    ({"bad__txt": "bpm: 4000\n"}, "from 1 to 999, got '4000'"),
    ({"bad__txt": "bpm: nan\n"}, "got 'nan'"),
    ({"bad__txt": "bpm: 90\nstray words\n"}, "bad.txt line 2 is not 'key: value': 'stray words'"),
    ({"bad__txt": "is_instrumental: maybe\n"}, "line 1 must be true or false, got 'maybe'"),
    ({"bad__txt": "<BPM>x</BPM>"}, "bad.txt <BPM> must be"),
    ({"bad__json": "{\n'caption': 1}"}, "bad.json line 2 is not valid JSON"),
    ({"bad__json": "[1]"}, "bad.json must be a JSON object"),
    ({"bad__json": '{"caption": {"a": 1}}'}, "bad.json: caption must be text"),
    ({"bad__txt": "repeat: 0\n"}, "bad.txt line 1 must be a whole number from 1 to 1000, got '0'"),
    ({"bad__txt": "repeat: 1.5\n"}, "bad.txt line 1 must be a whole number from 1 to 1000, got '1.5'"),
    ({"bad__txt": "prompt_override: both\n"}, "line 1 must be caption or genre, got 'both'"),
    ({"bad__txt": "tag_position: middle\n"}, "line 1 must be prepend or append or replace, got 'middle'"),
    ({"bad__txt": "caption: a\0b"}, "bad.txt is no text: it holds NUL characters"),
    ({"bad__lyrics__txt": "\0\1\2"}, "bad.lyrics.txt is no text"),
    ({"bad__txt": "la la\n" * 900_000}, "bad.txt is 5.4 MB, too large for notes on a song (at most 1 MB)"),
    ({"bad__json": '{"caption": "a", "caption": "b"}'}, "bad.json: caption is set twice. Correct it."),
    ({"bad__json": '{"caption": "\\ud800"}'}, "bad.json: caption is not valid Unicode"),
    ({"bad__json": '{"bpm": ' + "9" * 5000 + "}"}, "99... has 5000 digits"),
    ({"bad__json": "[" * 100_000}, "bad.json is nested too deeply"),
    ({"bad__json": '{"bpm": true}'}, "bad.json: bpm must be text, got True"),
    ({"dataset__json": '[{"audio_path": "bad.wav", "bpm": "x"}]'}, "bad.wav: dataset.json sample 1: bpm must be"),
    ({"metadata__csv": "file,bpm\nbad.wav,x\n"}, "bad.wav: metadata.csv line 2: bpm must be"),
])
def test_bad_sidecar_costs_one_song(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    put(tmp_path, bad__wav="x", **files)
    assert expected in problem_in(tmp_path)


def test_sidecar_in_another_encoding(tmp_path: Path) -> None:
    put(tmp_path, bad__wav="x")
    (tmp_path / "bad.txt").write_bytes("caption: ok\nlyrics: d\u00e9j\u00e0".encode("cp1252"))
    assert "bad.txt line 2 is not UTF-8 text. Save the file as UTF-8." in problem_in(tmp_path)


@pytest.mark.parametrize("text_of", [
    lambda size: "a" + " " * size, lambda size: "a " * (size // 2), lambda size: "x" * size,
    lambda size: "<bpm" * (size // 4), lambda size: "[" * size, lambda size: "a: " * (size // 3),
    lambda size: "# c\n" * (size // 4), lambda size: "bpm:\n" * (size // 5)])  # fmt: skip
def test_parsing_time_is_linear(tmp_path: Path, text_of: Callable[[int], str]) -> None:
    put(tmp_path, song__wav="x")

    def read(size: int) -> None:
        put(tmp_path, song__txt=text_of(size))
        find_songs(tmp_path)

    assert growth(read, 100_000) < MOST


def test_lyrics_of_an_instrumental_are_kept(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x", song__txt="is_instrumental: true\nlyrics:\nla\n")
    assert (song_in(tmp_path).lyrics, song_in(tmp_path).instrumental) == ("la", True)


@pytest.mark.parametrize(("text", "caption"), [
    ("caption: # 1 hit\n# a comment\n", "# 1 hit"), ("caption:\n# a comment\nbpm: 3\n# another\n", ""),
    ("# a comment\n", ""), ("# a comment\ncalm\n  # another\n", "calm"),
])  # fmt: skip
def test_a_comment_is_never_a_caption(tmp_path: Path, text: str, caption: str) -> None:
    put(tmp_path, song__wav="x", song__txt=text)
    assert song_in(tmp_path).caption == caption


if sys.platform != "win32":  # which has no pipes in folders
    def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
        put(tmp_path, bad__wav="x")
        os.mkfifo(tmp_path / "bad.txt")
        assert "bad.wav: bad.txt is no ordinary file" in problem_in(tmp_path)


def test_folders_are_ignored(tmp_path: Path) -> None:
    put(tmp_path, song__wav="x")
    (tmp_path / "song.txt").mkdir()
    (tmp_path / "live.wav").mkdir()
    assert song_in(tmp_path).caption == ""
