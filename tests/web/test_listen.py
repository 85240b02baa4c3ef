"""The tab Listen: takes in step, equally loud, chosen by keys, voted for blindly, kept and used."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, open_page
from demo.server import PACK_NAME, ComfyUI
from sidestep_core.audio import decode
from sidestep_core.compare import comparison
from sidestep_core.compare.comparison import Comparison, Take
from tests.music import music
from tests.web import screenshots
from tests.web.accessibility import assert_accessible

RUN = "calm-0a1b"
LUFS = (-20.0, -14.0, -17.5, None)
TAB = ".sidestep-listen-tab"
PLAYER = f"{TAB} .sidestep-listen-player"
SECONDS = 4.0
IN_STEP = 0.25
"""Seconds that pass while a test asks the page twice."""


@pytest.fixture(scope="module")
def made(server: ComfyUI) -> Comparison:
    """A comparison of a file at two strengths and a checkpoint, and a run with two previews."""
    root = server.base / "output" / "sidestep"
    song = music(bars=2)[:, :round(SECONDS * decode.SAMPLE_RATE)]
    names = (("base", 0.0, ""), ("mine", 0.7, "mine.safetensors"), ("mine", 1.0, "mine.safetensors"),
             ("mine step 20", 1.0, "late.safetensors"))
    takes = tuple(Take(name=name, strength=strength, adapter_file=file, lufs=lufs)
                  for (name, strength, file), lufs in zip(names, LUFS, strict=True))
    found = Comparison(id=comparison.new_id(), created=time.time(), prompt="calm piano", lyrics="", seed=7, steps=8,
                       cfg=1.0, sampler="euler", scheduler="simple", denoise=1.0, seconds=SECONDS, takes=takes)
    comparison.write(root / "comparisons", found, [decode.flac(song * gain) for gain in (0.2, 0.4, 0.6, 0.8)])
    previews = root / "runs" / RUN / "previews"
    previews.mkdir(parents=True)
    (previews.parent / "run.json").write_text("{}", encoding="utf-8")
    (previews / "settings.json").write_text(json.dumps({"caption": "rain", "seed": 3}), encoding="utf-8")
    for step, gain in ((0, 0.2), (20, 0.4)):
        (previews / f"step-{step:06d}.flac").write_bytes(decode.flac(song * gain))
    for name in ("mine", "late"):
        (server.base / "models" / "loras" / f"{name}.safetensors").parent.mkdir(parents=True, exist_ok=True)
        (server.base / "models" / "loras" / f"{name}.safetensors").touch()
    return found


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI, made: Comparison) -> Iterator[Page]:
    comparison.update(server.base / "output" / "sidestep" / "comparisons", made)  # without votes of the other page
    configure(server, nodes_2=request.param)
    with open_page(browser, server) as opened:
        opened.evaluate("() => window.app.extensionManager.command.execute('SideStep.Listen')")
        expect(opened.locator(f"{PLAYER} .sidestep-listen-row")).to_have_count(4)
        expect(opened.locator(f"{PLAYER} .sidestep-listen-play")).to_be_enabled()
        yield opened


def engine(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(f"() => document.querySelector('{PLAYER}').engine.state()")
    return found


def module(page: Page, expression: str) -> Any:
    return page.evaluate(f"async () => {{ const m = await import('/extensions/{PACK_NAME}/listen/levels.js');"
                         f" return {expression}; }}")


def names(page: Page) -> list[str]:
    return page.locator(f"{PLAYER} .sidestep-listen-name").all_inner_texts()


def test_rows_show_prompt_and_strengths(page: Page) -> None:
    assert names(page) == ["base", "mine at 0.7", "mine at 1", "mine step 20 at 1"]
    expect(page.locator(f"{TAB} .sidestep-listen-prompt")).to_have_text("calm piano")
    expect(page.locator(f"{TAB} .sidestep-listen-facts")).to_have_text("Seed 7, 8 steps, cfg 1")
    gains = page.locator(f"{PLAYER} .sidestep-listen-gain").all_inner_texts()
    assert gains == ["as it is", "\u22126.0 dB", "\u22122.5 dB", "as it is"]
    assert page.locator(f"{PLAYER} .sidestep-peaks").first.get_attribute("d")


def test_keys_switch_in_step(page: Page) -> None:
    """The place is kept, exactly one take is heard, and ComfyUI gets none of the keys."""
    page.evaluate("() => { window.keys = []; window.addEventListener('keydown', ({ key }) => window.keys.push(key)); }")
    page.locator(f"{PLAYER} .sidestep-listen-play").click()
    page.wait_for_function(f"() => document.querySelector('{PLAYER}').engine.state().time > 0.3")
    before = engine(page)
    page.keyboard.press("3")
    page.wait_for_timeout(100)
    after = engine(page)
    assert (before["chosen"], after["chosen"], after["playing"]) == (0, 2, True)
    assert before["time"] < after["time"] < before["time"] + 0.1 + 4 * IN_STEP
    assert after["levels"][2] == pytest.approx(10 ** (-2.5 / 20), abs=1e-3)
    assert [level for index, level in enumerate(after["levels"]) if index != 2] == [0, 0, 0]
    page.keyboard.press("Space")
    assert not engine(page)["playing"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("9")
    assert engine(page)["chosen"] == 2
    assert page.evaluate("() => window.keys") == []
    expect(page.locator(f"{PLAYER} [aria-pressed=true] .sidestep-listen-name")).to_have_text("mine at 1")


def test_loop_repeats_a_passage(page: Page) -> None:
    state = page.evaluate(f"""async () => {{
        const {{ engine }} = document.querySelector('{PLAYER}');
        engine.seek(1);
        engine.setLoop([1, 1.4]);
        await engine.play();
        await new Promise((resolve) => setTimeout(resolve, 1200));
        const state = engine.state();
        engine.pause();
        engine.setLoop(null);
        return state;
    }}""")
    assert state["playing"]
    assert 1 <= state["time"] <= 1.4


def test_unchecked_loudness_plays_as_is(page: Page) -> None:
    page.get_by_label("Same loudness").first.uncheck()
    assert set(page.locator(f"{PLAYER} .sidestep-listen-gain").all_inner_texts()) == {"as it is"}
    page.get_by_label("Same loudness").first.check()


def test_blind_vote_is_kept(page: Page, server: ComfyUI, made: Comparison) -> None:
    before = server.get_json(f"/sidestep/comparisons/{made.id}")["votes"]
    page.locator(f"{PLAYER} >> text=Blind test").click()
    assert names(page) == ["A", "B", "C", "D"]
    hidden = page.locator(PLAYER).inner_html()
    assert "mine" not in hidden
    assert "LUFS" not in hidden
    page.locator(PLAYER).get_by_role("button", name="Vote for take B").click()
    expect(page.locator(f"{PLAYER} [role=status]")).to_contain_text("You chose ")
    after = server.get_json(f"/sidestep/comparisons/{made.id}")["votes"]
    assert sum(after) == sum(before) + 1
    [voted] = [index for index in range(4) if after[index] > before[index]]
    assert names(page)[1].startswith(made.takes[voted].name)
    assert f"{after[voted]} blind vote" in names(page)[1]


def test_kept_take_is_used(page: Page, server: ComfyUI, made: Comparison) -> None:
    page.evaluate("() => window.app.graph.clear()")
    page.locator(f"{PLAYER} .sidestep-listen-take", has_text="mine at 0.7").click()
    page.locator(PLAYER).get_by_role("button", name="Keep this one").click()
    expect(page.locator(f"{PLAYER} [role=status]")).to_contain_text("Kept: mine at 0.7")
    assert server.get_json(f"/sidestep/comparisons/{made.id}")["kept"] == 2
    page.locator(PLAYER).get_by_role("button", name="Use it").click()
    expect(page.locator(f"{PLAYER} [role=status]")).to_contain_text("Connect your model to it")
    nodes = page.evaluate("() => window.app.graph.nodes.map(({ type, widgets }) => [type, widgets[0].value])")
    assert nodes == [["SideStepLoadAdapter", "mine.safetensors"], ["SideStepApplyAdapter", 0.7]]


def test_tab_is_accessible(page: Page) -> None:
    assert_accessible(page, TAB)
    screenshots.keep(page, "listen")


def test_node_shows_its_takes(page: Page, made: Comparison) -> None:
    page.evaluate("""id => {
        const node = window.LiteGraph.createNode('SideStepCompareAdapters');
        window.app.graph.add(node);
        node.onExecuted({ sidestep: [{ comparison: id }] });
    }""", made.id)
    expect(page.locator(".sidestep-listen-node .sidestep-listen-row")).to_have_count(4)


def test_previews_of_runs_are_listed(page: Page) -> None:
    page.locator(".sidestep-listen-source").select_option(f"run/{RUN}")
    expect(page.locator(f"{PLAYER} .sidestep-listen-row")).to_have_count(2)
    assert [name.partition(",")[0] for name in names(page)] == ["Before training", "Step 20"]
    expect(page.locator(f"{TAB} .sidestep-listen-prompt")).to_have_text("rain")
    expect(page.locator(f"{PLAYER} .sidestep-listen-gain").nth(1)).to_have_text("\u22126.0 dB")
    expect(page.locator(PLAYER).get_by_role("button", name="Keep this one")).to_be_hidden()


def test_previews_are_voted_for_blindly(page: Page, server: ComfyUI) -> None:
    def votes() -> dict[int, int]:
        made = server.get_json(f"/sidestep/runs/{RUN}/takes")["previews"]
        return {each["step"]: each["votes"] for each in made}

    before = votes()
    page.locator(f"{PLAYER} >> text=Blind test").click()
    assert names(page) == ["A", "B"]
    page.locator(PLAYER).get_by_role("button", name="Vote for take A").click()
    status = page.locator(f"{PLAYER} [role=status]")
    expect(status).to_contain_text("You chose ")
    after = votes()
    [voted] = [step for step in (0, 20) if after[step] == before[step] + 1]
    assert sum(after.values()) == sum(before.values()) + 1
    name = "Before training" if voted == 0 else "Step 20"
    expect(status).to_have_text(f"You chose {name}.")
    assert names(page)[0].startswith(f"{name}, {after[voted]} blind vote")


def test_levels_are_pure(page: Page) -> None:
    assert module(page, "m.gains([-20, -14, null])") == [0, -6, 0]
    assert module(page, "m.gains([-60, -14])") == [0, -12]
    assert module(page, "m.gains([-14])") == [0]
    assert module(page, "m.spread([...Array(20).keys()], 9)") == [0, 2, 5, 7, 10, 12, 14, 17, 19]
    assert sorted(module(page, "m.shuffled(9)")) == list(range(9))
    assert module(page, "m.shuffled(3, () => 0)") == [1, 2, 0]
    assert module(page, "m.bars(new Float32Array(800).fill(-0.5), 0.5)") == [0.25] * 100
