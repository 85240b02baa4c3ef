"""Twenty prompts for text paths: languages, missing fields, lengths, and characters with special meanings."""

from __future__ import annotations

from sidestep_core.model.prompts import Prompt

TWENTY = {
    "english": Prompt(
        caption="warm analog synth pop, 80s drums",
        lyrics="[Verse]\nLanterns over quiet water\n\n[Chorus]\nHold the light\n", language="en", bpm=112,
        key="A minor", signature="4/4", seconds=2.0,
    ),
    "no metas": Prompt(
        caption="warm analog synth pop", lyrics="[Verse]\nHold the light", language="en", bpm=None, key="",
        signature="", seconds=2.0,
    ),
    "nothing at all": Prompt(
        caption="", lyrics="", language="unknown", bpm=None, key="", signature="", seconds=1.0,
    ),
    "empty lyrics": Prompt(
        caption="solo piano, slow", lyrics="", language="en", bpm=60, key="C major", signature="3/4", seconds=1.2,
    ),
    "instrumental": Prompt(
        caption="drum and bass", lyrics="[Instrumental]", language="unknown", bpm=174, key="F# minor", signature="4",
        seconds=1.0,
    ),
    "german": Prompt(
        caption="Schlager mit Blechbl\u00e4sern, fr\u00f6hlich",
        lyrics=(
            "[Strophe]\n\u00dcber den D\u00e4chern tr\u00e4umt die Stra\u00dfe\n[Refrain]\nGr\u00fc\u00dfe, s"
            "\u00fc\u00dfe F\u00fc\u00dfe"
        ),
        language="de", bpm=128, key="Bb major", signature="4/4", seconds=1.0,
    ),
    "french": Prompt(
        caption="chanson \u00e0 l'accord\u00e9on",
        lyrics="O\u00f9 es-tu, mon c\u0153ur ? L\u00e0-bas, d\u00e9j\u00e0\u2026", language="fr", bpm=96,
        key="D minor", signature="6/8", seconds=1.0,
    ),
    "russian": Prompt(
        caption="\u0445\u043e\u0440\u043e\u0432\u0430\u044f \u0431\u0430\u043b\u043b\u0430\u0434\u0430",
        lyrics=(
            "\u041e\u0439, \u0442\u043e \u043d\u0435 \u0432\u0435\u0447\u0435\u0440, \u0442\u043e \u043d"
            "\u0435 \u0432\u0435\u0447\u0435\u0440\n\u041c\u043d\u0435 \u043c\u0430\u043b\u044b\u043c-\u043c"
            "\u0430\u043b\u043e \u0441\u043f\u0430\u043b\u043e\u0441\u044c"
        ),
        language="ru", bpm=72, key="E minor", signature="4/4", seconds=1.0,
    ),
    "chinese": Prompt(
        caption="\u53e4\u7b5d, \u4e2d\u56fd\u98ce\u6d41\u884c",
        lyrics=(
            "[\u4e3b\u6b4c]\n\u6708\u5149\u6d12\u5728\u6c34\u9762\u4e0a\n[\u526f\u6b4c]\n\u6211\u4eec\u4e00"
            "\u8d77\u8d70\u8fc7"
        ),
        language="zh", bpm=84, key="G major", signature="4/4", seconds=1.0,
    ),
    "japanese": Prompt(
        caption="\u30b7\u30c6\u30a3\u30dd\u30c3\u30d7, 80\u5e74\u4ee3",
        lyrics="\u6625\u306e\u591c\u306e\u5922\n" * 10, language="ja", bpm=110, key="Eb major", signature="4/4",
        seconds=1.0,
    ),
    "korean": Prompt(
        caption="\ubc1c\ub77c\ub4dc, \ud53c\uc544\ub178",
        lyrics="\ube44\uac00 \uc624\ub294 \ub0a0\uc774\uba74\n\ub108\ub97c \uc0dd\uac01\ud574", language="ko", bpm=68,
        key="Ab major", signature="4/4", seconds=1.0,
    ),
    "arabic": Prompt(
        caption="\u0639\u0648\u062f \u0648\u0625\u064a\u0642\u0627\u0639",
        lyrics=(
            "\u064a\u0627 \u0644\u064a\u0644 \u064a\u0627 \u0639\u064a\u0646\n\u0637\u0627\u0644 \u0627\u0646"
            "\u062a\u0638\u0627\u0631\u064a"
        ),
        language="ar", bpm=90, key="D minor", signature="4/4", seconds=1.0,
    ),
    "hindi and thai": Prompt(
        caption=(
            "\u092b\u093c\u093f\u0932\u094d\u092e\u0940 \u0917\u0940\u0924, \u0e40\u0e1e\u0e25\u0e07\u0e25"
            "\u0e39\u0e01\u0e17\u0e38\u0e48\u0e07"
        ),
        lyrics=(
            "\u0926\u093f\u0932 \u0939\u0948 \u091b\u094b\u091f\u093e \u0938\u093e\n\u0e23\u0e31\u0e01\u0e40"
            "\u0e18\u0e2d\u0e17\u0e38\u0e01\u0e27\u0e31\u0e19"
        ),
        language="hi", bpm=100, key="C# minor", signature="4/4", seconds=1.0,
    ),
    "emoji": Prompt(
        caption="happy \U0001f3b5 hyperpop \U0001f469\u200d\U0001f3a4\u2728",
        lyrics="\U0001f3b6 la la \U0001f3b6\n\u2764\ufe0f\u200d\U0001f525 yeah \U0001f1e7\U0001f1f7", language="en",
        bpm=160, key="B major", signature="4/4", seconds=1.0,
    ),
    "parentheses": Prompt(
        caption="rock (live) [demo] {take 2} <raw>", lyrics="Hold on (hold on)\n((echo)) [Bridge] {x}", language="en",
        bpm=140, key="E major", signature="4/4", seconds=1.0,
    ),
    "escapes": Prompt(
        caption="live \\(remix\\) \\\\(x\\\\) 100\\% \\n", lyrics="oh \\(oh\\) C:\\music\\(new\\) \\\\",
        language="en", bpm=120, key="A major", signature="4/4", seconds=1.0,
    ),
    "weights": Prompt(
        caption="(dreamy:1.3) ((loud)) (soft:0.5), [quiet:2]", lyrics="(la:1.5) (la\n:2)", language="en", bpm=101,
        key="F major", signature="4/4", seconds=1.0,
    ),
    "white space": Prompt(
        caption="  lo-fi\tbeats \r\n\n second line  ", lyrics="\n\n  indented\t\ttabs \r\nend  \n\n", language=" EN ",
        bpm=85, key=" a min ", signature=" 2 / 4", seconds=1.04,
    ),
    "3000 characters": Prompt(
        caption="epic " * 120, lyrics="Hold the light, hold the light, oh\n" * 90, language="en", bpm=30,
        key="Gb major", signature="3", seconds=1.96,
    ),
    "1000 chinese characters": Prompt(
        caption="\u53f2\u8bd7, " * 30,
        lyrics="\u6708\u5149\u6d12\u5728\u6c34\u9762\u4e0a\u6211\u4eec\u4e00\u8d77\u8d70\n" * 84, language="zh",
        bpm=300, key="Db major", signature="6", seconds=1.0,
    ),
}
"""Prompts by their special property."""
