"""Run a stage of the core for ComfyUI: in a thread of its own, with progress, stopped by the host's button."""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import comfy.model_management
import comfy.utils

from ...sidestep_core.progress import Cancelled, Progress, Report
from ...sidestep_core.sentence import Sentence
from ...sidestep_core.training.controls import GaveWay
from ..routes import events
from . import live, termination
from .wording import sentence

POLL_SECONDS = 0.05

Result = TypeVar("Result")


def run_stage(node_id: str, run: str, stage: Callable[[Report], Result], *, summary: Callable[[Result], str],
              watch: Callable[[], None] = lambda: None) -> Result:
    """The stage's result; its progress goes to the node and to ComfyUI's own bar.  `watch` is called now and then.

    Nodes run under torch.inference_mode, in which nothing can be trained; that mode belongs to a thread, so a thread
    of our own is outside it.  This one waits, which keeps the queue in order: one job on the device at a time.
    On ComfyUI's interrupt the stage is cancelled at its next report, keeps what it has, and the interrupt goes on.
    """
    bar = comfy.utils.ProgressBar(1, node_id=node_id)
    with termination.awaited(), _the_only_bar():
        return _run_stage(node_id, run, stage, summary, bar, watch)


@contextlib.contextmanager
def _the_only_bar() -> Iterator[None]:
    """Keep parts of the host that a stage calls, such as its VAE, from moving the node's bar to where they are.

    Bars that exist already go on.  As before, those parts can be stopped at any time.
    """
    usual = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(
        lambda *_, **__: comfy.model_management.throw_exception_if_processing_interrupted())
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(usual)


def _run_stage(node_id: str, run: str, stage: Callable[[Report], Result], summary: Callable[[Result], str],
               bar: comfy.utils.ProgressBar, watch: Callable[[], None]) -> Result:
    cancelled = threading.Event()
    reports: queue.SimpleQueue[Progress] = queue.SimpleQueue()

    def report(progress: Progress) -> None:
        reports.put(progress)
        if cancelled.is_set():
            raise Cancelled(Sentence("Stopped."))

    worker = _Worker(lambda: stage(report))
    worker.start()
    interrupt: BaseException | None = None
    try:
        while worker.is_alive() or not reports.empty():
            comfy.model_management.throw_exception_if_processing_interrupted()
            _show(node_id, run, reports, bar)
            watch()
            worker.join(POLL_SECONDS)
    except comfy.model_management.InterruptProcessingException as exception:
        interrupt = exception
        live.stop(run)
        events.stop(node_id, run)
    finally:
        # Whatever ended the wait, no stage may go on unseen: it would hold the device and write beside the next one.
        cancelled.set()
        worker.join()
        # What was finished while the stop waited; the event of the end carries it.
        _record(node_id, run, reports)
        gc.collect()
        comfy.model_management.soft_empty_cache()
    return _outcome(node_id, run, worker, interrupt, summary)


class _Worker(threading.Thread):
    """A thread that keeps what its work returned or raised."""

    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__(name="side-step", daemon=True)
        self._work = work
        self.result: Result | None = None
        self.raised: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as exception:  # noqa: BLE001 (handed over to the thread that waits, which raises it)
            _forget_frames(exception)
            self.raised = exception


def _forget_frames(exception: BaseException | None) -> None:
    """Drop the local variables of every frame of a traceback: they would keep a whole model on the device."""
    while exception is not None:
        traceback.clear_frames(exception.__traceback__)
        exception = exception.__cause__ or exception.__context__


def _show(node_id: str, run: str, reports: queue.SimpleQueue[Progress], bar: comfy.utils.ProgressBar) -> None:
    """Pass on what has been reported since last time: every point to the chart, the newest to the bar."""
    if _record(node_id, run, reports):
        bar.update_absolute(*events.done(node_id, run))
    events.flush(node_id)


def _record(node_id: str, run: str, reports: queue.SimpleQueue[Progress]) -> bool:
    """Record everything that was reported since last time; whether there was anything."""
    found = False
    while not reports.empty():
        events.record(node_id, run, reports.get())
        found = True
    return found


def _outcome(node_id: str, run: str, worker: _Worker, interrupt: BaseException | None,
             summary: Callable[[Result], str]) -> Result:
    """Return or raise what the worker did, and tell the browser; an interrupt of the host stays one."""
    raised = worker.raised
    if raised is None:
        events.finish(node_id, run, "finished", summary(worker.result))
        if interrupt is not None:
            # It came too late to stop the stage; the rest of the prompt it does stop.
            raise interrupt
        return worker.result
    if isinstance(raised, Exception) and not isinstance(raised, Cancelled):
        events.finish(node_id, run, "failed", sentence(raised))
        raise raised
    if isinstance(raised, GaveWay) and interrupt is None:
        raise raised
    message = raised.args[0] if isinstance(raised, Cancelled) and raised.args else Sentence("Stopped.")
    events.finish(node_id, run, "cancelled", message)
    if interrupt is None and isinstance(raised, Cancelled):
        # A part of the host that the stage called took the interrupt.
        interrupt = comfy.model_management.InterruptProcessingException()
    raise interrupt or raised
