"""Report on a run in a browser: it shows, and it loads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from sidestep_core.runs import curve, report, summary
from sidestep_core.runs.report import Preview, Report
from tests.run_folders import write_run

HOSTILE = '<img src="https://example.org/a.png" onerror="document.title = 1"><script>document.title = 2</script>'


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_loads_nothing(browser: Browser, tmp_path: Path, scheme: str) -> None:
    folder = write_run(tmp_path / "song", name=HOSTILE, finished=True)
    index = curve.read(folder / "metrics.jsonl")
    rows = curve.thinned(folder / "metrics.jsonl", index, after=-1, points=2000).rows
    file = tmp_path / "report.html"
    file.write_text(report.html(Report(run=summary.read(folder, index), rows=rows,
                                       previews=[Preview(step=0, flac=b"fLaC")])), encoding="utf-8")
    with browser.new_context(color_scheme="dark" if scheme == "dark" else "light") as context:
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_load_state("networkidle")
        assert asked == [file.as_uri()]
        assert page.title() == f"{HOSTILE}: training report"
        assert page.get_by_role("heading", level=1).inner_text() == HOSTILE
        assert page.locator("img, script").count() == 0
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 24)"
        assert dark == (scheme == "dark")
        box = page.locator(".smoothed").first.bounding_box()
        assert box is not None
        assert box["width"] > 400
