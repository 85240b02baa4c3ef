"""One training on all devices of a machine: this process leads, and starts a process on each further device.

The leader runs the training as without others, so previews, requests, stops and errors are the same.  The others know
nothing of who started them.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ...adapters.config import AdapterConfig
from ...adapters.file import Adapter
from ...config import Precision
from ...dataset.manifest import Dataset
from ...device import choose_device, choose_dtype, devices_like
from ...errors import ConfigError
from ...model.checkpoint import Checkpoint, ModelSource
from ...progress import Progress, Report, ignore
from ...sentence import Sentence
from .. import run_checkpoint
from ..config import TrainConfig
from ..train import train
from .job import Job
from .process import FAILED, JOB, LOST, MEETING, READY
from .ranks import ALONE, RankLost, Ranks, joined_here

log = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[3]
_CODE = ("import runpy, sys; sys.path.insert(0, sys.argv[1]); sys.argv[1:] = sys.argv[2:]; "
         "runpy.run_module('sidestep_core.training.parallel.process', run_name='__main__', alter_sys=True)")
"""Runs a follower; the Python of ComfyUI for Windows ignores PYTHONPATH and the present folder."""
POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0
"""Time for a process to end by itself."""
MOST_PRINTED = 4000
"""Characters of a failed process that are logged."""


def train_on_devices(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig,
                     config: TrainConfig, folder: Path, target: Path, *, start_from: Path | None = None,
                     report: Report = ignore, ranks: Ranks = ALONE, **more: Any) -> Adapter:
    """Train as `train` does, on every device that the settings ask for.

    A process that torchrun started has its device, so `ranks` of several are used as they are.
    """
    devices = devices_of(config) if ranks.count == 1 and not run_checkpoint.is_finished(folder) else ()
    job = Job(checkpoint=checkpoint, dataset=dataset.folder, adapter=adapter, config=config, folder=folder,
              start_from=start_from)
    with contextlib.nullcontext(ranks) if len(devices) < 2 else followed(job, devices, report) as all_ranks:
        return train(source, checkpoint, dataset, adapter, config, folder, target, start_from=start_from,
                     report=report, ranks=all_ranks, **more)


def devices_of(config: TrainConfig) -> tuple[torch.device, ...]:
    """List the devices that a training uses; its process has the first."""
    first = choose_device(config.device)
    return devices_like(first) if config.devices == "all" else (first,)


@contextlib.contextmanager
def followed(job: Job, devices: Sequence[torch.device], report: Report) -> Iterator[Ranks]:
    """Start a process that follows on each device but the first, for the block.  RankLost if one of them ends, with its
    own reason."""
    if not torch.distributed.is_available():
        raise ConfigError("This PyTorch was built without torch.distributed, which devices 'all' needs. Choose 'one'.")
    if torch.distributed.is_initialized():
        raise ConfigError("Another part of this program uses torch.distributed already, so devices 'all' is not "
                          "possible. Choose 'one'.")
    with TemporaryDirectory(prefix="side-step-", ignore_cleanup_errors=True) as folder:
        shared = Path(folder)
        started = []
        try:
            for rank, device in enumerate(devices[1:], start=1):
                replace(job, config=_settings_on(job.config, devices[0], device)).write(shared / JOB.format(rank=rank))
                started.append(_start(shared, rank, len(devices), device))
            _await_ready(started, report)
            with joined_here(shared / MEETING, 0, len(devices), lambda error: _reason(started, error)) as ranks:
                yield ranks
        finally:
            _end(started)


def _settings_on(config: TrainConfig, first: torch.device, device: torch.device) -> TrainConfig:
    """Settings of a follower: on its own device, in the leader's precision, whatever its card would choose."""
    if config.precision != "auto":
        return replace(config, device=str(device))
    precision: Precision = "bf16" if choose_dtype("auto", first) == torch.bfloat16 else "fp32"
    return replace(config, device=str(device), precision=precision)


@dataclass(frozen=True, kw_only=True)
class _Follower:
    """Process on another device."""

    rank: int
    device: torch.device
    process: subprocess.Popen[bytes]
    shared: Path

    @property
    def is_ready(self) -> bool:
        return (self.shared / READY.format(rank=self.rank)).is_file()

    @property
    def printed(self) -> Path:
        return self.shared / f"printed-{self.rank}.txt"

    def failure(self) -> str:
        """Sentence on its end; empty while it runs, or if it ended because another did."""
        code = self.process.poll()
        if code in (None, 0, LOST):
            return ""
        path = self.shared / FAILED.format(rank=self.rank)
        if path.is_file():
            return f"The process on {self.device} has failed: {path.read_text(encoding='utf-8')}"
        return f"The process on {self.device} has ended with code {code}."


def _start(shared: Path, rank: int, count: int, device: torch.device) -> _Follower:
    words = [sys.executable, "-c", _CODE, str(_ROOT), str(shared), str(rank), str(count)]
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW
    with (shared / f"printed-{rank}.txt").open("wb") as printed:
        process = subprocess.Popen(words, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed,
                                   creationflags=flags)
    return _Follower(rank=rank, device=device, process=process, shared=shared)


def _await_ready(started: Sequence[_Follower], report: Report) -> None:
    """Wait until all have loaded their programs; only then is it certain that they come to the meeting."""
    while not all(follower.is_ready for follower in started):
        report(Progress(stage="load", step=0, total=1, message=Sentence(
            "Starting the training on {count} devices", count=len(started) + 1)))
        for follower in started:
            if follower.failure():
                raise _reason(started)
        time.sleep(POLL_SECONDS)


def _reason(started: Sequence[_Follower], error: RuntimeError | None = None) -> RankLost:
    """Make the error for the end of a follower, with its own reason."""
    ends = time.monotonic() + GRACE_SECONDS
    while not any(follower.failure() for follower in started) and time.monotonic() < ends:
        time.sleep(POLL_SECONDS)
    failed = [follower for follower in started if follower.failure()]
    for follower in failed:
        log.error("The process on %s printed:\n%s", follower.device,
                  follower.printed.read_text(encoding="utf-8", errors="replace")[-MOST_PRINTED:])
    return RankLost(" ".join(follower.failure() for follower in failed)
                    or f"The connection to another process of this training broke: {error}")


def _end(started: Sequence[_Follower]) -> None:
    """Let the processes end, which they do when the leader has left, and end those that do not."""
    ends = time.monotonic() + GRACE_SECONDS
    for end in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
        for follower in started:
            if end is not None and follower.process.poll() is None:
                log.warning("The process on %s does not end by itself.", follower.device)
                end(follower.process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                follower.process.wait(max(1.0, ends - time.monotonic()))
