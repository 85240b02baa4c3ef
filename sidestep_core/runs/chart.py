"""Loss curves as an SVG for reports: drawn from rows, without scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from .curve import Row

WIDTH, HEIGHT = 960, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 36
TICKS = 5
SPREAD = 0.02
"""Share of the raw losses that may lie outside at either end, so that one outlier does not flatten the rest."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + max(-0.02, min(1.02, share)) * (self.end - self.start)


def svg(rows: Sequence[Row], *, measured: str, best: tuple[int, float] | None) -> str:
    """Draw losses, smoothed losses and measured losses (called `measured`); empty if there are none."""
    raw, smoothed, heldout = (_points(rows, name) for name in ("loss", "smoothed", "heldout"))
    if not raw and not heldout:
        return ""
    steps = [step for step, _ in (*raw, *heldout)]
    low, high = _range(raw, (*smoothed, *heldout))
    x = _Scale(low=min(steps), high=max(*steps, min(steps) + 1), start=LEFT, end=WIDTH - RIGHT)
    y = _Scale(low=low, high=high, start=HEIGHT - BOTTOM, end=TOP)
    drawn = [_grid(x, y), _line(raw, "raw", x, y), _line(smoothed, "smoothed", x, y), _line(heldout, "heldout", x, y)]
    drawn += [f'<circle class="heldout" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.5"/>'
              for step, value in (heldout if len(heldout) <= 100 else ())]
    if best is not None:
        drawn.append(f'<circle class="best" cx="{x(best[0]):.1f}" cy="{y(best[1]):.1f}" r="6"><title>Lowest, after '
                     f'step {best[0]:,}: {best[1]:.4f}</title></circle>')
    label = escape(f"Loss from step {min(steps):g} to {max(steps):g}: {_course(smoothed or raw)}; {measured}: "
                   f"{_course(heldout)}.")
    return (f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
            f'{"".join(drawn)}</svg>')


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    found = [(row["step"], row.get(name)) for row in rows]
    return [(float(step), float(value)) for step, value in found
            if isinstance(step, (int, float)) and isinstance(value, (int, float)) and math.isfinite(value)]


def _course(points: Points) -> str:
    return f"{points[0][1]:.4g} to {points[-1][1]:.4g}" if points else "none"


def _range(raw: Points, whole: Points) -> tuple[float, float]:
    """Lowest and highest loss to show: of all but a few outliers of the raw losses."""
    ordered = sorted(value for _, value in raw)
    cut = int(len(ordered) * SPREAD)
    values = [*ordered[cut:len(ordered) - cut], *(value for _, value in whole)]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return max(0.0, low - room) if low >= 0 else low - room, high + room


def _line(points: Points, name: str, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    if not points:
        return ""
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    return f'<polyline class="{name}" points="{path}"/>'


def _grid(x: _Scale, y: _Scale) -> str:
    drawn = []
    for value in ticks(y.low, y.high):
        at = y(value)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
                     f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    for value in ticks(x.low, x.high):
        drawn.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{value:,.6g}</text>')
    return "".join(drawn)


def ticks(low: float, high: float) -> list[float]:
    """Round values between two numbers, about TICKS of them."""
    rough = (high - low) / TICKS
    if not rough > 0 or not math.isfinite(rough):
        return []
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
