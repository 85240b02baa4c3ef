"""Monitor benchmark: a finished run of 100 000 steps in ComfyUI's real page, from its folder to the drawn curve.

`first_paint_ms`: from asking the server for the run to the drawn curve, the best of a few times, as whatever else the
machine does only ever adds; the server has read the file once, which `first_read_ms` includes.  `memory_mb`: JavaScript
heap of the page with the curve, less that of the same page with the empty panel, both after a collection.
`longest_frame_ms`: the longest frame while a pointer reads the curve at 120 places and zooms in five times, with finer
points from the server each time, the best of a few rounds; `longest_frame_without_ms` is the same pointer over the
empty canvas, which is ComfyUI's own and the machine's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import CDPSession, Page

import run
from demo.browser import chromium, configure, open_page
from tests.run_folders import write_metrics, write_run
from tests.running import demo_comfyui
from tests.web.test_live_curve import open_trainer
from tests.web.test_restored_run import ADOPT, NODE, STEPS, WORKFLOW

ROUNDS = 8
PLACES = 120
ZOOMS = 5
TARGETS = {"first_paint_ms": 300.0, "memory_mb": 60.0, "longest_frame_ms": 100.0}
IN_SIGHT = """() => {
    const { canvas, graph } = window.app;
    const { pos } = graph.nodes[0];
    canvas.ds.scale = 1;
    canvas.ds.offset = [100 - pos[0], 60 - pos[1]];
    canvas.setDirty(true, true);
}"""
WATCH = """() => {
    const frames = [];
    let last = performance.now();
    const next = (now) => {
        frames.push(now - last);
        last = now;
        if (window.frames === frames) requestAnimationFrame(next);
    };
    window.frames = frames;
    requestAnimationFrame((now) => { last = now; requestAnimationFrame(next); });
}"""
LONGEST = "() => { const { frames } = window; window.frames = null; return Math.max(...frames); }"


def write_long_run(base: Path) -> None:
    folder = write_run(base / "output" / "sidestep" / "runs" / "long-0123456789abcdef", started=3e9,
                       checkpoints=(STEPS // 2,), total=STEPS, node_id=str(NODE), workflow_id=WORKFLOW)
    write_metrics(folder / "metrics.jsonl", STEPS)


def heap(session: CDPSession) -> float:
    """Used bytes of the page's JavaScript heap after a collection."""
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"])


def restored(page: Page) -> float:
    """Milliseconds until the curve of the run is drawn on a new node."""
    open_trainer(page)
    page.evaluate(IN_SIGHT)
    milliseconds: float = page.evaluate(ADOPT, [NODE, WORKFLOW])
    return milliseconds


def read(page: Page, box: dict[str, float]) -> None:
    """Move the pointer over a part of the page, from left to right."""
    for place in range(PLACES // ZOOMS):
        page.mouse.move(box["x"] + box["width"] * (place + 0.5) * ZOOMS / PLACES, box["y"] + box["height"] / 2)


def zoom(page: Page, box: dict[str, float]) -> None:
    """Drag over the right two thirds of a part of the page."""
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.wait_for_timeout(200)


def longest_frame(page: Page, box: Any) -> float:
    """Milliseconds of the longest frame while a part of the page is read and zoomed."""
    page.evaluate(WATCH)
    for _ in range(ZOOMS):
        read(page, box)
        zoom(page, box)
    longest: float = page.evaluate(LONGEST)
    return longest


def measure(page: Page) -> dict[str, float]:
    """The figures, by name."""
    session = page.context.new_cdp_session(page)
    session.send("Runtime.enable")
    first = restored(page)
    open_trainer(page)
    empty = heap(session)
    times = [restored(page) for _ in range(ROUNDS)]
    grown = heap(session) - empty
    plot = page.locator(".sidestep-plot")
    frames, others = [], []
    for _ in range(ROUNDS):
        frames.append(longest_frame(page, plot.bounding_box()))
        assert page.locator(".sidestep-steps span").first.text_content() != "0", "The chart was not zoomed."
        plot.dblclick()
        others.append(longest_frame(page, {"x": 900.0, "y": 300.0, "width": 300.0, "height": 200.0}))
    return {"first_read_ms": round(first), "first_paint_ms": round(min(times)),
            "memory_mb": round(grown / 1e6, 1), "longest_frame_ms": round(min(frames)),
            "longest_frame_without_ms": round(min(others))}


def main() -> int:
    """Print the figures and the JSON line; return 1 if a target is missed."""
    os.environ.setdefault("CHROMIUM", str(run.bootstrap.chromium()))
    with TemporaryDirectory() as folder, demo_comfyui(Path(folder)) as server, chromium() as browser:
        write_long_run(Path(folder))
        configure(server, nodes_2=False)
        with open_page(browser, server) as page:
            found = measure(page)
    for name, target in TARGETS.items():
        sys.stdout.write(f"{name:<18} {found[name]:8.1f}  (target <= {target:g})\n")
    sys.stdout.write(json.dumps(found) + "\n")
    return int(any(found[name] > target for name, target in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
