"""The tab Runs of the sidebar: every run, live while it trains, with its actions, and runs compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from demo.browser import configure, load
from demo.server import PACK_NAME, ComfyUI
from tests.run_folders import write_run
from tests.web import screenshots
from tests.web.accessibility import assert_accessible

NODE = "7"
WORKFLOW = {"id": "3f0a1b2c-0000-4000-8000-000000000001", "nodes": [], "links": [], "version": 0.4}
TOAST = ".p-toast-message:has-text('my_lora')"


@pytest.fixture
def runs(page: Page, server: ComfyUI) -> Iterator[Path]:
    """The server's folder of runs, empty, and the page's tab Runs."""
    folder = server.base / "output" / "sidestep" / "runs"
    aside = folder.with_name("aside")
    if folder.exists():
        folder.rename(aside)
    folder.mkdir(parents=True)
    show_runs(page)
    expect(page.get_by_role("tabpanel", name="Runs")).to_contain_text("No training yet.")
    yield folder
    server.interrupt()
    shutil.rmtree(folder)
    if aside.exists():
        aside.rename(folder)


def show_runs(page: Page) -> Locator:
    """Open the tab Runs, again if it is open."""
    page.evaluate("""async () => {
        const { sidebarTab, command } = window.app.extensionManager;
        const frame = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
        sidebarTab.activeSidebarTabId = null;
        while (document.querySelector('.sidestep-sidebar')) await frame();
        await frame();
        await command.execute('SideStep.ShowRuns');
    }""")
    return page.locator(".sidestep-run")


def row(page: Page, name: str) -> Locator:
    return page.locator(".sidestep-run", has=page.locator(f".sidestep-run-name:text-is('{name}')"))


def open_row(page: Page, name: str) -> Locator:
    found = row(page, name)
    found.locator(".sidestep-run-open").click()
    return found


def train(server: ComfyUI, runs: Path, steps: int, seconds: float) -> str:
    """Train my_lora-0001, whose folder says that it is finished, at this speed."""
    folder = write_run(runs / "my_lora-0001", name="my_lora", finished=True, ended="finished")
    inputs = {"metrics_file": str(folder / "metrics.jsonl"), "steps": steps, "step_seconds": seconds,
              "pause_at_end": 0.0}
    return server.submit({NODE: {"class_type": "TestsDriveSteps", "inputs": inputs}})


def workflow_of(folder: Path) -> None:
    node = {"id": int(NODE), "type": "Note", "pos": [100, 100], "size": [200, 100], "flags": {}, "order": 0, "mode": 0,
            "inputs": [], "outputs": [], "properties": {}, "widgets_values": [""]}
    (folder / "workflow.json").write_text(json.dumps(WORKFLOW | {"nodes": [node]}), encoding="utf-8")


def test_runs_are_listed_in_words(page: Page, runs: Path) -> None:
    write_run(runs / "a", name="old", steps=100, finished=True, ended="finished")
    write_run(runs / "b", name="new", started=2000.0, ended="failed", message="No space is left.")
    found = show_runs(page)
    expect(found.locator(".sidestep-run-name")).to_have_text(["new", "old"])
    expect(found.locator(".sidestep-run-status")).to_have_text(["Failed · step 50 of 100", "Finished · 100 steps"])
    expect(found.locator(".sidestep-run-result").first).to_have_text("No space is left.")
    expect(page.locator(".sidestep-runs-group")).to_have_text(["Earlier"])
    expect(page.locator(".sidestep-search")).to_be_hidden()


def test_training_is_followed_throughout(page: Page, browser: Browser, server: ComfyUI, runs: Path) -> None:
    show_runs(page)
    title = page.title()
    second = page.context.new_page()
    load(second, server.address)
    prompt = train(server, runs, 100, 0.03)
    found = row(page, "my_lora")
    expect(found.locator(".sidestep-run-status")).to_contain_text("Training · step")
    expect(found.locator("[data-action=pause]")).to_be_visible()
    for each in (page, second):
        each.wait_for_function("() => / % · my_lora$/.test(document.title)")
    assert server.wait(prompt, 60).status == "success"
    expect(found.locator(".sidestep-run-status")).to_have_text("Finished · 100 steps")
    expect(page.get_by_role("status").filter(has_text="my_lora: finished.")).to_have_count(1)
    for each in (page, second):
        each.wait_for_function("title => document.title === title", arg=title)
    page.wait_for_timeout(500)
    assert page.locator(TOAST).count() + second.locator(TOAST).count() == 1
    second.close()


def test_stopped_training_says_so(page: Page, server: ComfyUI, runs: Path) -> None:
    show_runs(page)
    prompt = train(server, runs, 5000, 0.02)
    row(page, "my_lora").locator(".sidestep-run-open").click()
    row(page, "my_lora").locator("[data-action=stop]").click()
    server.wait(prompt, 60)
    expect(page.locator(TOAST, has_text="my_lora stopped at step")).to_have_count(1)
    expect(row(page, "my_lora").locator("[data-action=stop]")).to_have_count(0)


def test_note_is_kept(page: Page, runs: Path) -> None:
    folder = write_run(runs / "a", name="old", ended="stopped")
    show_runs(page)
    note = open_row(page, "old").get_by_role("textbox", name="Note about old")
    note.fill("Too <b>bright</b>")
    note.press("Tab")
    expect(page.locator(".sidestep-runs-status")).to_have_text("The note about old is kept.")
    assert (folder / "note.txt").read_text(encoding="utf-8") == "Too <b>bright</b>"
    load(page, page.url)
    show_runs(page)
    expect(open_row(page, "old").get_by_role("textbox", name="Note about old")).to_have_value("Too <b>bright</b>")


def test_delete_asks_with_the_name(page: Page, runs: Path) -> None:
    folder = write_run(runs / "a", name="old", ended="stopped")
    show_runs(page)
    button = open_row(page, "old").locator("[data-action=delete]")
    button.click()
    dialog = page.get_by_role("dialog", name="Delete this run?")
    expect(dialog).to_contain_text("old")
    dialog.get_by_role("button", name="Cancel").click()
    assert folder.is_dir()
    button.click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator(".sidestep-run")).to_have_count(0)
    assert not folder.exists()


def test_adapter_of_run_is_used(page: Page, server: ComfyUI, runs: Path) -> None:
    adapter = server.base / "models" / "loras" / "old.safetensors"
    adapter.parent.mkdir(parents=True, exist_ok=True)
    adapter.touch()
    write_run(runs / "a", name="old", steps=100, finished=True, ended="finished", files=["old.safetensors"])
    show_runs(page)
    row(page, "old").get_by_role("button", name="Use it: old").click()
    expect(page.locator(".sidestep-runs-status")).to_contain_text("Connect your model to it.")
    assert page.evaluate("""() => window.app.graph.nodes.filter(({ type }) => type === 'SideStepLoadAdapter')
        .map(({ widgets }) => widgets[0].value)""") == ["old.safetensors"]
    adapter.unlink()


def test_workflow_of_run_reopens(page: Page, runs: Path) -> None:
    workflow_of(write_run(runs / "a", name="old", ended="stopped", node_id=NODE, workflow_id=WORKFLOW["id"]))
    show_runs(page)
    show = open_row(page, "old").locator("[data-action=show]")
    show.click()
    answer = page.get_by_role("dialog", name="Open the workflow of this run?")
    expect(answer.or_(page.locator(".sidestep-runs-status:not(:empty)")).first).to_be_visible()
    if answer.count():
        answer.get_by_role("button", name="Confirm").click()
    expect(page.locator(".sidestep-runs-status")).to_have_text("old was trained by this node.")
    page.wait_for_function("id => Object.keys(window.app.canvas.selected_nodes).includes(id)", arg=NODE)
    assert page.evaluate("() => window.app.graph.id") == WORKFLOW["id"]


def test_stopped_run_is_continued(page: Page, runs: Path) -> None:
    workflow_of(write_run(runs / "a", name="old", ended="stopped", node_id=NODE, workflow_id=WORKFLOW["id"]))
    page.evaluate("""async (workflow) => {
        await window.app.loadGraphData(workflow);
        window.app.queuePrompt = async () => { window.pressedRun = window.app.graph.id; };
    }""", json.loads((runs / "a" / "workflow.json").read_text(encoding="utf-8")))
    show_runs(page)
    row(page, "old").get_by_role("button", name="Continue: old").click()
    expect(page.locator(".sidestep-runs-status")).to_have_text("old goes on at step 50 when its turn comes.")
    assert page.evaluate("() => window.pressedRun") == WORKFLOW["id"]


def test_refusal_is_shown(page: Page, runs: Path) -> None:
    write_run(runs / "a", name="old", ended="stopped")
    show_runs(page)
    delete = open_row(page, "old").locator("[data-action=delete]")
    shutil.rmtree(runs / "a")
    delete.click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".sidestep-runs-status")).to_have_text("This run is gone.")


def test_many_runs_stay_smooth(page: Page, server: ComfyUI, runs: Path) -> None:
    """One event changes one row, of as many as there are."""
    for number in range(60):
        write_run(runs / f"run-{number}", name=f"run {number}", started=1000.0 + number, ended="stopped", steps=5)
    prompt = train(server, runs, 5000, 0.02)
    show_runs(page)
    expect(page.locator(".sidestep-run")).to_have_count(61)
    expect(row(page, "my_lora").locator(".sidestep-run-status")).to_contain_text("Training · step")
    changed = page.evaluate("""() => new Promise((resolve) => {
        const changed = new Set();
        const observer = new MutationObserver((records) => {
            for (const { target } of records) {
                const element = target.nodeType === 1 ? target : target.parentElement;
                changed.add(element?.closest('.sidestep-run')?.querySelector('.sidestep-run-name').textContent);
            }
        });
        observer.observe(document.querySelector('.sidestep-runs-list'),
                         { subtree: true, childList: true, attributes: true, characterData: true });
        setTimeout(() => { observer.disconnect(); resolve([...changed]); }, 1000);
    })""")
    assert changed == ["my_lora"]
    server.interrupt()
    server.wait(prompt, 60)
    search = page.get_by_role("searchbox", name="Search runs")
    search.fill("run 59")
    expect(page.locator(".sidestep-run:visible")).to_have_count(1)
    search.fill("")


def test_ticked_runs_are_compared(page: Page, runs: Path) -> None:
    for number, rank in enumerate((8, 16)):
        write_run(runs / f"run-{number}", name=f"rank {rank}", started=1000.0 - number, steps=60 + 40 * number,
                  ended="stopped", settings={"adapter": {"kind": "lora", "rank": rank}, "train": {"seed": 1}})
    show_runs(page)
    for name in ("rank 8", "rank 16"):
        page.get_by_role("checkbox", name=f"Compare {name} with others").check()
    page.get_by_role("button", name="Compare 2 runs").click()
    panel = page.locator(".sidestep-comparison")
    expect(panel.locator(".sidestep-curves path")).to_have_count(2)
    expect(panel.locator(".sidestep-legend-value")).to_have_text(["0.017 at step 60", "0.010 at step 100"])
    expect(panel.locator("tbody tr")).to_have_text(["rank816"])
    panel.get_by_role("button", name="Held-out").click()
    expect(panel.locator(".sidestep-series-dots")).to_have_count(2)
    linear = panel.locator(".sidestep-curves path").first.get_attribute("d")
    panel.get_by_role("checkbox", name="Log scale").check()
    assert panel.locator(".sidestep-curves path").first.get_attribute("d") != linear
    panel.locator(".sidestep-plot").focus()
    page.keyboard.press("ArrowRight")
    expect(panel.locator(".sidestep-legend-value")).to_have_text(["3.000 at step 0", "3.000 at step 0"])


def test_panel_chooses_its_run(page: Page, runs: Path) -> None:
    for name in ("first", "second"):
        write_run(runs / name, name=name, ended="stopped")
    compare = f"async (id) => (await import('/extensions/{PACK_NAME}/runs/actions.js')).compareRun(id)"
    page.evaluate(compare, "second")
    expect(page.get_by_role("checkbox", name="Compare second with others")).to_be_checked()
    expect(page.get_by_role("checkbox", name="Compare first with others")).not_to_be_checked()
    expect(page.locator(".sidestep-runs-status")).to_have_text("Tick another run to compare second with.")
    page.evaluate(compare, "first")
    expect(page.get_by_role("button", name="Compare 2 runs")).to_be_visible()


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_runs_are_accessible(page: Page, server: ComfyUI, runs: Path, palette: str) -> None:
    configure(server, nodes_2=False, palette=palette)
    for number, end in enumerate(("stopped", "failed")):
        write_run(runs / f"run-{number}", name=end, ended=end)
    load(page, server.address)
    show_runs(page)
    open_row(page, "failed")
    for name in ("failed", "stopped"):
        page.get_by_role("checkbox", name=f"Compare {name} with others").check()
    page.get_by_role("button", name="Compare 2 runs").click()
    expect(page.locator(".sidestep-comparison .sidestep-curves path")).to_have_count(2)
    assert_accessible(page, ".sidestep-sidebar")
    assert_accessible(page, ".sidestep-comparison")
    screenshots.keep(page, f"runs-{palette}")
