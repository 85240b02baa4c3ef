"""Process that follows a training on a device of its own; launch.py starts it."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from pathlib import Path

import torch

from ...dataset.manifest import open_dataset
from ...io import atomic
from ...progress import ignore
from ..resolve import resolve
from .follower import follow
from .job import Job
from .ranks import RankLost, joined_here

JOB, MEETING = "job-{rank}.json", "meeting"
READY, FAILED = "ready-{rank}", "failed-{rank}.txt"
"""Files of a follower in the folder that it shares with its leader; a failure's is the reason in words."""
LOST = 3
"""Exit code of a process that ends because another has."""


def run(shared: Path, rank: int, count: int) -> int:
    """Follow the training described in `shared`; return the exit code."""
    # Ctrl-C in a terminal reaches every process, and the leader decides what becomes of the training.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        job = Job.read(shared / JOB.format(rank=rank))
        dataset = open_dataset(job.dataset)
        settings = resolve(job.config, job.checkpoint, dataset)
        if settings.device.type == "cuda":
            torch.cuda.set_device(settings.device)
        atomic.write_text(shared / READY.format(rank=rank), "")
        with joined_here(shared / MEETING, rank, count) as ranks:
            follow(job.checkpoint, dataset, job.adapter, settings, job.folder, job.start_from, ranks, ignore)
    except RankLost:
        return LOST
    except BaseException as error:  # the leader shows it to the person
        # A stopped training leaves no folder to write to.
        with contextlib.suppress(atomic.CannotWrite, OSError):
            atomic.write_text(shared / FAILED.format(rank=rank), str(error) or type(error).__name__)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
