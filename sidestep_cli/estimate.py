"""`estimate` and `compare-configs`: where in the model the songs need capacity."""

from __future__ import annotations

import argparse
from pathlib import Path

from sidestep_core.device import choose_device
from sidestep_core.errors import ConfigError
from sidestep_core.estimate import result, tables
from sidestep_core.estimate.selection import select

from . import settings, songs
from .console import Output
from .models import open_model
from .stop import stoppable

FILE = "estimate.json"
LEAST = 2


def run(arguments: argparse.Namespace, output: Output) -> None:
    """Run `estimate`."""
    from sidestep_core.estimate.estimate import estimate

    model = open_model(arguments)
    for flag in dict.fromkeys(arguments.without_effect):
        output.notice(f"{flag} changes nothing.")
    config = settings.estimation(arguments)
    config = settings.estimation(arguments, device=str(choose_device(config.device)))
    with stoppable(output) as stop:
        folder: Path = arguments.dataset_dir
        dataset = songs.opened(folder, model, folder.with_name(f"{folder.name}-{songs.IMPORTED}"), output, stop)
        found = estimate(model.source(), model.checkpoint, dataset, config, dataset.folder / songs.ESTIMATES,
                         report=stop.reporting())
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
