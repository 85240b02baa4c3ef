"""`estimate` and `compare-configs`: where in the model the songs need capacity."""

from __future__ import annotations

import argparse
from pathlib import Path

from sidestep_core.dataset.manifest import Dataset
from sidestep_core.device import choose_device
from sidestep_core.errors import ConfigError
from sidestep_core.estimate import result, tables
from sidestep_core.estimate.selection import select
from sidestep_core.progress import ignore
from sidestep_core.training.parallel.ranks import joined, own_device

from . import settings, songs
from .console import Output, Silent
from .models import open_model
from .stop import stoppable

FILE = "estimate.json"
LEAST = 2


def run(arguments: argparse.Namespace, output: Output) -> None:
    """Run `estimate`."""
    from sidestep_core.estimate.estimate import estimate

    model = open_model(arguments)
    config = settings.estimation(arguments)
    device = own_device(choose_device(config.device))
    config = settings.estimation(arguments, device=str(device))
    with joined(device) as ranks, stoppable(output, follows=not ranks.leads) as stop:
        shown = output if ranks.leads else Silent()
        for flag in dict.fromkeys(arguments.without_effect):
            shown.notice(f"{flag} changes nothing.")
        folder: Path = arguments.dataset_dir
        with ranks.leader_first():
            dataset = songs.opened(folder, model, folder.with_name(f"{folder.name}-{songs.IMPORTED}"), shown, stop)
        found = estimate(model.source(), model.checkpoint, dataset, config, dataset.folder / songs.ESTIMATES,
                         report=stop.reporting() if ranks.leads else ignore, ranks=ranks)
    if ranks.leads:
        _show(arguments, output, dataset, found)


def _show(arguments: argparse.Namespace, output: Output, dataset: Dataset, found: result.Estimate) -> None:
    """Write the estimate where it was asked for, and show what it chooses."""
    target: Path = arguments.output or dataset.folder / FILE
    result.write(target.expanduser().absolute(), found)
    chosen = select(found, settings.selection(arguments), rank=1)
    if arguments.heat_map is not None:
        from sidestep_core.estimate import heatmap

        heatmap.draw(found, chosen, "Where this music needs capacity").save(arguments.heat_map)
    output.line(tables.table(found, chosen))
    output.result({"file": str(target), "chosen": list(chosen), "samples": found.batches},
                  f"{target} is ready: train with selective --module-config {target}.")


def run_compare(arguments: argparse.Namespace, output: Output) -> None:
    """Run `compare-configs`."""
    paths: list[Path] = arguments.configs
    if len(paths) < LEAST:
        raise ConfigError(f"compare-configs compares at least two files; {len(paths)} was given.")
    found = {_title(path, paths): result.read(_content(path), path.name) for path in paths}
    chosen = {title: select(one, settings.selection(arguments), rank=1) for title, one in found.items()}
    output.line(tables.comparison(found, chosen))


def _title(path: Path, paths: list[Path]) -> str:
    """Name of a file, with its folder where another has the same."""
    twins = sum(other.stem == path.stem for other in paths) > 1
    return str(path) if twins else path.stem


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Give the file of an estimate.") from error
