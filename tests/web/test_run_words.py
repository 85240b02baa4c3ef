"""The pure functions behind the list and the comparison of runs, run by the browser that runs them for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from demo.server import PACK_NAME, ComfyUI

DAY = 86_400
NOON = 1_700_000_000 // DAY * DAY + DAY // 2
"""In the time zone of the tests' browser."""
RUN = {"id": "my_lora-1", "name": "my_lora", "status": "finished", "step": 100, "total": 100, "started": NOON,
       "ended": NOON + 720, "kind": "lokr", "songs": 3, "minutes": 9.5, "model": "turbo", "loss": 0.5,
       "best": {"step": 80, "loss": 0.4123}, "files": ["my_lora.safetensors"], "by_heart": [], "message": "",
       "note": "Too bright", "settings": {"adapter": {"rank": 16}, "train": {"seed": 1}}}


@pytest.fixture(scope="module")
def page(browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """A page of the server without ComfyUI's own code in it."""
    with browser.new_context(timezone_id="UTC", locale="en-GB") as context:
        opened = context.new_page()
        opened.goto(f"{server.address}/extensions/{PACK_NAME}/runs/run_words.js")
        yield opened


def call(page: Page, function: str, *arguments: Any, module: str = "run_words") -> Any:
    return page.evaluate("async ([url, name, values]) => (await import(url))[name](...values)",
                         [f"/extensions/{PACK_NAME}/runs/{module}.js", function, arguments])


@pytest.mark.parametrize(("changes", "status", "result"), [
    ({}, "Finished · 100 steps", "best 0.412 at step 80 · 12 min"),
    ({"status": "running", "step": 41, "eta": 300}, "Training · step 41 of 100 · about 5 min left",
     "best 0.412 at step 80"),
    ({"status": "stopped", "step": 60, "best": None}, "Stopped · step 60 of 100", "loss 0.500 · 12 min"),
    ({"status": "paused", "step": 3, "total": 0, "best": None, "loss": None}, "Paused · step 3", ""),
    ({"status": "failed", "message": "No space is left."}, "Failed · step 100 of 100", "No space is left.")])
def test_run_is_in_words(page: Page, changes: dict[str, Any], status: str, result: str) -> None:
    assert call(page, "statusLine", RUN | changes) == status
    assert call(page, "resultLine", RUN | changes) == result


@pytest.mark.parametrize(("seconds", "text"), [(10, "under a minute"), (3540, "59 min"), (3900, "1 h 5 min"),
                                               (-5, ""), (None, "")])
def test_duration_is_in_words(page: Page, seconds: float | None, text: str) -> None:
    ended = None if seconds is None else NOON + seconds
    assert call(page, "spent", RUN | {"ended": ended}) == text


def test_runs_stand_below_their_day(page: Page) -> None:
    days = [0, 1, 3, 30, 500]
    runs = [RUN | {"id": str(day), "started": NOON - day * DAY} for day in days]
    runs.append(RUN | {"id": "now", "started": NOON - 99 * DAY, "status": "paused"})
    found = call(page, "grouped", runs, NOON * 1000)
    assert [(name, [run["id"] for run in members]) for name, members in found] == [
        ("In progress", ["now"]), ("Today", ["0"]), ("Yesterday", ["1"]), ("Last 7 days", ["3"]),
        ("Earlier", ["30", "500"])]
    assert [call(page, "moment", run["started"], NOON * 1000) for run in runs[:5]] == [
        "12:00", "12:00", "11 Nov", "15 Oct", "2 Jul 2022"]


@pytest.mark.parametrize(("search", "found"), [
    ("", True), ("MY_lora", True), ("finished turbo", True), ("bright", True), ("lokr", True), ("lokr stopped", False)])
def test_search_finds_all_words(page: Page, search: str, found: bool) -> None:
    assert call(page, "matches", RUN, search) is found


def test_same_names_carry_their_time(page: Page) -> None:
    runs = [RUN, RUN | {"started": NOON + 60}, RUN | {"name": "choir"}]
    assert call(page, "labels", runs, NOON * 1000) == ["my_lora, 12:00", "my_lora, 12:01", "choir"]


def test_sparkline_fills_its_box(page: Page) -> None:
    assert call(page, "sparkline", [2, 1, 0]) == "M0.0 0.0L50.0 50.0L100.0 100.0"
    assert call(page, "sparkline", [1, 1]) == "M0.0 50.0L100.0 50.0"
    assert call(page, "sparkline", [1]) == ""


def test_event_is_later_than_list(page: Page) -> None:
    event = {"status": "cancelled", "training": [41, 100], "metrics": {"loss": 0.3}, "step": 1, "total": 2}
    found = call(page, "withEvent", RUN, event)
    assert (found["status"], found["step"], found["total"], found["loss"]) == ("stopped", 41, 100, 0.3)


def test_only_different_settings_are_listed(page: Page) -> None:
    other = RUN | {"settings": {"adapter": {"rank": 8, "dora": True}, "train": {"seed": 1, "device": "cpu"}}}
    assert call(page, "differences", [RUN, other], module="comparing") == [
        ["rank", ["16", "8"]], ["dora", ["-", "on"]]]
    assert call(page, "differences", [RUN, RUN], module="comparing") == []


def test_compared_curves_share_axes(page: Page) -> None:
    curves = [[{"step": 1, "smoothed": 2.0}, {"step": 9, "smoothed": 1.0}], [], [{"step": 20, "smoothed": 4.0}]]
    found = call(page, "commonRange", curves, "smoothed", False, module="comparing")
    assert found["x"] == [1, 21]
    assert found["y"][0] < 1 < 4 < found["y"][1]
    assert call(page, "commonRange", curves, "heldout", False, module="comparing") is None


def test_values_are_read_per_step(page: Page) -> None:
    curves = [[{"step": 1, "heldout": 2.0}, {"step": 5, "loss": 1.0}, {"step": 9, "heldout": 1.0}],
              [{"step": 7, "heldout": 3.0}], []]
    assert call(page, "readAt", curves, "heldout", 5, module="comparing") == [{"step": 1, "value": 2}, None, None]


@pytest.mark.parametrize(("status", "severity", "summary", "detail"), [
    ("finished", "success", "choir is finished", "choir.safetensors is there. Use it in Side-Step, Runs."),
    ("cancelled", "info", "choir stopped at step 1,200 of 2,000",
     "What is done is kept. Continue it in Side-Step, Runs."),
    ("failed", "error", "choir failed", "choir.safetensors is there.")])
def test_end_is_in_words(page: Page, status: str, severity: str, summary: str, detail: str) -> None:
    event = {"status": status, "training": [1200, 2000], "message": "choir.safetensors is there."}
    assert call(page, "ending", event, "choir", module="endings") == {
        "severity": severity, "summary": summary, "detail": detail}


def test_one_page_claims_an_end(page: Page) -> None:
    assert [call(page, "claim", "a", time, module="claims") for time in (0, 9000, 11_000, 11_500)] == [
        True, False, True, False]
    assert call(page, "claim", "b", 0, module="claims")


def test_title_of_comfyui_is_restored(page: Page) -> None:
    assert page.evaluate("""async (url) => {
        const { createTitle } = await import(url);
        const settled = () => new Promise((resolve) => setTimeout(resolve));
        const seen = [];
        const title = createTitle();
        document.title = 'theirs';
        title.show('41 %');
        document.title = '[42%] theirs';
        await settled();
        seen.push(document.title);
        title.show('43 %');
        await settled();
        seen.push(document.title);
        title.restore();
        await settled();
        seen.push(document.title);
        document.title = 'new';
        await settled();
        return [...seen, document.title];
    }""", f"/extensions/{PACK_NAME}/runs/title.js") == ["41 %", "43 %", "[42%] theirs", "new"]


def test_songs_learned_by_heart_are_listed(page: Page) -> None:
    assert "Learned by heart" not in dict(call(page, "facts", RUN))
    assert dict(call(page, "facts", RUN | {"by_heart": ["a.wav", "b.wav"]}))["Learned by heart"] == "a.wav, b.wav"
