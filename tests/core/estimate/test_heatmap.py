"""Heatmaps of estimates, checked pixel by pixel."""

from __future__ import annotations

import itertools

import pytest
from PIL import Image

from sidestep_core.adapters.config import MLP_PROJECTIONS, PROJECTIONS
from sidestep_core.errors import ConfigError
from sidestep_core.estimate import heatmap
from sidestep_core.estimate.heatmap import BACKGROUND, MARGIN, RING, SCALE, WIDTH, Grid, colour, draw, draw_side_by_side
from sidestep_core.estimate.result import Estimate, ModuleScore

BEST, SECOND = "layers.1.self_attn.v_proj", "layers.0.cross_attn.q_proj"
LONG = "A title that is far too long for the width of the picture, with " + "very " * 40 + "many words"
LEAST_WIDTH = 24
"""Width of a colour in pixels of the whole picture; a node shows it at half the size."""
LIGHTNESS = (0.2126, 0.7152, 0.0722)


def estimate(layers: int, *, mlp: bool = True, batches: int = 96) -> Estimate:
    """Build an estimate with every module at 1 % of the best, except the second one."""
    names = [f"layers.{layer}.{part}.{projection}" for layer in range(layers)
             for part, projections in (("self_attn", PROJECTIONS), ("cross_attn", PROJECTIONS),
                                       ("mlp", MLP_PROJECTIONS if mlp else ())) for projection in projections]
    means = {BEST: 100.0, SECOND: 25.0}
    return Estimate(scores=tuple(ModuleScore(module=name, mean=means.get(name, 1.0)) for name in names), score="gain",
                    batches=batches, agreement=0.97, settings={})


def middle(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return (box[0] + box[2]) // 2, (box[1] + box[3]) // 2


@pytest.mark.parametrize("layers", [2, 4, 24, 32])
def test_cells_have_their_colours(layers: int) -> None:
    found = estimate(layers)
    picture, grid = draw(found, {BEST}, "title"), Grid.of([found])
    for score in found.scores:
        box = grid.cell(score.module)
        assert box is not None
        assert picture.getpixel(middle(box)) == colour(score.mean / 100)
        assert box[2] - box[0] >= LEAST_WIDTH


@pytest.mark.parametrize("layers", [2, 32])
def test_no_two_cells_touch(layers: int) -> None:
    grid = Grid.of([estimate(layers)])
    boxes = [grid.cell(score.module) for score in estimate(layers).scores]
    for one, other in itertools.combinations(boxes, 2):
        assert one is not None
        assert other is not None
        assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]


@pytest.mark.parametrize("layers", [2, 24, 32])
def test_only_selected_modules_are_framed(layers: int) -> None:
    found = estimate(layers)
    picture, grid = draw(found, {BEST}, "title"), Grid.of([found])
    best, second = grid.cell(BEST), grid.cell(SECOND)
    assert best is not None
    assert second is not None
    assert picture.getpixel(best[:2]) == picture.getpixel((best[2] - 1, best[3] - 1)) == RING
    assert picture.getpixel(second[:2]) == colour(0.25)


@pytest.mark.parametrize("layers", [2, 3, 12, 24, 32])
@pytest.mark.parametrize("title", ["A title", LONG])
def test_no_text_is_cut_off(layers: int, title: str) -> None:
    """Nothing touches the edge of the picture."""
    picture = draw(estimate(layers), {BEST}, title)
    edge = MARGIN // 4
    inner = (edge, edge, picture.width - edge, picture.height - edge)
    picture.paste(BACKGROUND, inner)
    assert picture.getcolors() == [(picture.width * picture.height, BACKGROUND)]


def test_a_cut_text_would_be_seen() -> None:
    picture = draw(estimate(4), {BEST}, "title")
    cut = picture.crop((MARGIN + 10, 0, picture.width, picture.height))
    cut.paste(BACKGROUND, (10, 10, cut.width - 10, cut.height - 10))
    assert len(cut.getcolors()) > 1


def test_only_what_was_measured_has_rows() -> None:
    small, large = estimate(4, mlp=False), estimate(4)
    assert {part for part, _ in Grid.of([small]).rows} == {"self_attn", "cross_attn"}
    assert Grid.of([small]).cell("layers.0.mlp.up_proj") is None
    assert draw(small, (), "title").height < draw(large, (), "title").height


def test_short_list_is_drawn() -> None:
    found = Estimate(scores=(ModuleScore(module=BEST, mean=1.0), ModuleScore(module="time_embed.linear", mean=2.0)),
                     score="imported", settings={})
    box = Grid.of([found]).cell(BEST)
    assert box is not None
    assert draw(found, {BEST}, "title").getpixel(middle(box)) == colour(0.5)


def test_non_positive_scores_are_dark() -> None:
    found = Estimate(scores=(ModuleScore(module=BEST, mean=-1.0), ModuleScore(module=SECOND, mean=0.0)),
                     score="gain", settings={})
    grid = Grid.of([found])
    for module in (BEST, SECOND):
        box = grid.cell(module)
        assert box is not None
        assert draw(found, (), "title").getpixel(middle(box)) == SCALE[0]


def test_unknown_modules_are_refused() -> None:
    found = Estimate(scores=(ModuleScore(module="encoder.q_proj", mean=1.0),), score="imported", settings={})
    with pytest.raises(ConfigError, match=r"encoder\.q_proj"):
        draw(found, (), "title")


def test_colours_grow_steadily_in_lightness() -> None:
    """So the order shows without colours."""
    light = [sum(weight * channel for weight, channel in zip(LIGHTNESS, colour(step / 50), strict=True))
             for step in range(51)]
    assert all(a < b for a, b in itertools.pairwise(light))
    assert light[-1] > 4 * light[0]


@pytest.mark.parametrize(("count", "size"), [(2, (2, 1)), (3, (2, 2)), (4, (2, 2))])
def test_several_are_beside_each_other(count: int, size: tuple[int, int]) -> None:
    found = {f"Estimate {number}": estimate(4) for number in range(1, count + 1)}
    chosen = {title: {BEST} if title == "Estimate 2" else {BEST, SECOND} for title in found}
    whole = draw_side_by_side(found, chosen)
    grid = Grid.of(list(found.values()))
    assert whole.size == (size[0] * WIDTH, size[1] * grid.height)
    for index, title in enumerate(found):
        picture = part(whole, grid, index)
        assert frames(picture, grid) == chosen[title]
        assert {module for module in (BEST, SECOND) if dotted(picture, grid, module)} == {BEST}


def test_grid_covers_all_estimates() -> None:
    small, large = estimate(2, mlp=False), estimate(4)
    whole, grid = draw_side_by_side({"a": small, "b": large}, {"a": {BEST}, "b": {BEST}}), Grid.of([small, large])
    box = grid.cell("layers.3.mlp.up_proj")
    assert box is not None
    assert part(whole, grid, 0).getpixel(middle(box)) == BACKGROUND
    assert part(whole, grid, 1).getpixel(middle(box)) == colour(0.01)


def part(whole: Image.Image, grid: Grid, index: int) -> Image.Image:
    left, top = index % 2 * WIDTH, index // 2 * grid.height
    return whole.crop((left, top, left + WIDTH, top + grid.height))


def frames(picture: Image.Image, grid: Grid) -> set[str]:
    boxes = {score.module: grid.cell(score.module) for score in estimate(4).scores}
    return {module for module, box in boxes.items() if box is not None and picture.getpixel(box[:2]) == RING}


def dotted(picture: Image.Image, grid: Grid, module: str) -> bool:
    box = grid.cell(module)
    assert box is not None
    return picture.getpixel(middle(box)) == heatmap.BACKGROUND
