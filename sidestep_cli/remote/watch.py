"""A workflow in the server's hands, from its start to its end.

The server is asked every second: that needs no lasting connection, so tunnels, proxies and restarts in between do no
harm.  A server that has lost the workflow, as its list does not survive a restart, gets it again: trainings continue
from their last checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidestep_core.io.record import Record
from sidestep_core.progress import Progress

from ..console import Output
from .patience import Patience
from .queued import Ending, ending_of, find, history, submitted
from .server import RemoteError, Server, part
from .workflow import OURS, TRAINER, Workflow

SECONDS = 1.0
QUEUE_EVERY = 5
"""Questions between two looks at the whole list of waiting workflows, which is long."""
MOST_LOSSES = 3
"""Times that a server may lose the workflow without a step in between."""
UNDER_WAY = ("running", "stopping", "paused")


@dataclass(frozen=True, kw_only=True)
class State(Record):
    """State of a node, as its panel shows it."""

    run: str
    stage: str
    status: str
    step: int
    total: int
    message: str
    training: tuple[int, int] | None = None
    """Step and total of the training, also while something else is done in it."""
    points: tuple[Mapping[str, Any], ...] = ()
    eta_seconds: float | None = None
    measured_on: str = ""


@dataclass
class _Seen:
    """What was shown so far."""

    id: str
    """Id of the workflow at the server."""
    running: bool = False
    message: str = ""
    steps: dict[str, int] = field(default_factory=dict)
    """Run -> last step shown."""
    runs: dict[str, str] = field(default_factory=dict)
    losses: int = 0
    lost_at: int = -1
    outages: int = 0
    """Outages of the server when it was last seen to have the workflow."""
    active: str = ""
    """Node that was at work when it was last asked."""

    @property
    def step(self) -> int:
        return max(self.steps.values(), default=0)


def watch(server: Server, workflow: Workflow, id: str, output: Output, patience: Patience,
          tick: Callable[[], None]) -> Ending:
    """Show the workflow until it ends."""
    seen = _Seen(id=id)
    for number in itertools.count():
        tick()
        entry = patience.call(lambda: history(server, seen.id))
        ending = None if entry is None else ending_of(entry, workflow, seen.runs)
        if ending is not None and ending.status != "stopped":
            return ending
        if ending is not None or not seen.running or number % QUEUE_EVERY == 0:
            ending = _follow(server, workflow, ending, seen, output, patience)
            if ending is not None:
                return ending
        if seen.running:
            # Before that, nodes of the same numbers report for others.
            _show(server, workflow, seen, output, patience)
        patience.sleep(SECONDS)
    raise AssertionError("watching does not end by itself")


def _follow(server: Server, workflow: Workflow, ending: Ending | None, seen: _Seen, output: Output,
            patience: Patience) -> Ending | None:
    """Look for the workflow in the server's list, and return its end if it is not there for good.

    A training that gives way to others is stopped, and waits again under another id.
    """
    queued = patience.call(lambda: find(server, workflow))
    if queued is not None:
        seen.id, seen.running, seen.outages = queued.id, queued.running, patience.outages
        if not queued.running:
            _say(f"The workflow waits for its turn, {queued.before} before it.", seen, output)
        return None
    if ending is not None:
        return ending
    if patience.call(lambda: history(server, seen.id)) is not None:
        return None  # it ended between two questions
    if patience.outages == seen.outages:
        return Ending(status="stopped", message="", outputs={}, runs=seen.runs)  # somebody took it out
    seen.losses = seen.losses + 1 if seen.step == seen.lost_at else 1
    seen.lost_at = seen.step
    if seen.losses > MOST_LOSSES:
        raise RemoteError(f"{server.url} ended {MOST_LOSSES} times at the same point, and forgot the workflow each "
                          "time. Its log says why; often the memory is not enough.")
    output.notice("ComfyUI was restarted there and has forgotten the workflow. It gets it again: trainings continue "
                  "from their last checkpoint.")
    seen.id, seen.running = patience.call(lambda: submitted(server, workflow)), False
    return None


def _show(server: Server, workflow: Workflow, seen: _Seen, output: Output, patience: Patience) -> None:
    """Show what the node at work reports.  Once it is found, the others are not asked."""
    nodes = workflow.nodes(OURS)
    for node in sorted(nodes, key=lambda node: node != seen.active):
        after = seen.steps.get(seen.runs.get(node, ""), -1)
        path = f"/sidestep/nodes/{part(node)}/history?after={max(after, 0)}"
        answer = patience.call(lambda path=path: server.get(path))  # type: ignore[misc]
        if answer is None:
            continue
        state = State.from_json(answer, f"The state of node {node}", allow_unknown=True)
        if state.status in UNDER_WAY:
            seen.active = node
            _show_state(node, state, workflow, seen, output)
            return
        if node == seen.active and seen.runs.get(node) == state.run:
            _show_state(node, state, workflow, seen, output)  # its last steps
    seen.active = ""


def _show_state(node: str, state: State, workflow: Workflow, seen: _Seen, output: Output) -> None:
    """Show the new points of a curve, and a message that was not shown yet."""
    if state.run not in seen.steps:
        # Points from before this call are past.
        seen.steps[state.run] = state.points[-1]["step"] if state.points else 0
    elif state.points and workflow.prompt[node]["class_type"] == TRAINER:
        for point in state.points:
            if point["step"] > seen.steps[state.run]:
                last = point is state.points[-1]
                metrics = {name: float(value) for name, value in point.items()
                           if name != "step" and isinstance(value, (int, float))}
                if last and state.eta_seconds:
                    metrics["eta_seconds"] = state.eta_seconds
                total = state.training[1] if state.training else state.total
                output.progress(Progress(stage="train", step=point["step"], total=total, metrics=metrics,
                                         measured_on=state.measured_on))
        seen.steps[state.run] = max(seen.steps[state.run], state.points[-1]["step"])
    if workflow.prompt[node]["class_type"] == TRAINER and state.run:
        seen.runs[node] = state.run
    if state.message and state.message != seen.message:
        seen.message = state.message
        output.progress(Progress(stage="load", step=state.step, total=state.total, message=state.message))


def _say(message: str, seen: _Seen, output: Output) -> None:
    if message != seen.message:
        seen.message = message
        output.line(message)
