"""`runs` and `preset`: what was trained, and the settings to train with."""

from __future__ import annotations

import argparse
from pathlib import Path

from sidestep_core.errors import ConfigError
from sidestep_core.io import atomic, locks
from sidestep_core.presets import preset as presets
from sidestep_core.runs import curve, files, influence, summary
from sidestep_core.runs.influence import Influence
from sidestep_core.runs.summary import RunSummary, UnderWay

from . import settings
from .console import Output
from .console import curve as drawn


def run_runs(arguments: argparse.Namespace, output: Output) -> None:
    """Run `runs`: list the runs of an output folder, newest first, or show one."""
    root: Path = arguments.output_dir.expanduser().absolute()
    folders = files.run_folders(root / files.RUNS) or files.run_folders(root)
    if not folders:
        raise ConfigError(f"There is no run in {root}. Give the --output-dir of a training.")
    found = sorted((_summary(folder) for folder in folders.values()), key=lambda run: -run.started)
    if arguments.run_name is not None:
        found = [run for run in found if run.id.startswith(arguments.run_name)]
        if not found:
            raise ConfigError(f"There is no run {arguments.run_name!r} in {root}; there are {', '.join(folders)}.")
    for run in found:
        if arguments.json:
            output.result(summary.answer(run), run.name)
        else:
            measured = influence.read(folders[run.id] / files.INFLUENCE)
            output.table(run.id, _rows(run, measured))


def _summary(folder: Path) -> RunSummary:
    under_way: UnderWay | None = "running" if locks.is_held(folder) else None
    return summary.read(folder, curve.read(folder / files.METRICS), under_way)


def _rows(run: RunSummary, measured: Influence | None) -> list[tuple[str, str]]:
    loss = f"{run.loss:.4f} {drawn(run.sparkline)}" if run.loss is not None else "none yet"
    rows = [("Status", f"{run.status} at step {run.step:,} of {run.total:,}"),
            ("Songs", f"{run.songs}, {run.minutes:.1f} minutes"), ("Model", run.model), ("Loss", loss)]
    if run.heldout_first is not None and run.heldout_last is not None:
        rows.append(("Measured", f"{run.heldout_first:.4f} before, {run.heldout_last:.4f} at last"))
    if run.by_heart:
        rows.append(("Learned by heart", ", ".join(run.by_heart)))
    if measured is not None:
        rows.append(("Harmful songs", ", ".join(measured.named("harms")) or "none"))
    return [*rows, *(("Adapter", name) for name in run.files), *([("Note", run.message)] if run.message else [])]


def run_preset(arguments: argparse.Namespace, output: Output) -> None:
    """Run `preset`: list them, show one, or save one from a preset, an adapter and flags."""
    if arguments.preset is None and arguments.save is None:
        built_in = [(name, presets.load_built_in(name).description) for name in presets.BUILT_IN]
        own = [(name, str(path)) for name, path in settings.own_presets().items()]
        output.table("Presets", [*built_in, *own])
        return
    start = settings.given_preset(arguments)
    found = start.with_changes("\n".join(arguments.set or ()))
    if arguments.save is None:
        output.line(found.to_text().rstrip())
        return
    name = arguments.save
    if name in presets.BUILT_IN or Path(name).name != name:
        raise ConfigError(f"A preset cannot be called {name!r}. Choose another name.")
    path = settings.preset_folders()[0] / f"{name}.json"
    if path.exists() and not arguments.yes:
        raise ConfigError(f"There is a preset {name!r} already: {path}. Choose another name, or give --yes.")
    atomic.write_text(path.absolute(), presets.Preset(name=name, description=found.description, adapter=found.adapter,
                                                      train=found.train).portable().to_text())
    output.result({"file": str(path)}, f"Saved as {path}.")
