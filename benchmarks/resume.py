"""Resume benchmark: runs are killed at random moments, also inside saves, or hit by an error, and then resumed.

Each run trains a tiny adapter in processes of its own, which are requested to save and to pause at random steps.  Every
second process is hit by an error (ERRORS), and killed later if the error did not end it.  A kill is `lost` if the next
process cannot resume, or resumes from before the last complete checkpoint; after an error of the device, from before
the last finished step.  `identical`: every run ends with the same files, byte for byte, as an uninterrupted one; see
`results` in parts/resumed.py, which has the settings of the runs.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import queue
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import torch

import run
from benchmarks.parts.resumed import ADAPTERS, SAVE_EVERY, open_materials, results, settings, write_materials
from sidestep_core.io import atomic
from sidestep_core.progress import Progress
from sidestep_core.training import loop, metrics, run_checkpoint
from sidestep_core.training.controls import Controls
from sidestep_core.training.optim import optimizers
from sidestep_core.training.train import train
from tests.tiny import TinySource

KILLS = 50
OPTIMIZERS = tuple(ADAPTERS)
"""Optimizers of the runs, in turn."""
ERRORS = ("memory", "device", "metrics", "disk")
"""Out of memory in a step, a failing device, and a full disk: for one row of metrics.jsonl, or for everything from a
moment on."""
REQUESTS = 0.1
"""Chance of each request at each step."""
LATEST_ERROR = 12
"""Maximum steps of a process before its error."""
LONGEST_LIFE = 0.4
"""Share of a whole run's time within which a process is killed at a random moment."""
ADAPTER = "adapter.safetensors"
PATIENCE = 300.0
"""Seconds without output after which a process counts as hanging."""


def train_in(folder: Path, optimizer: str, error: str, after: int, requests: float) -> None:
    """Train in `folder`/run, print every finished step, and raise the error, if one is named, after `after` steps: the
    work of each process.  `requests` is the chance of a save and of a pause at each step.
    """
    torch.set_num_threads(1)
    checkpoint, dataset = open_materials(folder.parent / "materials")
    config = settings(optimizer)
    optimizers.build(config, [torch.nn.Parameter(torch.zeros(1))])

    controls = Controls()

    def report(progress: Progress) -> None:
        if "loss" in progress.metrics:
            print(progress.step, flush=True)
            for request in ("save", "pause"):
                if random.random() < requests:
                    controls.ask(request)
        if progress.stage == "pause":
            controls.withdraw("pause")

    if error:
        _meet(error, after)
    print("ready", flush=True)
    train(TinySource(Path(), []), checkpoint, dataset, ADAPTERS[optimizer], config, folder / "run", folder / ADAPTER,
          controls=controls, report=report)
    print("done", flush=True)


def _meet(error: str, after: int) -> None:
    """Let what the error stands for fail in this process: once, or from then on where a disk is full."""
    full = OSError(errno.ENOSPC, "No space left on device")
    owner, name, raised, times = {
        "memory": (loop, "optimizer_step", torch.OutOfMemoryError("CUDA out of memory."), 1),
        "device": (loop, "optimizer_step", RuntimeError("CUDA error: unspecified launch failure"), 1),
        "metrics": (metrics.Metrics, "_append", full, 1),
        "disk": (atomic, "_flush_to_disk", full, sys.maxsize),
    }[error]
    real, calls = getattr(owner, name), itertools.count()

    def failing(*arguments: Any, **named: Any) -> Any:
        if after <= next(calls) < after + times:
            raise raised
        return real(*arguments, **named)

    setattr(owner, name, failing)


@dataclass
class Attempt:
    """One process of a run, its error, and its output."""

    process: subprocess.Popen[str]
    error: str
    lines: queue.Queue[str]
    steps: list[int] = field(default_factory=list)
    last: str | None = None
    """Last line of output; empty after the process has ended."""
    done: bool = False

    @classmethod
    def start(cls, folder: Path, optimizer: str, error: str = "", requests: float = 0.0) -> Attempt:
        """Start a process that is about to train, with its error and its requests at random steps."""
        folder.mkdir(parents=True, exist_ok=True)
        command = [*run.launch(Path(sys.executable), "benchmarks.resume"), folder, optimizer, error,
                   str(random.randrange(1, LATEST_ERROR)), str(requests)]
        with (folder / "errors.txt").open("a", encoding="utf-8") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8",
                                       cwd=run.bootstrap.ROOT)
        attempt = cls(process, error, queue.Queue())
        threading.Thread(target=_read_lines, args=(process.stdout, attempt.lines), daemon=True).start()
        while attempt.last not in ("ready", ""):
            attempt.read_line(PATIENCE)
        return attempt

    def read_line(self, seconds: float) -> None:
        """Read the next line.  queue.Empty if there is none in time."""
        self.last = self.lines.get(timeout=seconds)
        if self.last.isdigit():
            self.steps.append(int(self.last))
        self.done = self.done or self.last == "done"

    def kill_after(self, seconds: float) -> bool:
        """Kill the process after this time; return True if it was still at work."""
        ends = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while self.last != "":
                self.read_line(max(0.0, ends - time.monotonic()))
        at_work = self.last != ""
        self.process.kill()
        self.finish()
        return at_work and not self.done

    @property
    def failed(self) -> bool:
        """Return True if its error ended it before a kill did."""
        return self.error in ("device", "disk") and self.process.poll() == 1

    def finish(self) -> None:
        """Read the remaining output."""
        while self.last != "":
            self.read_line(PATIENCE)
        self.process.wait()


def _read_lines(stream: TextIO, lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line.strip())
    lines.put("")


def complete(folder: Path, attempt: Attempt) -> int:
    """Step of the last complete checkpoint: the last on the disk, at least the last due before a printed step, or the
    last printed step itself if the device failed."""
    saved = [int(path.name.rpartition("-")[2]) for path in run_checkpoint.checkpoints(folder / "run")]
    printed = attempt.steps[-1] if attempt.steps else 0
    if attempt.error == "disk":
        return max([0, *saved])
    due = printed if attempt.failed else max(0, printed - 1) // SAVE_EVERY * SAVE_EVERY
    return max([due, *saved])


def disturb(folder: Path, optimizer: str, most: int, seconds: float) -> tuple[int, int]:
    """One run, killed at most so many times and continued until it is finished: how often it was killed, and how often
    it lost anything by that."""
    kills = lost = saved = 0
    while True:
        error = next(_errors) if kills < most and kills % 2 else ""
        attempt = Attempt.start(folder, optimizer, error, REQUESTS)
        killed = kills < most and attempt.kill_after(random.uniform(0, LONGEST_LIFE * seconds))
        if not killed:
            attempt.finish()
        stopped = killed or attempt.failed
        if kills and (not (stopped or attempt.done) or (attempt.steps and attempt.steps[0] <= saved)):
            lost += 1
        if not stopped:
            return kills, lost
        kills += 1
        saved = max(saved, complete(folder, attempt))


_errors = itertools.cycle(ERRORS)


def measure(root: Path) -> dict[str, int | bool]:
    """Runs until there were enough kills."""
    print("undisturbed runs first", flush=True)
    write_materials(root / "materials")
    undisturbed, seconds = {}, {}
    for optimizer in OPTIMIZERS:
        attempt = Attempt.start(root / optimizer, optimizer)
        begun = time.monotonic()
        attempt.finish()
        seconds[optimizer] = time.monotonic() - begun
        undisturbed[optimizer] = results(root / optimizer, ADAPTER)
        print(f"{optimizer}: {len(undisturbed[optimizer])} files to compare", flush=True)
    kills = lost = 0
    identical = True
    for number, optimizer in enumerate(itertools.cycle(OPTIMIZERS), start=1):
        folder = root / f"run{number}"
        share = min(KILLS - kills, math.ceil(KILLS / len(OPTIMIZERS)))
        now_killed, now_lost = disturb(folder, optimizer, share, seconds[optimizer])
        ours, theirs = results(folder, ADAPTER), undisturbed[optimizer]
        differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        same = not differing
        kills, lost, identical = kills + now_killed, lost + now_lost, identical and same
        print(f"run {number}, {optimizer}, {seconds[optimizer]:.1f} s when undisturbed: {now_killed} kills, {now_lost} "
              f"lost, {'identical' if same else 'DIFFERENT: ' + ', '.join(differing)}; {kills} of {KILLS}", flush=True)
        if not same:
            print((folder / "errors.txt").read_text(encoding="utf-8")[-2000:], flush=True)
        if kills == KILLS:
            return {"kills": kills, "lost": lost, "identical": identical}
    raise AssertionError("cycles for ever")


def main() -> int:
    if len(sys.argv) > 1:
        train_in(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
        return 0
    with TemporaryDirectory() as root:
        found = measure(Path(root))
    print(json.dumps(found))
    return 0 if found["identical"] and not found["lost"] else 1


if __name__ == "__main__":
    sys.exit(main())
