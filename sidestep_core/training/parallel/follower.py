"""Training in a process that follows the leader: the same steps on its share of their passes, and nothing written."""

from __future__ import annotations

import gc
import logging
from pathlib import Path

from ... import rng
from ...adapters.config import AdapterConfig
from ...adapters.file import Adapter
from ...dataset.manifest import Dataset
from ...device import release_memory
from ...model.checkpoint import Checkpoint
from ...progress import Report
from .. import resume, run_checkpoint
from ..loop import take_step
from ..resolve import Resolved
from ..run_checkpoint import RunState
from ..setup import prepare
from ..step import Training
from .ranks import BEGIN, END, RankLost, Ranks

log = logging.getLogger(__name__)


def follow(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, settings: Resolved, folder: Path,
           start_from: Path | None, ranks: Ranks, report: Report) -> Adapter:
    """Follow the leader through its run, which is in `folder`, and return the adapter that it has published.

    RankLost if the leader ends without one.
    """
    try:
        with rng.isolated(settings.device):
            while ranks.take().step == BEGIN:
                training = prepare(checkpoint, dataset, adapter, settings, ranks)
                if ranks.take().step != BEGIN:
                    break
                resume.load_newest(training, folder, start_from)
                if _take_steps(training, report) == END:
                    break
                del training
                gc.collect()
                release_memory(settings.device)
    finally:
        release_memory(settings.device)
    done = run_checkpoint.finished(folder)
    if done is None:
        raise RankLost("The leading process has ended without an adapter; its own message says why.")
    return done


def _take_steps(training: Training, report: Report) -> int:
    """Take the steps that the leader orders; return its order that is no step."""
    while (order := training.ranks.take()).step >= 0:
        take_step(training, RunState(step=order.step, scale=order.scale), report)
    return order.step
