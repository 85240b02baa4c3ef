"""Everything that is printed: plain lines, rich's tables and bars on a terminal, or a JSON object per line."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sidestep_core.optional import is_installed
from sidestep_core.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

STEPS_SHOWN = 10
"""Steps between two plain lines of a training."""
BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 24

Rows = Sequence[tuple[str, str]]


class Output(Protocol):
    """One way to show things."""

    def line(self, text: str) -> None:
        """Show a sentence, or a text of several lines."""

    def notice(self, text: str) -> None:
        """Show a sentence that a person should not miss."""

    def error(self, text: str) -> None:
        """Show the reason of a failure, on the error stream."""

    def table(self, title: str, rows: Rows) -> None:
        """Show names and values."""

    def progress(self, progress: Progress) -> None:
        """Show a report of a stage."""

    def result(self, facts: Mapping[str, Any], sentence: str) -> None:
        """Show the outcome: the sentence to people, the facts to programs."""

    def close(self) -> None:
        """End what is still moving on the screen."""


def choose(*, plain: bool, as_json: bool) -> Output:
    """Choose the output: rich where it is installed and a person looks at a terminal."""
    if as_json:
        return Lines()
    if plain or not sys.stdout.isatty() or not is_installed("rich"):
        return Plain()
    from rich.console import Console

    return Rich(Console(highlight=False))


@dataclass
class Plain:
    """Lines of text, for files, pipes and screen readers."""

    shown: str = ""
    """Last message of a stage, to show each once."""

    def line(self, text: str) -> None:
        print(text, flush=True)

    def notice(self, text: str) -> None:
        self.line(f"Note: {text}")

    def error(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def table(self, title: str, rows: Rows) -> None:
        width = max((len(name) for name, _ in rows), default=0)
        self.line("\n".join([title, *(f"  {name.ljust(width)}  {value}" for name, value in rows)]))

    def progress(self, progress: Progress) -> None:
        if progress.notice:
            self.notice(progress.notice)
        elif progress.message and progress.message != self.shown:
            self.shown = progress.message
            self.line(progress.message)
        if "loss" in progress.metrics and (progress.step % STEPS_SHOWN == 0 or progress.step in (1, progress.total)):
            self.line(numbers(progress))
        if "heldout" in progress.metrics:
            self.line(f"Step {progress.step}: {measured(progress)}")

    def result(self, facts: Mapping[str, Any], sentence: str) -> None:
        self.line(sentence)

    def close(self) -> None:
        pass


@dataclass
class Lines:
    """A JSON object per line, for programs."""

    def line(self, text: str) -> None:
        self._write({"event": "message", "text": text})

    def notice(self, text: str) -> None:
        self._write({"event": "notice", "text": text})

    def error(self, text: str) -> None:
        self._write({"event": "error", "text": text})

    def table(self, title: str, rows: Rows) -> None:
        self._write({"event": "table", "title": title, "rows": dict(rows)})

    def progress(self, progress: Progress) -> None:
        facts = {"stage": progress.stage, "step": progress.step, "total": progress.total, **progress.metrics}
        self._write({"event": "progress", **facts, **{name: text for name, text in (
            ("message", progress.message), ("notice", progress.notice)) if text}})

    def result(self, facts: Mapping[str, Any], sentence: str) -> None:
        self._write({"event": "result", "text": sentence, **facts})

    def close(self) -> None:
        pass

    def _write(self, facts: Mapping[str, Any]) -> None:
        # In one write: a signal's message may come between two.
        sys.stdout.write(json.dumps(facts, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()


@dataclass
class Silent:
    """Nothing, in a process whose leader shows everything; errors are shown."""

    def line(self, text: str) -> None:
        pass

    def notice(self, text: str) -> None:
        pass

    def error(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def table(self, title: str, rows: Rows) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass

    def result(self, facts: Mapping[str, Any], sentence: str) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Rich:
    """Tables, a bar and the curve of the loss, for a terminal."""

    console: Console
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=400))
    bar: Bar | None = None

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    def notice(self, text: str) -> None:
        self.console.print(text, markup=False, style="yellow")

    def error(self, text: str) -> None:
        self.close()
        self.console.print(text, markup=False, style="red")

    def table(self, title: str, rows: Rows) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2))
        for name, value in rows:
            table.add_row(Text(name, style="bold"), Text(value))
        self.console.print(table)

    def progress(self, progress: Progress) -> None:
        if progress.notice:
            self.notice(progress.notice)
        if "smoothed" in progress.metrics:
            self.losses.append(progress.metrics["smoothed"])
        bar = self._bar()
        title = progress.message or progress.stage
        if "loss" in progress.metrics:
            title = f"{numbers(progress)} {curve(list(self.losses))}"
        elif "heldout" in progress.metrics:
            self.line(f"Step {progress.step}: {measured(progress)}")
        elif progress.stage == "train":
            return
        bar.update(bar.task_ids[0], description=title, completed=progress.step, total=max(1, progress.total))

    def result(self, facts: Mapping[str, Any], sentence: str) -> None:
        self.close()
        self.console.print(sentence, markup=False, style="green")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _bar(self) -> Bar:
        if self.bar is None:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(TextColumn("{task.description}", markup=False), BarColumn(),
                           TextColumn("{task.completed:.0f}/{task.total:.0f}"), console=self.console, transient=True)
            self.bar.add_task("")
            self.bar.start()
        return self.bar


def numbers(progress: Progress) -> str:
    """Line of a step: its loss, and the time that is left."""
    metrics = progress.metrics
    left = f", {duration(metrics['eta_seconds'])} left" if metrics.get("eta_seconds") else ""
    loss = metrics.get("smoothed", metrics["loss"])
    return f"Step {progress.step} of {progress.total}: loss {loss:.4f}{left}"


def measured(progress: Progress) -> str:
    """Sentence about a held-out loss."""
    of = "loss of the trained songs" if progress.measured_on == "trained" else "held-out loss"
    return f"{of} {progress.metrics['heldout']:.4f}"


def curve(values: Sequence[float]) -> str:
    """Draw values as a row of blocks, at most CURVE_WIDTH, each the mean of its share."""
    if len(values) < 2:
        return ""
    width = min(CURVE_WIDTH, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[start:stop]) / (stop - start) for start, stop in zip(edges, edges[1:], strict=False)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BLOCKS[round((mean - low) / span * (len(BLOCKS) - 1))] for mean in means)


def duration(seconds: float) -> str:
    """Spell a time, such as 2 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
