"""Trainings that give way: to what waits behind them in ComfyUI, which runs one workflow at a time.

A training that is asked to give way saves its step and ends.  Its workflow is put behind those that wait, and resumes
exactly when its turn comes.  The rules:

- It gives way only to workflows that do not train, so that two trainings never take turns, and its place is before the
  next training that waits.
- A running one does so if it is polite, and not again within SECONDS_BETWEEN of its start, so that workflows that are
  sent all the time leave it most of the time.  A paused one always does: it needs nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import comfy.model_management
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...sidestep_core.sentence import Sentence
from ...sidestep_core.training.controls import GaveWay
from ..routes import events
from . import live
from .live import Later, Live

log = logging.getLogger(__name__)

SECONDS_BETWEEN = 120.0
POLL_SECONDS = 0.5
TRAINERS = frozenset({"SideStepTrainAdapter", "TrainLoraNode"})
"""Nodes that train: ours, and ComfyUI's own."""
WAITS: Mapping[Later | None, str] = {
    None: Sentence("Waiting for your generation. The training goes on by itself."),
    "pause": Sentence("Paused. The card is free."),
    "finish": Sentence("Waiting for your generation. The training finishes when its turn comes."),
}
"""Request that a waiting training meets when its turn comes -> what people read."""

Item = tuple[Any, ...]
"""(number, id, prompt, extra data, outputs, ...) as ComfyUI keeps it; the lowest number is next."""

_gave_way: set[str] = set()
"""Runs that gave way and have not ended since."""


def queue_number(waiting: Sequence[Item]) -> float | None:
    """Number for a training behind those that it gives way to; None if the next one is not to be given way to."""
    in_order = sorted(waiting, key=lambda item: item[:2])
    trains = [not TRAINERS.isdisjoint(node.get("class_type") for node in item[2].values()) for item in in_order]
    first = trains.index(True) if True in trains else len(in_order)
    if first == 0:
        return None
    last = float(in_order[first - 1][0])
    return last + 0.5 if first == len(in_order) else (last + float(in_order[first][0])) / 2


@contextlib.contextmanager
def giving_way(training: Live, *, polite: bool) -> Iterator[Callable[[], None]]:
    """Yield a function to call often, which asks the training to give way when somebody waits.

    If it gave way, its workflow is put behind those that wait, and this execution ends as if interrupted.
    """
    context, begun = get_executing_context(), time.monotonic()
    prompt_id = "" if context is None else str(context.prompt_id)

    def watch() -> None:
        rested = training.run not in _gave_way or time.monotonic() - begun >= SECONDS_BETWEEN
        may = training.controls.is_paused or (polite and rested)
        if may and _own(prompt_id) is not None and queue_number(_waiting()) is not None:
            training.controls.ask("give_way")
        elif "give_way" in training.controls.pending:
            training.controls.withdraw("give_way")

    live.arrived(prompt_id)
    if (request := live.pop_later(training.run)) is not None:
        training.controls.ask(request)
    try:
        yield watch
    except GaveWay as gave_way:
        _requeue(training, prompt_id)
        raise comfy.model_management.InterruptProcessingException() from gave_way
    _gave_way.discard(training.run)


def _requeue(training: Live, prompt_id: str) -> None:
    """Put the training's own workflow behind those that it gives way to, and tell the page."""
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:
        own, number = _own(prompt_id), queue_number(_waiting())
        new_id = str(uuid.uuid4())
        # Those that waited may be gone by now: then it goes on at once.
        queue.put((own[0] if number is None else number, new_id, *own[2:]))
    _gave_way.add(training.run)
    live.wait(training, new_id)
    log.info("%s gives way, and goes on by itself.", training.run)
    announce(training)
    threading.Thread(target=_watch_turn, args=(training, new_id), name="side-step-waits", daemon=True).start()


def announce(training: Live) -> None:
    """Tell the page what becomes of a training that waits."""
    events.wait(training.node_id, training.run, WAITS[live.later(training.run)])


def _watch_turn(training: Live, prompt_id: str) -> None:
    """Tell the page if the waiting workflow is removed, or ends, before its training goes on."""
    while live.waits(training.run, prompt_id):
        if not is_known(prompt_id):
            live.stop_waiting(training.run)
            _gave_way.discard(training.run)
            events.finish(training.node_id, training.run, "cancelled", "Stopped. Run again to continue from here.")
            return
        time.sleep(POLL_SECONDS)


def remove(prompt_id: str) -> None:
    """Take a waiting workflow away; interrupt it if it is running by now."""
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:
        if not queue.delete_queue_item(lambda item: item[1] == prompt_id) and _own(prompt_id) is not None:
            comfy.model_management.interrupt_current_processing()


def is_known(prompt_id: str) -> bool:
    """Return True if a workflow waits or is running."""
    return _own(prompt_id) is not None or any(item[1] == prompt_id for item in _waiting())


def _own(prompt_id: str) -> Item | None:
    """The running workflow of this id."""
    running = PromptServer.instance.prompt_queue.get_current_queue_volatile()[0]
    return next((item for item in running if item[1] == prompt_id), None)


def _waiting() -> list[Item]:
    return PromptServer.instance.prompt_queue.get_current_queue_volatile()[1]
