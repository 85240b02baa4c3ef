"""Every language in ComfyUI's page: none of our texts is left in English, and none is cut off."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, load, open_page
from demo.examples import TRAINER
from demo.server import PACK_NAME, ComfyUI
from sidestep_core.audio import decode
from sidestep_core.compare import comparison
from sidestep_core.compare.comparison import Comparison, Take
from sidestep_core.sentence import Sentence
from tests.music import music
from tests.run_folders import write_run
from tests.web.test_plan_panel import CHANGED, FITS
from tests.web.test_words import LANGUAGES, PLACEHOLDER, english, forms, translated

FEWEST = 4
"""Letters of a text that is recognised at all."""
LONG = 12
"""Letters of a text that is recognised within another one."""
PATIENCE = 30_000
SETTLED = 200
"""Milliseconds in which a panel draws its state."""
SLACK = 1.5
"""Pixels."""
PARTS = ".sidestep-sidebar, .sidestep-panel, .sidestep-dialog, .sidestep-comparison, .sidestep-listen-node"
FROM_FILES = ".sidestep-name, .sidestep-caption, .sidestep-run-name, .sidestep-listen-name, .sidestep-listen-prompt"
"""Names and captions, which are as long as people make them."""
FIX = {"sentence": Sentence("{change} would save {size} GB", change=Sentence("crops of {seconds} s", seconds=30),
                            size=0.6).to_json(),
       "setting": "chunk_duration", "value": 30, "fits": True, "place": {"node": "1", "widget": "chunk_duration"}}
PLAN = FITS | {"name": Sentence("{name} is taken: {other} will be written.", name="lora", other="lora-2").to_json(),
               "message": Sentence("Run goes on at step {step}.", step=1200).to_json(),
               "verdict": "too_large", "fix": FIX, "left_out": 1, "problems": ["x.mp3"], "seconds": 9000.0}
STATE = {"run": "my_lora-1", "node_id": "1", "workflow": None, "stage": "train", "step": 1200, "total": 2000,
         "training": [1200, 2000], "message": "", "measured_on": "held_out",
         "sentences": [Sentence("Saving and proving the adapter").to_json()], "elapsed_seconds": 900.0,
         "saved": [1000], "output": {},
         "metrics": {"step_seconds": 0.42, "eta_seconds": 7500.0, "memory_used": 6e9, "memory_predicted": 7e9,
                     "memory_total": 8.5e9, "epoch": 12.0},
         "points": [{"step": step, "loss": 1 + 100 / step, "smoothed": 1 + 100 / step, "lr": 1e-4, "t0.1": 0.5,
                     **({"heldout": 1.1 + abs(step - 600) / 1e3, "heldout_error": 0.1} if step % 100 == 0 else {})}
                    for step in range(10, 1210, 10)],
         "previews": [{"step": 0, "message": ""}, {"step": 1000, "message": ""}]}
NODES = """types => {
    const { graph, canvas } = window.app;
    graph.clear();
    types.forEach((type, index) => {
        const node = LiteGraph.createNode(type);
        node.pos = [40 + 480 * index, 60];
        graph.add(node);
    });
    canvas.ds.scale = 1;
    canvas.ds.offset = [340, 0];
    canvas.setDirty(true, true);
}"""
SHOW = """async ([folder, event]) => {
    const { advance } = await import(`${folder}/progress/progress.js`);
    const { panel } = window.app.graph.nodes[0].widgets.find((widget) => widget.panel);
    panel.show(advance(null, event));
    panel.resized();
}"""
COMMAND = "name => window.app.extensionManager.command.execute(name)"
READ = """([parts, fromFiles, slack]) => {
    const texts = new Set();
    const cut = new Set();
    const isCut = (node, root) => {
        const range = document.createRange();
        range.selectNodeContents(node);
        const text = range.getBoundingClientRect();
        const checked = { x: true, y: true };
        for (let each = node.parentElement; each; each = each === root ? null : each.parentElement) {
            const style = getComputedStyle(each);
            const box = each.getBoundingClientRect();
            if (checked.x && style.overflowX.match(/auto|scroll/)) checked.x = false;
            if (checked.y && style.overflowY.match(/auto|scroll/)) checked.y = false;
            const own = each === node.parentElement && style.display !== 'inline';
            const hides = style.overflowX !== 'visible' || own;
            if (checked.x && hides && (text.right > box.right + slack || text.left < box.left - slack)) return true;
            if (checked.y && style.overflowY !== 'visible' && text.bottom > box.bottom + slack) return true;
        }
        return false;
    };
    for (const root of document.querySelectorAll(parts)) {
        for (const element of [root, ...root.querySelectorAll('*')]) {
            for (const name of ['title', 'aria-label', 'placeholder', 'aria-description', 'label']) {
                if (element.getAttribute(name)) texts.add(element.getAttribute(name));
            }
            for (const node of element.childNodes) {
                const text = node.nodeType === Node.TEXT_NODE ? node.textContent.trim() : '';
                if (!text) continue;
                texts.add(text);
                const seen = element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length
                    && !element.matches('option, .sidestep-announced') && !element.closest(fromFiles);
                if (seen && isCut(node, root)) cut.add(`${element.className || element.tagName}: ${text}`);
            }
        }
    }
    return { texts: [...texts], cut: [...cut] };
}"""


@pytest.fixture(scope="module")
def page(browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """A page of a server with two runs and a comparison; its plans are long ones."""
    root = server.base / "output" / "sidestep"
    for name, end in (("first", "finished"), ("second", "stopped")):
        write_run(root / "runs" / f"{name}-0a1b", name=name, finished=end == "finished", ended=end,
                  started=time.time() - 5000, total=2000)
    takes = tuple(Take(name="mine", strength=strength, adapter_file="mine.safetensors", lufs=-14.0)
                  for strength in (0.7, 1.0))
    made = Comparison(id=comparison.new_id(), created=time.time(), prompt="-", lyrics="", seed=7, steps=8, cfg=1.0,
                      sampler="euler", scheduler="simple", denoise=1.0, seconds=1.0, takes=takes)
    song = music(bars=1)[:, :decode.SAMPLE_RATE]
    comparison.write(root / "comparisons", made, [decode.flac(song), decode.flac(song / 2)])
    configure(server, nodes_2=False)
    with open_page(browser, server, width=1500, height=1000) as opened:
        opened.route("**/sidestep/plan", lambda route: route.fulfill(
            status=200, content_type="application/json", body=json.dumps(PLAN)))
        yield opened
    configure(server, nodes_2=False, **{"Comfy.Locale": "en"})
    shutil.rmtree(root / "comparisons" / made.id)
    for name in ("first", "second"):
        shutil.rmtree(root / "runs" / f"{name}-0a1b")


class Seen:
    """Texts of our parts of a page, and those of them that are cut off."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.texts: set[str] = set()
        self.cut: set[str] = set()

    def look(self) -> None:
        found = self.page.evaluate(READ, [PARTS, FROM_FILES, SLACK])
        self.texts |= set(found["texts"])
        self.cut |= set(found["cut"])


def sidebar(page: Page, seen: Seen) -> None:
    page.evaluate(COMMAND, "SideStep.ShowRuns")
    expect(page.locator(".sidestep-run")).to_have_count(2)
    for opener in page.locator(".sidestep-run-open").all():
        opener.click()
    for tick in page.locator(".sidestep-run-tick").all():
        tick.check()
    seen.look()
    page.locator(".sidestep-compare").click()
    expect(page.locator(".sidestep-legend li")).to_have_count(2)
    seen.look()
    page.evaluate("() => window.app.extensionManager.bottomPanel.toggleBottomPanelTab('side-step-compare')")
    page.evaluate(COMMAND, "SideStep.Listen")
    expect(page.locator(".sidestep-listen-play:visible")).to_be_enabled()
    seen.look()
    page.evaluate(COMMAND, "SideStep.ShowSongs")
    page.locator(".sidestep-folder select").select_option("input:demo_songs")
    expect(page.locator(".sidestep-songs-tab [role=row]").first).to_be_visible(timeout=PATIENCE)
    page.locator(".sidestep-add summary").click()
    page.locator(".sidestep-bulk summary").click()
    seen.look()
    page.locator(".sidestep-songs-tab .sidestep-edit").first.click()
    seen.look()
    page.locator(".sidestep-edit-foot button[type=button]").click()


def dialog(page: Page, seen: Seen) -> None:
    page.evaluate(COMMAND, "SideStep.TrainOnMySongs")
    page.locator("[name=folder]").select_option("demo_songs")
    expect(page.locator(".sidestep-plan")).to_be_visible(timeout=PATIENCE)
    seen.look()
    page.locator(".sidestep-train-dialog .sidestep-edit-foot button[type=button]").click()


def panels(page: Page, seen: Seen) -> None:
    page.evaluate(NODES, [TRAINER, "SideStepAnalyzeSongs", "SideStepCompareAdapters"])
    page.evaluate(CHANGED)
    expect(page.locator(".sidestep-fix")).to_be_visible()
    seen.look()
    for status in ("running", "paused", "cancelled", "finished"):
        page.evaluate(SHOW, [f"/extensions/{PACK_NAME}", STATE | {"status": status}])
        page.wait_for_timeout(SETTLED)
        seen.look()


def left_in_english(texts: set[str], language: str) -> list[str]:
    """Texts that are, or hold, an English one that the language has another text for."""
    found = []
    for key in english():
        letters = len(re.sub(r"\W", "", PLACEHOLDER.sub("", key)))
        if letters < FEWEST or (language != "en" and key in forms(translated(language)[key])):
            continue
        pattern = re.compile(PLACEHOLDER.sub(".+", re.escape(key).replace(r"\{", "{").replace(r"\}", "}")))
        found += [text for text in texts if (pattern.search(text) if letters >= LONG else pattern.fullmatch(text))]
    return sorted(set(found))


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_page_speaks_language(page: Page, server: ComfyUI, language: str) -> None:
    configure(server, nodes_2=False, **{"Comfy.Locale": language})
    load(page, server.address)
    seen = Seen(page)
    sidebar(page, seen)
    dialog(page, seen)
    panels(page, seen)
    assert not seen.cut, "\n".join(seen.cut)
    left = left_in_english(seen.texts, language)
    if language == "en":
        assert len(left) > 150  # this would find them
    else:
        assert not left, "\n".join(left)


def test_server_sentence_is_worded(page: Page) -> None:
    """Values may be sentences, numbers are written as the language does, and a plain text stays."""
    found: list[Any] = page.evaluate("""async ([folder, nested]) => {
        const { loadWords, plural, worded } = await import(`${folder}/words.js?twin`);
        const all = () => [worded('Plain.'), worded(nested), plural(1, '{n} song', '{n} songs')];
        const before = all();
        await loadWords('tlh');
        await loadWords('fr');
        return [before, all()];
    }""", [f"/extensions/{PACK_NAME}", Sentence(
        "{songs}, {card}: {why}", songs=Sentence("{n} songs", one="{n} song", n=1200), card="x",
        why=Sentence("rank {rank}", rank=8)).to_json()])
    assert found == [["Plain.", "1,200 songs, x: rank 8", "1 song"],
                     ["Plain.", "1\u202f200 morceaux, x\u00a0: rang 8", "1 morceau"]]
