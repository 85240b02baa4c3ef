"""Reports: everything in one file that asks nothing of anybody, whatever the texts are."""

from __future__ import annotations

import base64
import math
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep_core.runs import chart, curve, report, summary
from sidestep_core.runs.influence import Influence, SongInfluence
from sidestep_core.runs.report import Preview, Report
from sidestep_core.runs.songs import Song
from sidestep_core.runs.summary import RunSummary
from tests.run_folders import write_run

PROOF = {"matched": 192, "total": 192, "effect": 1.0, "error": 2.5e-7}
SAFE = {"src": "data:audio/flac;base64,", "http-equiv": "Content-Security-Policy"}


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = write_run(tmp_path_factory.mktemp("runs") / "song-0123456789abcdef", ended="finished", finished=True,
                       message="x", settings={"adapter": {"kind": "lora", "rank": 8},
                                              "train": {"max_steps": 100, "shift": None, "publish": "last"}})
    index = curve.read(folder / "metrics.jsonl")
    return Report(run=summary.read(folder, index), proof=PROOF, defaults={"train": {"max_steps": 1000, "shift": None}},
                  rows=curve.thinned(folder / "metrics.jsonl", index, after=-1, points=2000).rows,
                  songs=[Song(name="a.wav", seconds=200.0, caption="drums"),
                         Song(name="b.wav", seconds=2.0, problems=("It is only 2.0 s long.",))],
                  previews=[Preview(step=0, flac=b"fLaC"), Preview(step=50, flac=None)])


def test_report_holds_everything(content: Report) -> None:
    page = Page(report.html(content))
    for text in ("song", "Finished", "All 100 steps are made.", "60 of 100", "3, 10 min", "LoRA, rank 8",
                 "3.0000 to 0.0400 (-99%)", "0.0400 after step 50", "192 of 192", "100 %", "2.5e-07", "a.wav", "3:20",
                 "It is only 2.0 s long.", "Left out to keep this file small: step 50.", "automatic"):
        assert text in page.text, text
    assert (page.tags["svg"], page.tags["audio"], page.tags["polyline"]) == (1, 1, 3)
    assert ("src", "data:audio/flac;base64," + base64.b64encode(b"fLaC").decode()) in page.attributes
    assert page.attributes.count(("class", "changed")) == 1
    assert page.text.index("b.wav") < page.text.index("a.wav")


def test_songs_learned_by_heart_stand_out(content: Report) -> None:
    page = Page(report.html(replace(content, run=replace(content.run, by_heart=("a.wav",)))))
    assert page.text.count(report.BY_HEART) == 1
    assert page.text.index("a.wav") < page.text.index("b.wav")


def test_harmful_songs_come_first(content: Report) -> None:
    found = Influence(step=60, draws=16, songs=(SongInfluence(song="b.wav", score=0.4, error=0.02),
                                                SongInfluence(song="a.wav", score=-0.3, error=0.05)))
    page = Page(report.html(replace(content, influence=found)))
    for text in ("Influence", "measured after 60 steps", "helps (+0.40, error 0.02)", "harms (-0.30, error 0.05)"):
        assert text in page.text, text
    assert page.text.index("a.wav") < page.text.index("b.wav")
    assert "Influence" not in Page(report.html(content)).text


def test_report_of_nothing_is_whole(content: Report) -> None:
    page = Page(report.html(Report(run=RunSummary(id="a", name="a", status="failed", started=math.inf), rows=())))
    assert "No step was finished." in page.text
    assert (page.tags["svg"], page.tags["audio"], page.tags["table"]) == (0, 0, 0)


def asks_nothing(html: str) -> bool:
    """Hold the page to what a browser can show by itself."""
    page = Page(html)
    loading = {"src", "href", "xlink:href", "action", "srcset", "poster", "style", "data"}
    return (page.tags.keys().isdisjoint({"script", "link", "iframe", "img", "object", "embed", "base", "form", "a"})
            and all((value or "").startswith(SAFE["src"]) for name, value in page.attributes if name in loading)
            and not any(name.startswith("on") for name, _ in page.attributes)
            and ("content", report.POLICY) in page.attributes)


def test_missing_escape_is_noticed() -> None:
    policy = f'<meta content="{report.POLICY}">'
    assert asks_nothing(policy)
    for bad in ("<script>", "<img src=x>", "<b onclick=x>", '<audio src="https://a.b/c">', "<a href=x>"):
        assert not asks_nothing(policy + bad)


MARKUP = st.sampled_from(["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</style>", "</title>",
                          "\N{DRUM WITH DRUMSTICKS}", "\u202e", "\0", "a\nb", "&lt;", "]]>", "\u05d0\u05d1"])


@given(text=st.text(max_size=30) | MARKUP, number=st.floats() | st.integers(-10**30, 10**30))
def test_any_text_stays_text(content: Report, text: str, number: float) -> None:
    run = replace(content.run, name=text, message=text, note=text, model=text, kind=text, files=(text,),
                  settings={"adapter": {text: text, "rank": number}, "train": {text: [text, number]}})
    songs = [Song(name=text, seconds=1.0, caption=text, problems=(text,))]
    changed = replace(content, run=run, songs=songs, proof={"matched": number, "error": text})
    html = report.html(changed)
    html.encode()
    assert asks_nothing(html)
    usual = Page(report.html(content)).tags
    assert {tag for tag in Page(html).tags if tag not in usual} <= {"bdi", "blockquote"}


@given(values=st.lists(st.floats() | st.none() | st.integers(), max_size=20))
def test_any_numbers_are_drawn(values: list[float | None]) -> None:
    rows = [{"step": step, "loss": value, "heldout": value} for step, value in enumerate(values)]
    drawn = chart.svg(rows, measured="Held-out", best=(3, 1.0))
    assert "nan" not in drawn.lower().replace('"none"', "")
    assert "inf" not in drawn.lower()


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.31, 0.52, [0.35, 0.4, 0.45, 0.5]),
    (0, 5000, [0, 1000, 2000, 3000, 4000, 5000]), (1.0, 1.0, []),
])
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert chart.ticks(low, high) == pytest.approx(expected)


def test_previews_that_fit_are_chosen() -> None:
    assert report.fitting([(0, 5), (10, 5)], None) == {0, 10}
    large = report.MAX_PREVIEW_BYTES // 4
    steps = [(step, large) for step in range(0, 100, 10)]
    assert report.fitting(steps, 70) == {0, 50, 70, 90}
    assert report.fitting([(0, 4 * large), (10, large), (20, 5 * large)], None) == {0}
    assert report.fitting([], None) == set()
