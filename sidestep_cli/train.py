"""`fixed` and `selective`: songs encoded if asked for, modules chosen, a summary, a training, and its results."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.file import Adapter
from sidestep_core.adapters.peft_layout import CONFIG_NAME, WEIGHTS_NAME
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.device import choose_device, free_memory, total_memory
from sidestep_core.errors import ConfigError
from sidestep_core.estimate import result as estimates
from sidestep_core.estimate.selection import apply_selection
from sidestep_core.io import atomic
from sidestep_core.io.hashing import fingerprint
from sidestep_core.progress import Cancelled, Report
from sidestep_core.runs import by_heart
from sidestep_core.runs.files import RUNS
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.parallel.launch import train_on_devices
from sidestep_core.training.parallel.ranks import Ranks, joined, own_device
from sidestep_core.training.planning import step_times
from sidestep_core.training.planning.plan import Plan, Room, plan
from sidestep_core.training.train import identity

from . import flags, settings, songs, summary
from .console import Output, Silent
from .models import Model, open_model
from .stop import Stop, stoppable

if TYPE_CHECKING:
    import torch

LOG = "side-step.log"
TIMES = "step_times.json"
NO_PREVIEWS = ("No preview is generated every {steps} steps: previews are made by ComfyUI. Train there to hear them, "
               "or load the adapters in the run's folder into ComfyUI.")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training before it begins."""

    model: Model
    dataset: Dataset
    adapter: AdapterConfig
    config: TrainConfig
    folder: Path
    """Folder of the run."""
    target: Path
    """File of the adapter."""
    resume_from: Path | None
    start_from: Path | None
    log_dir: Path | None

    @property
    def times(self) -> Path:
        """File of the measured times of steps."""
        return self.target.parent / TIMES

    def shape(self) -> str:
        """Key of the time of a step."""
        seconds = self.dataset.seconds / len(self.dataset.samples)
        return step_times.shape(str(choose_device(self.config.device)), self.model.checkpoint.size, self.adapter,
                                self.config, seconds)

    def plan(self) -> Plan:
        """Plan the training on its device."""
        device = choose_device(self.config.device)
        free = free_memory(device)
        room = None if free is None else Room(free=free, total=total_memory(device) or free)
        return plan(self.model.checkpoint, self.dataset, self.adapter, self.config, room)


def run(arguments: argparse.Namespace, output: Output) -> None:
    """Run `fixed` or `selective`, in one process or in each of those that torchrun started."""
    model = open_model(arguments)
    device = own_device(choose_device(flags.values(arguments, "train").get("device", "auto")))
    with joined(device) as ranks, stoppable(output, follows=not ranks.leads) as stop:
        shown = output if ranks.leads else Silent()
        with ranks.leader_first():
            dataset = songs.of_training(arguments, model, shown, stop)
        if arguments.output_dir is None:
            return
        with ranks.leader_first():
            job = prepare(arguments, model, dataset, shown, stop, device)
        with ranks.leader_first():
            if ranks.leads and not summary.confirmed(arguments, shown, summary.rows(job)):
                raise Cancelled("Nothing was started.")
        adapter = train_job(job, stop, ranks)
    shown.result(facts(job, adapter), summary.done(job, adapter))


def prepare(arguments: argparse.Namespace, model: Model, dataset: Dataset, output: Output, stop: Stop,
            device: torch.device) -> Job:
    """Settle everything that the training depends on."""
    base = settings.given_preset(arguments)
    adapter = settings.adapter(arguments, base.adapter)
    for sentence in settings.unused(arguments, adapter.kind):
        output.notice(sentence)
    config = settings.training(arguments, base.train, model.checkpoint, dataset)
    if config.preview_every:
        output.notice(NO_PREVIEWS.format(steps=config.preview_every))
    adapter = chosen(arguments, model, dataset, adapter, config, output, stop.reporting())
    # As a node does: the settings in the adapter's file name the device that was used.
    config = replace(config, device=str(device))
    out: Path = arguments.output_dir.expanduser().absolute()
    name = (arguments.name or out.name).removesuffix(".safetensors")
    resume_from = _checkpoint_folder(arguments.resume_from)
    key = fingerprint(identity(model.checkpoint, dataset, adapter, config, start_from=arguments.start_from,
                               resume_from=resume_from))
    return Job(model=model, dataset=dataset, adapter=adapter, config=config, folder=out / RUNS / f"{name}-{key}",
               target=out / f"{name}.safetensors", resume_from=resume_from, start_from=arguments.start_from,
               log_dir=arguments.log_dir)


def chosen(arguments: argparse.Namespace, model: Model, dataset: Dataset, adapter: AdapterConfig, config: TrainConfig,
           output: Output, report: Report) -> AdapterConfig:
    """Restrict the adapter of `selective` to the modules of an estimate; that of `fixed` stays."""
    if arguments.command != "selective":
        return adapter
    if (arguments.module_config is None) == (not arguments.auto_estimate):
        raise ConfigError("selective needs the modules to train: give --module-config with the file of an estimate, or "
                          "--auto-estimate to measure them first; one of the two.")
    if arguments.module_config is not None:
        path: Path = arguments.module_config
        found = estimates.read(path.read_bytes(), path.name)
        for sentence in found.mismatches(model.checkpoint.fingerprint, dataset.fingerprint):
            output.notice(sentence)
    else:
        from sidestep_core.estimate.estimate import estimate

        measured = settings.estimation(
            arguments, attention_type=adapter.attention_type, target_mlp=adapter.target_mlp, seed=config.seed,
            device=config.device, chunk_duration=config.chunk_duration,
            precision="auto" if config.precision == "fp16" else config.precision)
        found = estimate(model.source(), model.checkpoint, dataset, measured, dataset.folder / songs.ESTIMATES,
                         report=report)
    return apply_selection(adapter, found, settings.selection(arguments))


def train_job(job: Job, stop: Stop, ranks: Ranks) -> Adapter:
    """Train, with a log file in the run's folder, and lay the adapter out for PEFT beside the result."""
    report, shape = stop.reporting(), job.shape()
    job.folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(job.folder / (LOG if ranks.leads else f"rank-{ranks.rank}.log"), encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("sidestep_core").addHandler(handler)
    try:
        adapter = train_on_devices(
            job.model.source(), job.model.checkpoint, job.dataset, job.adapter, job.config, job.folder, job.target,
            start_from=job.start_from, resume_from=job.resume_from,
            report=step_times.remembering(report, job.times, shape), log_dir=job.log_dir, ranks=ranks)
    except Exception:
        logging.getLogger("sidestep_core").exception("The training ended.")
        raise
    finally:
        logging.getLogger("sidestep_core").removeHandler(handler)
        handler.close()
    if ranks.leads:
        copy_for_peft(job.folder / "final", job.target.parent)
    return adapter


def copy_for_peft(final: Path, folder: Path) -> None:
    """Copy the files that PEFT and ACE-Step's own program open, where the kind of adapter has them."""
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if (final / name).is_file():
            atomic.copy(final / name, folder / name)


def facts(job: Job, adapter: Adapter) -> dict[str, object]:
    """Facts of a finished training, for programs."""
    watched = by_heart.read(job.folder)
    return {"adapter": str(adapter.path), "run": str(job.folder), "steps": adapter.steps,
            "trigger_word": adapter.trigger_word, "heldout_first": adapter.heldout_first,
            "heldout_last": adapter.heldout_last, "measured_on": adapter.measured_on,
            "by_heart": [] if watched is None else [*watched.by_heart],
            "modules": None if adapter.proof is None else adapter.proof.matched}


def _checkpoint_folder(path: Path | None) -> Path | None:
    """Folder of the checkpoint to resume; a file in it stands for it."""
    return path.parent if path is not None and path.is_file() else path
