"""A training from its settings to its published adapter."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .. import rng
from ..adapters import file as adapter_file
from ..adapters import formats, registry
from ..adapters.config import AdapterConfig
from ..adapters.file import Adapter
from ..adapters.proof import Loader
from ..dataset.manifest import Dataset
from ..dataset.sample_info import SampleInfo
from ..device import explain_out_of_memory, free_memory, release_memory
from ..io import atomic, locks, read_ahead
from ..model import loading
from ..model.checkpoint import Checkpoint, ModelSource
from ..progress import Progress, Report, ignore
from ..runs import record
from ..runs.record import NO_ORIGIN, Origin, RunRecord
from ..runs.songs import MAX_CAPTION, Song
from ..sentence import Sentence
from . import publish, resume, run_checkpoint
from .config import TrainConfig
from .controls import Controls
from .data import ensure_conditions
from .interruption import PROOF_STRIDE, wait_while_paused
from .loop import MakePreview, run_steps
from .optim import optimizers
from .pace import Pace
from .parallel.follower import follow
from .parallel.ranks import ALONE, BEGIN, END, RELEASE, Order, Ranks
from .publish import Run
from .resolve import Resolved, resolve
from .setup import prepare

log = logging.getLogger(__name__)

RESULT_INVARIANT_SETTINGS = (
    "gradient_checkpointing", "attention", "compile", "offload", "allow_fewer_bits", "device", "devices", "save_every",
    "save_minutes", "keep_checkpoints", "tensorboard", "log_every", "log_heavy_every", "preview_every",
    "preview_caption", "preview_lyrics", "preview_seconds", "shift", "inference_steps",
)
"""Settings of speed, place, display and metadata: the result is the same but for the rounding of another device.  A
stopped run continues with changed ones."""

ADVICE = ("Lower chunk_duration, batch_size or rank, switch gradient_checkpointing and offload on; base_precision int8 "
          "halves bf16.")
SHORT_SECONDS = 10.0
"""Length below which a song is worth a look."""


def train(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, config: TrainConfig,
          folder: Path, target: Path, *, start_from: Path | None = None, resume_from: Path | None = None,
          load: Loader = formats.delta_fn, preview: MakePreview | None = None, controls: Controls | None = None,
          report: Report = ignore, origin: Origin = NO_ORIGIN, log_dir: Path | None = None,
          ranks: Ranks = ALONE) -> Adapter:
    """Train an adapter, prove its file, and publish it at `target` (or the next free name).

    `folder` is the run's own: a finished run is returned at once, a stopped one resumes, and InUse is raised if another
    process trains it.  `resume_from`, a folder checkpoint-step-N of this or another run, is resumed exactly instead;
    `start_from`, an adapter file, gives only the initial weights.  `load` is the loader that proves the saved file.
    `controls` takes requests during the run.  If `report` raises `Cancelled` (or anything that is no Exception rises),
    the last finished step is saved as a checkpoint and as a usable adapter.  `origin` goes into the record of the run.
    `log_dir` is where TensorBoard's curves go if they are on; None: the run's own folder.
    `ranks` is the place of this process among those of the training, which see the same `folder`.
    """
    settings = resolve(config, checkpoint, dataset)
    own = resume.is_own(folder, resume_from)
    run_identity = identity(checkpoint, dataset, adapter, config, start_from=start_from,
                            resume_from=None if own else resume_from)
    facts = {**run_identity, "variant": checkpoint.variant, "size": checkpoint.size,
             "trigger_word": dataset.trigger_word, "style": dataset.style, "checkpoint_name": checkpoint.name,
             "train": config.to_json(), "resolved": settings.config.to_json(),
             "inference": {"shift": settings.config.shift, "steps": settings.config.inference_steps}}
    run = Run(folder=folder, target=target, facts=facts, load=load, log_dir=log_dir)
    if not ranks.leads:
        return follow(checkpoint, dataset, adapter, settings, folder, start_from, ranks, report)
    with locks.held(folder, "trained"):
        resume.prepare_run_dir(folder, run_identity, resume_from, settings.total_steps)
        done = run_checkpoint.finished(folder)
        if done is not None and _sampling_facts(done.path) == facts["inference"]:
            log.info("This run is already finished: %s", done.path)
            ranks.give(Order(step=END))
            return done
        atomic.require_writable(target.parent)
        # Imports take seconds, and so does the disk.
        with read_ahead.reading(checkpoint.model, free_memory(torch.device("cpu"))):
            registry.require(adapter)
            optimizers.require(config.optimizer)
            loading.require(config.base_precision)
        controls = controls or Controls()
        by_hand_at = run_checkpoint.finished_by_hand(folder)
        if by_hand_at is not None and by_hand_at == run_checkpoint.newest_step(folder):
            # Its file is missing or needs other metadata: it is written again, without training.
            controls.ask("finish")
        with record.kept(folder, _record(checkpoint, dataset, adapter, settings, target), _songs(dataset), origin):
            return _load_and_run(source, checkpoint, dataset, adapter, settings, run, start_from, controls, preview,
                                 record.noting(folder, report), ranks)


def _record(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, settings: Resolved,
              target: Path) -> RunRecord:
    """Return the record of a training that starts now."""
    return RunRecord(name=target.stem, started=time.time(), total=settings.total_steps, songs=len(dataset.samples),
                     minutes=dataset.seconds / 60, model=checkpoint.name,
                     settings={"adapter": adapter.to_json(), "train": settings.config.to_json()})


def _songs(dataset: Dataset) -> list[Song]:
    """List the songs, with a sentence about each that is worth a look."""
    return [Song(name=sample.name, seconds=sample.seconds, caption=sample.caption[:MAX_CAPTION],
                 problems=tuple(_problems(sample, dataset.trigger_word))) for sample in dataset.samples]


def _problems(sample: SampleInfo, trigger_word: str) -> Iterator[str]:
    if sample.caption.strip() in ("", trigger_word):
        yield "It has no caption."
    if sample.seconds < SHORT_SECONDS:
        yield f"It is only {sample.seconds:.1f} s long."


def _load_and_run(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig,
                  settings: Resolved, run: Run, start_from: Path | None, controls: Controls,
                  preview: MakePreview | None, report: Report, ranks: Ranks) -> Adapter:
    """Train until the run ends: load the model, restore the state of the run, and step.

    A pause lets go of everything and begins here again, as a new process would: that is exact, and frees all memory.
    """
    device, pace, notified = settings.device, Pace(settings.config, settings.total_steps), False

    def notify(notice: str) -> None:
        log.warning(notice)
        report(Progress(stage="load", step=0, total=1, message=notice, notice=notice))

    def train_until_pause() -> Adapter | None:
        report(Progress(stage="load", step=0, total=1,
                        message=Sentence("Loading the decoder of {name}", name=checkpoint.name)))
        with explain_out_of_memory("loading the decoder", ADVICE):
            ensure_conditions(source, checkpoint, dataset, settings.config, device, report)
            ranks.give(Order(step=BEGIN))
            training = prepare(checkpoint, dataset, adapter, settings, ranks)
        with explain_out_of_memory("training", f"It needs {training.need}. {ADVICE}"):
            state = resume.restore(training, run, start_from, notify)
            ranks.give(Order(step=BEGIN))
            for notice in () if notified else settings.notices:
                notify(notice)
            if state.step == 0:
                publish.rehearse(training, run, PROOF_STRIDE)
            made = run_steps(training, run, state, controls=controls, pace=pace, preview=preview, report=report)
            ranks.give(Order(step=RELEASE if made is None else END))
            return made

    try:
        with rng.isolated(device):
            while True:
                wait_while_paused(run, settings.total_steps, controls, report)
                finished = train_until_pause()
                if finished is not None:
                    return finished
                notified = True
                gc.collect()
                release_memory(device)
    finally:
        release_memory(device)


def identity(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, config: TrainConfig, *,
             start_from: Path | None = None, resume_from: Path | None = None) -> dict[str, Any]:
    """Facts that identify a run: the same identity finds the same run on the disk again."""
    settings = resolve(config, checkpoint, dataset).config.to_json()
    found: dict[str, Any] = {
        "checkpoint": checkpoint.fingerprint, "dataset": dataset.fingerprint, "adapter": adapter.to_json(),
        "train": {name: value for name, value in settings.items() if name not in RESULT_INVARIANT_SETTINGS},
    }
    if start_from is not None:
        found["start_from"] = resume.adapter_fingerprint(start_from)
    if resume_from is not None:
        found["resume_from"] = resume.checkpoint_fingerprint(resume_from)
    return found


def _sampling_facts(adapter: Path) -> object:
    """Shift and steps in the metadata of a finished adapter; if they differ it is written again, without training."""
    return adapter_file.facts_of(adapter).get("inference")
