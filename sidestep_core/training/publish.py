"""Output of a run: checkpoints, the best and the final adapter, and the published adapter, proven."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters import file as adapter_file
from ..adapters import peft_layout
from ..adapters import proof as adapter_proof
from ..adapters.file import Adapter
from ..adapters.proof import Loader
from ..io import atomic
from ..io.tensors import read_tensors
from ..runs import record
from . import run_checkpoint
from .early_stopping import End
from .metrics import MEASURED_ON
from .run_checkpoint import ADAPTER_FILE, AVERAGE_FILE, BEST_FILE, RunState
from .step import Training

Writer = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Destination of a training's results, their metadata, and the loader that proves them."""

    folder: Path
    target: Path
    facts: Mapping[str, Any]
    load: Loader
    log_dir: Path | None = None
    """Folder for TensorBoard; None: one in the run's folder."""

    @property
    def best(self) -> Path:
        """File of the adapter with the lowest held-out loss so far."""
        return self.folder / "best" / ADAPTER_FILE


def rehearse(training: Training, run: Run, every: int) -> None:
    """Write the untrained adapter, and read every n-th module back with the loader that will prove it."""
    file = run.folder / "rehearsal.safetensors"
    try:
        adapter_file.write(file, _with_unit_scales(training.adapter.state_dict()), run.facts)
        adapter_proof.rehearse(file, training.adapter.deltas(every), run.load)
    finally:
        file.unlink(missing_ok=True)


def _with_unit_scales(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set scales that training begins at 0 (a learned scalar) to 1: readers rightly take a 0 for damage."""
    return {name: torch.ones_like(tensor) if tensor.numel() == 1 and not tensor.any() else tensor
            for name, tensor in state.items()}


def save_checkpoint(training: Training, run: Run, state: RunState, *, prune: bool = True) -> Path:
    """Write the checkpoint of the present step, complete for resuming.

    `prune` removes all but the last keep_checkpoints.
    """
    files = _adapter_files(training, _facts(training, run, state))
    if training.heldout and state.best_step:
        # The run may be resumed from here after best/ holds a later one.
        files[BEST_FILE] = functools.partial(atomic.copy, run.best)
    return run_checkpoint.save(run.folder, state, training.optimizer, files,
                          training.config.keep_checkpoints if prune else 0)


def save_best(training: Training, run: Run, state: RunState) -> None:
    """Save the adapter of the present step, as measured, as the best one."""
    with training.averaged():
        adapter_file.write(run.best, training.adapter.state_dict(), _facts(training, run, state))


def usable(checkpoint: Path) -> Path:
    """Adapter file of a checkpoint folder, or of final/, that was measured: the average if there is one."""
    average = checkpoint / AVERAGE_FILE
    return average if average.is_file() else checkpoint / ADAPTER_FILE


def publish(training: Training, run: Run, state: RunState, source: Path, target: Path, *, every: int = 1) -> Adapter:
    """Prove every n-th module of an adapter file against the live adapter of the same state, then copy the file to
    `target`."""
    proof = adapter_proof.prove(source, training.adapter.deltas(every), run.load)
    published = adapter_file.publish(source, target)
    record.add_file(run.folder, published.name)
    return Adapter(path=published, checkpoint=run.facts["checkpoint"],
                   variant=run.facts["variant"], trigger_word=run.facts["trigger_word"], steps=state.step,
                   heldout_first=state.heldout_first, heldout_last=state.heldout_last,
                   measured_on=training.measured_name, proof=proof)


def publish_stopped(training: Training, run: Run, state: RunState, every: int) -> Adapter:
    """Save the present step as a checkpoint, and publish its adapter under a name with the step."""
    source = usable(save_checkpoint(training, run, state))
    with training.averaged():
        return publish(training, run, state, source, _named_by_step(run, state.step), every=every)


def publish_unproven(run: Run, checkpoint: Path) -> Path:
    """Publish the adapter of a checkpoint under a name with its step, while there is no live adapter to prove it."""
    published = adapter_file.publish(usable(checkpoint), _named_by_step(run, run_checkpoint.step_of(checkpoint)))
    record.add_file(run.folder, published.name)
    return published


def _named_by_step(run: Run, step: int) -> Path:
    return run.target.with_stem(f"{run.target.stem}-step-{step}")


def publish_final(training: Training, run: Run, state: RunState, end: End) -> Adapter:
    """Write final/, publish the last or the best adapter, and mark the run as complete."""
    save_checkpoint(training, run, state)
    last = state.step
    files = _adapter_files(training, {**_facts(training, run, state), "ended": end.reason})
    best = training.config.publish == "best"
    if best:
        training.adapter.load_state_dict(read_tensors(run.best))
        state = replace(state, step=state.best_step, heldout_last=state.best_loss)
        facts, tensors = {**_facts(training, run, state), "ended": end.reason}, training.adapter.state_dict()
        files |= {BEST_FILE: _writer(tensors, facts)} | _peft_files(tensors, facts)
    final = run.folder / "final"
    if final.is_dir():
        atomic.remove_folder(final)
    with atomic.atomic_folder(final) as temporary:
        for name, write in files.items():
            write(temporary / name)
    if best:
        adapter = publish(training, run, state, final / BEST_FILE, run.target)
    else:
        with training.averaged():
            adapter = publish(training, run, state, usable(final), run.target)
    run_checkpoint.finish(run.folder, adapter, end.reason, by_hand_at=last if end.by_hand else None)
    return adapter


def _adapter_files(training: Training, facts: Mapping[str, Any]) -> dict[str, Writer]:
    """Writers of the trained adapter, its average if there is one, and the published one of them for PEFT."""
    tensors = training.adapter.state_dict()
    files = {ADAPTER_FILE: _writer(tensors, facts)}
    if training.average is not None:
        with training.average.applied():
            tensors = training.adapter.state_dict()
        files[AVERAGE_FILE] = _writer(tensors, facts)
    return files | _peft_files(tensors, facts)


def _writer(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Writer:
    return lambda path: adapter_file.write(path, tensors, facts)


def _peft_files(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Writer]:
    """Writers of the files that PEFT opens; none for kinds that PEFT would compute in another way."""
    if peft_layout.settings(tensors) is None:
        return {}
    return {peft_layout.CONFIG_NAME: lambda path: adapter_file.write_peft_config(path, tensors),
            peft_layout.WEIGHTS_NAME: lambda path: adapter_file.write_peft_weights(path, tensors, facts)}


def _facts(training: Training, run: Run, state: RunState) -> dict[str, Any]:
    """Metadata of an adapter of the present step."""
    return {**run.facts, "steps": state.step, "heldout_first": state.heldout_first, "heldout_last": state.heldout_last,
            "heldout_error": state.heldout_error, MEASURED_ON: training.measured_name}
