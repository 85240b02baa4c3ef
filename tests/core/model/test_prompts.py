"""Prompt texts match ComfyUI and the official program to the letter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidestep_core.model.prompts import Prompt

PROMPT = Prompt(caption="calm lo-fi", lyrics="[Verse]\nRain", language="en", bpm=90, key="C major", signature="4/4",
                seconds=8.0)
UNKNOWN = Prompt(caption="calm lo-fi", lyrics="[Instrumental]", language="unknown", bpm=None, key="", signature="",
                 seconds=8.0)


def test_caption_text_matches_comfyui() -> None:
    assert PROMPT.caption_text == (
        "# Instruction\n"
        "Generate audio semantic tokens based on the given conditions:\n"
        "\n"
        "# Caption\n"
        "calm lo-fi\n"
        "\n"
        "# Metas\n"
        "- bpm: 90\n"
        "- timesignature: 4\n"
        "- keyscale: C major\n"
        "- duration: 8 seconds\n"
        "<|endoftext|>\n"
        "<|endoftext|>"
    )


def test_missing_values_are_stated() -> None:
    assert UNKNOWN.caption_text == (
        "# Instruction\n"
        "Generate audio semantic tokens based on the given conditions:\n"
        "\n"
        "# Caption\n"
        "calm lo-fi\n"
        "\n"
        "# Metas\n"
        "- bpm: N/A\n"
        "- timesignature: N/A\n"
        "- keyscale: N/A\n"
        "- duration: 8 seconds\n"
        "<|endoftext|>\n"
        "<|endoftext|>"
    )


def test_lyrics_text_matches_comfyui() -> None:
    assert PROMPT.lyrics_text == "# Languages\nen\n\n# Lyric\n[Verse]\nRain<|endoftext|><|endoftext|>"
    assert UNKNOWN.lyrics_text == "# Languages\nunknown\n\n# Lyric\n[Instrumental]<|endoftext|><|endoftext|>"


@pytest.mark.parametrize(("typed", "written"), [("4/4", "4"), ("6/8", "6"), ("3", "3"), (" 3 / 4", "3"), ("", "N/A"),
                                             ("  ", "N/A")])
def test_signature_is_its_beats(typed: str, written: str) -> None:
    assert f"\n- timesignature: {written}\n" in replace(PROMPT, signature=typed).caption_text


@pytest.mark.parametrize(("seconds", "written"), [(8.0, 8), (8.04, 9), (7.96, 8), (0.04, 1), (239.99, 240)])
def test_duration_is_rounded_up(seconds: float, written: int) -> None:
    assert f"\n- duration: {written} seconds\n" in replace(PROMPT, seconds=seconds).caption_text


def test_parentheses_are_unescaped() -> None:
    prompt = replace(PROMPT, caption=r"live \(remix\) (loud)", lyrics=r"oh \(oh\)")
    assert "\nlive (remix) (loud)\n" in prompt.caption_text
    assert "\noh (oh)<|endoftext|>" in prompt.lyrics_text


def test_braces_stay_text() -> None:
    prompt = replace(PROMPT, caption="  {caption} {0}\nsecond line \n", lyrics="{lyrics}")
    assert "# Caption\n{caption} {0}\nsecond line\n\n# Metas" in prompt.caption_text
    assert "# Lyric\n{lyrics}<|" in prompt.lyrics_text


@pytest.mark.parametrize(("typed", "written"), [
    ("A minor", "A minor"), ("Am", "A minor"), ("am", "A minor"), ("F#m", "F# minor"), ("Bb maj", "Bb major"),
    ("A MINOR", "A minor"), ("c\u266f min", "C# minor"), ("B\u266d", "Bb major"),
    ("C", "C major"), ("CM", "C major"), ("D Major", "D major"), ("a Minor", "A minor"), ("eb min", "Eb minor"),
    ("", "N/A"), ("H-Moll", "H-Moll"),
])
def test_keys_are_spelled_out(typed: str, written: str) -> None:
    prompt = Prompt(caption="", lyrics="", language="en", bpm=None, key=typed, signature="", seconds=1.0)
    assert f"- keyscale: {written}\n" in prompt.caption_text


def test_official_text_matches_diffusers() -> None:
    official = replace(PROMPT, style="official")
    assert official.caption_text == (
        "# Instruction\n"
        "Fill the audio semantic mask based on the given conditions:\n"
        "\n"
        "# Caption\n"
        "calm lo-fi\n"
        "\n"
        "# Metas\n"
        "- bpm: 90\n"
        "- timesignature: 4\n"
        "- keyscale: C major\n"
        "- duration: 8 seconds\n"
        "<|endoftext|>\n"
    )
    assert official.lyrics_text == "# Languages\nen\n\n# Lyric\n[Verse]\nRain<|endoftext|>"
    assert "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n" in replace(UNKNOWN, style="official").caption_text


@pytest.mark.parametrize(("seconds", "written", "frames"), [(8.0, 8, 200), (8.96, 8, 224), (0.04, 0, 1)])
def test_official_duration_and_timbre(seconds: float, written: int, frames: int) -> None:
    prompt = replace(PROMPT, seconds=seconds)
    assert prompt.timbre_frames == frames
    official = replace(prompt, style="official")
    assert f"\n- duration: {written} seconds\n" in official.caption_text
    assert official.timbre_frames == 750


def test_official_text_is_unchanged() -> None:
    official = replace(PROMPT, caption=r" live \(remix\) ", lyrics=r"oh \(oh\) ", style="official")
    assert "# Caption\n live \\(remix\\) \n" in official.caption_text
    assert "# Lyric\noh \\(oh\\) <|" in official.lyrics_text


def test_languages_are_lower_case() -> None:
    prompt = Prompt(caption="", lyrics="la", language=" EN ", bpm=None, key="", signature="", seconds=1.0)
    assert prompt.lyrics_text.startswith("# Languages\nen\n")
