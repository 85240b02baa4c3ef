"""Reports of a node's latest run, small enough to send to a page that was opened or reloaded during it.

Standard library only; `events.py` keeps one `History` per node.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ...sidestep_core.progress import Progress

Status = Literal["running", "stopping", "paused", "finished", "cancelled", "failed"]

UNDER_WAY = ("running", "stopping", "paused")
Metrics = dict[str, float | None]

NOT_DRAWN = frozenset({"eta_seconds", "step_seconds", "memory_used", "memory_predicted", "memory_total"})
"""Metrics that count for the present only, and are no part of the curves."""
MAX_POINTS = 2000
MAX_PREVIEWS = 100


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the curves: the numbers that were known after `step`."""

    step: int
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A piece generated after `step` (0: before training): where its audio lies, or why there is none."""

    step: int
    file: Path | None = None
    message: str = ""

    def answer(self) -> dict[str, object]:
        """Message for the page: enough to ask for the audio, without a path."""
        return {"step": self.step, "message": self.message}


@dataclass(slots=True, kw_only=True)
class History:
    """State of a run, with at most MAX_POINTS points of its curves and MAX_PREVIEWS previews, by their steps."""

    node_id: str
    run: str
    workflow: str | None
    stage: str = "load"
    status: Status = "running"
    step: int = 0
    total: int = 0
    sentences: tuple[str, ...] = ()
    """Message to show.  A sentence goes to the page in parts, which it has in other languages."""
    requested: str = ""
    """Request that waits for the end of the step, as a message; shown while there is no other."""
    notices: list[str] = field(default_factory=list)
    """Shown while there is no other message, and at the end."""
    metrics: Metrics = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    stride: int = 1
    output: Mapping[str, object] = field(default_factory=dict)
    """Content that the node itself shows of its latest result, such as the key of its songs."""
    training: tuple[int, int] | None = None
    """Step and total of the training, also while a preview is made or the adapter is saved."""
    measured_on: str = ""
    """Songs that `heldout` was measured on: "held_out" or "trained"; empty before the first measurement."""
    saved: tuple[int, ...] = ()
    """Steps of the checkpoints that are on the disk."""
    began: float = field(default_factory=lambda: time.monotonic())
    ended: float | None = None
    """Time of the end, by time.monotonic, while nothing is under way."""
    unsent: list[Point] = field(default_factory=list)
    """Points that no event has carried yet."""
    changed: bool = False
    """True while anything is unsent."""

    @property
    def message(self) -> str:
        """Message in English."""
        return " ".join(self.sentences)

    def update(self, progress: Progress) -> None:
        """Take over the state of the stage, and the point of the curves if there is one."""
        if progress.stage == self.stage == "pause" and self.status == "paused":
            return  # a pause reports again and again, to learn of a stop
        if self.status not in UNDER_WAY:
            self.training, self.notices, self.requested = None, [], ""  # the run goes on in another prompt
            self.began, self.ended = time.monotonic(), None
        if progress.stage != self.stage and self.training is None:
            self.metrics.pop("eta_seconds", None)
        if progress.notice and progress.notice not in self.notices:
            self.notices.append(progress.notice)
        if progress.stage != "train":
            self.requested = ""
        self.stage, self.status = str(progress.stage), "paused" if progress.stage == "pause" else "running"
        self.sentences = _not_empty(progress.message) or _not_empty(self.requested) or tuple(self.notices)
        self.step, self.total = int(progress.step), int(progress.total)
        if progress.saved is not None:
            self.saved = tuple(int(step) for step in progress.saved)
        if progress.stage == "train":
            self.training = self.step, self.total
        metrics = finite(progress.metrics)
        self.metrics |= metrics
        self.measured_on = str(progress.measured_on) or self.measured_on
        self.changed = True
        if "loss" in metrics or "heldout" in metrics:
            point = Point(self.step, metrics)
            self.add_point(point)
            self.unsent.append(point)

    def request(self, message: str) -> None:
        """Take over a request that waits for the end of the step; an empty one takes back the one before."""
        self.requested, self.changed = message, True
        self.sentences = _not_empty(message) or tuple(self.notices)

    def wait(self, message: str) -> None:
        """Take over that the training waits, and goes on by itself."""
        self.status, self.sentences, self.changed = "paused", _not_empty(message), True

    def stop(self, *sentences: str) -> None:
        """Take over a request to stop, which first finishes the work in hand."""
        self.status, self.changed = "stopping", True
        self.sentences = sentences
        self.metrics.pop("eta_seconds", None)

    def end(self, status: Status, message: str) -> None:
        """Take over the end of the run."""
        self.status, self.changed, self.ended = status, True, time.monotonic()
        self.sentences = (*_not_empty(message), *(self.notices if status == "finished" else ()))
        self.metrics.pop("eta_seconds", None)

    def add_point(self, point: Point) -> None:
        """Append a point; a resumed run replaces what it repeats; thinned out evenly when there are too many."""
        while self.points and self.points[-1].step > point.step:
            self.points.pop()
        if self.points and self.points[-1].step == point.step:
            point = Point(point.step, self.points.pop().metrics | point.metrics)
        elif self.points and not self._is_kept(self.points[-1]):
            self.points.pop()
        self.points.append(point)
        while len(self.points) > MAX_POINTS:
            self.stride *= 2
            kept = [point for point in self.points[:-1] if self._is_kept(point)]
            # Held-out points are always kept, so a run with thousands of them would never get shorter.
            self.points = (kept if len(kept) < MAX_POINTS else kept[::2]) + self.points[-1:]

    def add_preview(self, preview: Preview) -> None:
        """Put a preview in its place, instead of an earlier one of the same step; the first and the newest stay."""
        others = [other for other in self.previews if other.step != preview.step]
        self.previews = sorted([*others, preview], key=lambda each: each.step)
        if len(self.previews) > MAX_PREVIEWS:
            del self.previews[1]

    def preview_file(self, step: int) -> Path | None:
        """Audio file of the preview after `step`, or None."""
        return next((preview.file for preview in self.previews if preview.step == step), None)

    def _is_kept(self, point: Point) -> bool:
        return point.step % self.stride == 0 or "heldout" in point.metrics

    def take_event(self, previews: Iterable[Preview] = ()) -> dict[str, object]:
        """Payload of one websocket event: where the run stands, every point since the last event, and new previews."""
        points, self.unsent, self.changed = self.unsent, [], False
        fresh: Metrics = {}
        for point in points:
            fresh |= point.metrics
        return self._event(fresh, previews) | {"points": [_row(point) for point in points]}

    def _event(self, metrics: Metrics, previews: Iterable[Preview]) -> dict[str, object]:
        return {
            "node_id": self.node_id,
            "run": self.run,
            "workflow": self.workflow,
            "stage": self.stage,
            "status": self.status,
            "step": self.step,
            "total": self.total,
            "training": self.training,
            "message": self.message,
            "sentences": self.sentences,
            "metrics": metrics,
            "elapsed_seconds": (time.monotonic() if self.ended is None else self.ended) - self.began,
            "saved": self.saved,
            "measured_on": self.measured_on,
            "previews": [preview.answer() for preview in previews],
        }

    def answer(self, after: int = -1) -> dict[str, object]:
        """The last event with every number that is known, every preview, and the points after a step."""
        event = self._event(self.metrics.copy(), self.previews)
        return event | {"points": [_row(point) for point in self.points if point.step > after],
                        "eta_seconds": self.metrics.get("eta_seconds"), "output": self.output}


def _not_empty(sentence: str) -> tuple[str, ...]:
    return (sentence,) if sentence else ()


def _row(point: Point) -> dict[str, object]:
    """A point as the page draws it."""
    return {key: value for key, value in point.metrics.items() if key not in NOT_DRAWN} | {"step": point.step}


def finite(metrics: Mapping[str, float | str | Sequence[float]]) -> Metrics:
    """The numbers as plain floats, without words and lists; those that JSON or a float does not know become None."""
    return {str(key): _finite(value) for key, value in metrics.items() if not isinstance(value, (str, list, tuple))}


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every float
        return None
    return number if math.isfinite(number) else None
