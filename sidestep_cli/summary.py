"""The summary before a training, its confirmation, and the sentence after it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sidestep_core.adapters.file import Adapter
from sidestep_core.runs import by_heart
from sidestep_core.training import run_checkpoint
from sidestep_core.training.planning import step_times

from .console import Output, duration

if TYPE_CHECKING:
    from .train import Job

GIB = 2**30


def rows(job: Job) -> list[tuple[str, str]]:
    """List what is about to happen: songs, steps, time, memory, places."""
    return list(_rows(job))


def _rows(job: Job) -> Iterator[tuple[str, str]]:
    plan = job.plan()
    checkpoint = job.model.checkpoint
    yield "Model", f"{checkpoint.name} ({checkpoint.variant}, {checkpoint.size})"
    heldout = f", {plan.heldout} held out" if plan.heldout else ""
    yield "Songs", f"{plan.songs}{heldout}, {plan.minutes:.1f} minutes in all"
    yield "Adapter", f"{job.adapter.kind}, {plan.modules} modules, {plan.parameters:,} parameters"
    yield "Steps", f"{plan.steps:,}; each song is heard {plan.listens:.0f} times"
    step = step_times.read(job.times).get(job.shape())
    yield "Time", ("known after the first steps" if step is None else f"about {duration(step * plan.steps)}")
    yield "Memory", f"{plan.need.total / GIB:.1f} GB on {job.config.device}{_fits(job)}"
    yield "Adapter file", f"{job.target} ({plan.file_bytes / 1e6:.0f} MB)"
    yield "Run", f"{job.folder}{_continues(job)}"
    for notice in plan.notices:
        yield "Note", notice


def _fits(job: Job) -> str:
    plan = job.plan()
    if plan.room is None:
        return ""
    free = f"; {plan.room.free / GIB:.1f} GB are free"
    if plan.verdict != "too_large":
        return free
    return f"{free}, which is not enough" + (f": {plan.fix.sentence}" if plan.fix else "")


def _continues(job: Job) -> str:
    if run_checkpoint.is_finished(job.folder):
        return " (finished already: its adapter is taken)"
    step = run_checkpoint.newest_step(job.folder)
    return f" (goes on at step {step:,})" if step else ""


def confirmed(arguments: argparse.Namespace, output: Output, shown: list[tuple[str, str]]) -> bool:
    """Show the summary; ask a person at a terminal whether to start, unless --yes was given."""
    output.table("Training", shown)
    if arguments.yes or arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return input("Start? [Y/n] ").strip().lower() in ("", "y", "yes")


def done(job: Job, adapter: Adapter) -> str:
    """Sentence on a finished training."""
    change = ""
    if adapter.heldout_first is not None and adapter.heldout_last is not None:
        name = "Held-out loss" if adapter.measured_on == "held_out" else "Loss of the trained songs"
        change = f" {name}: {adapter.heldout_first:.4f} before, {adapter.heldout_last:.4f} now."
    watched = by_heart.read(job.folder)
    alarm = watched.sentence(adapter.steps) if watched else ""
    return f"{adapter.path} is ready: {adapter.steps} steps, proven at strength 1.0.{change} {alarm}".rstrip()
