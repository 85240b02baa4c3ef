"""`influence`: songs that help an adapter on music it was not trained on, and songs that harm it."""

from __future__ import annotations

import argparse
from pathlib import Path

from sidestep_core.errors import ConfigError
from sidestep_core.runs import files, record
from sidestep_core.runs import influence as records
from sidestep_core.runs.influence import Influence

from . import flags, songs
from .console import Output
from .models import open_model
from .stop import stoppable

INFLUENCES = "influence"
"""Folder of measurements in a dataset's folder."""


def run(arguments: argparse.Namespace, output: Output) -> None:
    """Run `influence`."""
    from sidestep_core.estimate.influence import influence

    model = open_model(arguments)
    adapter: Path = arguments.adapter.expanduser().absolute()
    run_folder = _run_folder(arguments.run_folder, adapter)
    folder: Path = arguments.dataset_dir
    with stoppable(output) as stop:
        dataset = songs.opened(folder, model, folder.with_name(f"{folder.name}-{songs.IMPORTED}"), output, stop)
        found = influence(model.source(), model.checkpoint, dataset, adapter, dataset.folder / INFLUENCES,
                          draws=arguments.draws, device=flags.values(arguments, "train").get("device", "auto"),
                          report=stop.reporting())
    if run_folder is not None:
        records.write(run_folder / files.INFLUENCE, found)
    else:
        output.notice(f"There is no run beside {adapter.name}, so no report shows this. Give --run with its folder.")
    output.table("Influence on the held-out loss", [
        (song.song, f"{song.verdict:8}{song.score:+.3f}, error {song.error:.3f}") for song in found.songs])
    output.result({"run": run_folder and str(run_folder), "step": found.step, "draws": found.draws, "songs": [
        {**song.to_json(), "verdict": song.verdict} for song in found.songs]}, sentence(found))


def _run_folder(given: Path | None, adapter: Path) -> Path | None:
    """Folder of the adapter's run.  ConfigError if the one that was given is none."""
    if given is None:
        return record.run_of(adapter)
    folder = given.expanduser().absolute()
    if not any((folder / mark).is_file() for mark in files.MARKS):
        raise ConfigError(f"{folder} is no run. Give a folder in runs/ of the adapter's output folder.")
    return folder


def sentence(found: Influence) -> str:
    """Sentence on the songs that harm, with what to do."""
    helps, harms = found.named("helps"), found.named("harms")
    counted = f"{len(helps)} of {len(found.songs)} songs help the held-out music, {len(harms)} harm it"
    if not harms:
        return f"{counted}."
    return f"{counted}: {', '.join(harms)}. Listen to them, check their captions and lyrics, or train without them."
