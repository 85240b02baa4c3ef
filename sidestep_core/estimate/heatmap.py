"""Heatmaps of estimates: every module of every layer as a cell, brighter for a higher score.

The colours grow steadily in lightness from blue to yellow, so they read well to colour-blind eyes and in grey.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..adapters.config import MLP_PROJECTIONS, PROJECTIONS
from ..errors import ConfigError
from .result import Estimate

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two are exclusive."""
Colour = tuple[int, int, int]

PARTS = {"self_attn": ("self-attention", "sound, structure", PROJECTIONS),
         "cross_attn": ("cross-attention", "caption, lyrics", PROJECTIONS),
         "mlp": ("MLP", "", MLP_PROJECTIONS)}
MODULE = re.compile(r"layers\.(\d+)\.(\w+)\.(\w+)")

SCALE: tuple[Colour, ...] = ((0, 32, 77), (65, 77, 107), (124, 123, 120), (188, 175, 111), (255, 234, 70))
BACKGROUND: Colour = (27, 28, 31)
BRIGHT, PALE = (236, 236, 236), (164, 166, 172)
RING: Colour = (255, 255, 255)

# Twice the size at which a node shows it, so that it stays sharp when enlarged.
WIDTH = 1600
MARGIN = 40
GRID_LEFT, GRID_TOP = 330, 176
ROW, PART_GAP = 66, 22
CELL_GAP = 4
RING_WIDTH = 4
LEGEND = 150
TITLE, TEXT, SMALL = 42, 28, 24
TICKS = {"0": 0.0, "10 %": 0.1, "50 %": 0.5, "100 %": 1.0}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Position of each module in the picture."""

    rows: tuple[tuple[str, str], ...]
    """(part, projection), from top to bottom."""
    layers: int

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> Grid:
        """Make room for every module of the estimates.  ConfigError if none is in a decoder's layers."""
        found = [match.groups() for estimate in estimates for score in estimate.scores
                 if (match := MODULE.fullmatch(score.module)) and match[2] in PARTS and match[3] in PARTS[match[2]][2]]
        if not found:
            raise ConfigError(f"The estimate has no module of a decoder's layers, only such as "
                              f"{estimates[0].scores[0].module!r}, so there is nothing to draw.")
        measured = {(part, projection) for _, part, projection in found}
        rows = tuple((part, projection) for part, (_, _, names) in PARTS.items() for projection in names
                     if (part, projection) in measured)
        return cls(rows=rows, layers=1 + max(int(layer) for layer, _, _ in found))

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for part, _ in self.rows))

    @property
    def bottom(self) -> int:
        return self.top(len(self.rows) - 1) + ROW

    @property
    def height(self) -> int:
        """Height of the whole picture."""
        return self.bottom + LEGEND + MARGIN

    def top(self, row: int) -> int:
        """Upper edge of a row."""
        return GRID_TOP + row * ROW + self.parts.index(self.rows[row][0]) * PART_GAP

    def left(self, layer: int) -> int:
        """Left edge of a layer's column."""
        return GRID_LEFT + layer * (WIDTH - MARGIN - GRID_LEFT) // self.layers

    def cell(self, module: str) -> Box | None:
        """Return the cell of a module; None if the grid has none for it."""
        match = MODULE.fullmatch(module)
        if match is None or (match[2], match[3]) not in self.rows or int(match[1]) >= self.layers:
            return None
        top, layer = self.top(self.rows.index((match[2], match[3]))), int(match[1])
        return (self.left(layer), top, self.left(layer + 1) - CELL_GAP, top + ROW - CELL_GAP)


def draw(estimate: Estimate, chosen: Collection[str], title: str, *, grid: Grid | None = None,
         in_all: Collection[str] | None = None) -> Image:
    """Draw the scores of every module, `chosen` ones in a white frame, those of `in_all` with a dot too.

    `grid` makes room for the modules of other estimates as well.
    """
    from PIL import Image, ImageDraw

    grid = grid or Grid.of([estimate])
    image = Image.new("RGB", (WIDTH, grid.height), BACKGROUND)
    pen = ImageDraw.Draw(image)
    _write_line(pen, (MARGIN, MARGIN), title, TITLE, BRIGHT)
    _write_line(pen, (MARGIN, MARGIN + 58), _facts(estimate), SMALL, PALE)
    _draw_axes(pen, grid)
    for module, part in _shares(estimate).items():
        box = grid.cell(module)
        if box is not None:
            _draw_cell(pen, box, part, framed=module in chosen, dotted=module in (in_all or ()))
    _draw_legend(pen, grid, len(chosen), None if in_all is None else len(in_all))
    return image


def draw_side_by_side(estimates: Mapping[str, Estimate], chosen: Mapping[str, Collection[str]]) -> Image:
    """Draw two to four estimates by title, two in a row, over the same modules."""
    from PIL import Image

    grid = Grid.of(list(estimates.values()))
    in_all = set.intersection(*(set(modules) for modules in chosen.values()))
    pictures = [draw(estimate, chosen[title], title, grid=grid, in_all=in_all) for title, estimate in estimates.items()]
    whole = Image.new("RGB", (2 * WIDTH, math.ceil(len(pictures) / 2) * grid.height), BACKGROUND)
    for index, picture in enumerate(pictures):
        whole.paste(picture, (index % 2 * WIDTH, index // 2 * grid.height))
    return whole


def colour(share: float) -> Colour:
    """Return the colour of a share of the highest score, 0 to 1; dark blue to yellow."""
    # Square root: a few modules are often far above all others, which would leave the rest in one colour.
    position = math.sqrt(min(max(share, 0.0), 1.0)) * (len(SCALE) - 1)
    lower = min(int(position), len(SCALE) - 2)
    one, other = SCALE[lower], SCALE[lower + 1]
    red, green, blue = (round(a + (b - a) * (position - lower)) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _shares(estimate: Estimate) -> dict[str, float]:
    """Return scores as shares of the highest; below zero they are zero within their error."""
    highest = max(score.mean for score in estimate.scores)
    return {score.module: max(score.mean, 0.0) / highest if highest > 0 else 0.0 for score in estimate.scores}


def _facts(estimate: Estimate) -> str:
    measured = (f"score: {estimate.score}", f"{estimate.batches} samples", f"agreement {estimate.agreement:.2f}")
    return "   ".join(measured if estimate.batches else measured[:1])


def _draw_axes(pen: ImageDraw, grid: Grid) -> None:
    for row, (part, projection) in enumerate(grid.rows):
        middle = grid.top(row) + (ROW - CELL_GAP) // 2
        _write(pen, (GRID_LEFT - 16, middle), projection.removesuffix("_proj"), TEXT, PALE, "rm")
        if row == 0 or grid.rows[row - 1][0] != part:
            name, meaning, _ = PARTS[part]
            _write(pen, (MARGIN, middle), name, TEXT, BRIGHT, "lm")
            _write(pen, (MARGIN, middle + 38), meaning, SMALL, PALE, "lm")
    _write(pen, (MARGIN, GRID_TOP - 24), "layer", SMALL, PALE, "lm")
    for layer in range(grid.layers):
        middle = (grid.left(layer) + grid.left(layer + 1) - CELL_GAP) // 2
        _write(pen, (middle, GRID_TOP - 24), str(layer), SMALL, PALE, "mm")


def _draw_cell(pen: ImageDraw, box: Box, share: float, *, framed: bool, dotted: bool) -> None:
    left, top, right, bottom = box
    if framed:
        _fill(pen, box, RING)
        # A dark line between frame and colour: white on yellow would not be visible.
        _fill(pen, _inside(box, RING_WIDTH), BACKGROUND)
    _fill(pen, _inside(box, 2 * RING_WIDTH) if framed else box, colour(share))
    if dotted:
        x, y, radius = (left + right) // 2, (top + bottom) // 2, 7
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=BACKGROUND, outline=RING, width=2)


def _draw_legend(pen: ImageDraw, grid: Grid, chosen: int, in_all: int | None) -> None:
    top, height, width = grid.bottom + 46, 30, 480
    for x in range(width):
        _fill(pen, (GRID_LEFT + x, top, GRID_LEFT + x + 1, top + height), colour((x / (width - 1)) ** 2))
    for label, share in TICKS.items():
        _write(pen, (GRID_LEFT + round(math.sqrt(share) * width), top + height + 24), label, SMALL, PALE, "mm")
    _write(pen, (MARGIN, top + height // 2), "of the highest score", SMALL, PALE, "lm")
    _key(pen, GRID_LEFT + width + 110, top, f"chosen: {chosen}", framed=True)
    if in_all is not None:
        _key(pen, GRID_LEFT + width + 420, top, f"chosen in all: {in_all}", framed=False)


def _key(pen: ImageDraw, left: int, top: int, text: str, *, framed: bool) -> None:
    _draw_cell(pen, (left, top - 10, left + 44, top + 40), 0.3, framed=framed, dotted=not framed)
    _write(pen, (left + 60, top + 15), text, SMALL, PALE, "lm")


def _fill(pen: ImageDraw, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)


def _inside(box: Box, by: int) -> Box:
    left, top, right, bottom = box
    return left + by, top + by, right - by, bottom - by


def _write(pen: ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, anchor: str) -> None:
    from PIL import ImageFont

    pen.text(at, text, colour, ImageFont.load_default(size), anchor)


def _write_line(pen: ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour) -> None:
    """Write from `at` to the right, smaller if the picture is too narrow."""
    from PIL import ImageFont

    while size > SMALL // 2 and ImageFont.load_default(size).getlength(text) > WIDTH - MARGIN - at[0]:
        size -= 1
    _write(pen, at, text, size, colour, "la")
