"""Songs on the command line: lists of them, their analysis, and their encoding."""

from __future__ import annotations

import argparse
from pathlib import Path

from sidestep_core.config import Config
from sidestep_core.dataset.manifest import MANIFEST, Dataset, open_dataset
from sidestep_core.device import choose_device
from sidestep_core.errors import ConfigError, DatasetError
from sidestep_core.songs.dataset_json import write_dataset_json
from sidestep_core.songs.defaults import BuildConfig, build
from sidestep_core.songs.lists import DATASET_FILE
from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.song import SongFolder

from . import flags, settings
from .console import Output
from .models import Model, open_model
from .stop import Stop, stoppable

ESTIMATES = "estimates"
"""Folder of estimates in a dataset's folder."""
IMPORTED = "dataset"
"""Folder in the output folder for .pt files that are read."""
ANALYSIS = "analysis"
REPORT = "report.csv"


def of_training(arguments: argparse.Namespace, model: Model, output: Output, stop: Stop) -> Dataset:
    """Open the dataset of a training; encode the songs first with --preprocess."""
    if arguments.preprocess:
        folder = arguments.tensor_output or arguments.dataset_dir
        if arguments.audio_dir is None and arguments.dataset_json is None:
            raise ConfigError("--preprocess needs the songs: give --audio-dir with their folder.")
        if folder is None:
            raise ConfigError("--preprocess needs a place for the encoded songs: give --tensor-output.")
        return encode(arguments, model, folder, output, stop)
    if arguments.dataset_dir is None:
        raise ConfigError("--dataset-dir is missing: give the folder of encoded songs, or --preprocess with "
                          "--audio-dir.")
    if arguments.output_dir is None:
        raise ConfigError("--output-dir is missing: give the folder for the adapter.")
    return opened(arguments.dataset_dir, model, arguments.output_dir / IMPORTED, output, stop)


def opened(folder: Path, model: Model, imported: Path, output: Output, stop: Stop) -> Dataset:
    """Open the dataset in a folder; read .pt files of Side-Step or ACE-Step into `imported` first."""
    folder = folder.expanduser().absolute()
    if (folder / MANIFEST).is_file() and not any(folder.glob("*.pt")):
        return open_dataset(folder)
    if not any(folder.rglob("*.pt")):
        return open_dataset(folder)
    from sidestep_core.dataset.import_tensors import import_tensors

    output.notice("These are .pt files of another program: they are read with its conditions. Better encode the songs "
                  "again, with preprocess, if you still have them.")
    done = import_tensors(folder, model.checkpoint, imported.expanduser().absolute(), report=stop.reporting())
    for problem in done.problems:
        output.notice(f"{problem.name} is left out: {problem.reason}")
    return done.dataset


def encode(arguments: argparse.Namespace, model: Model, folder: Path, output: Output, stop: Stop,
           part: tuple[int, int] | None = None) -> Dataset:
    """Encode the songs of --audio-dir into `folder`; of a part (number, of how many), only its share."""
    from sidestep_core.dataset.preprocess import preprocess
    from sidestep_core.dataset.shard import Shard

    found = songs_of(arguments.dataset_json or arguments.audio_dir, output)
    config = settings.preprocessing(arguments, found.shared_trigger_word)
    device = flags.values(arguments, "train").get("device", "auto")
    shard = part and Shard.of_list(*part, found.songs, config)
    done = preprocess(model.source(), model.checkpoint, found.songs, folder.expanduser().absolute(), config,
                      genre_ratio=found.genre_ratio, device=str(choose_device(device)), shard=shard,
                      report=stop.reporting())
    for problem in done.problems:
        output.notice(f"{problem.name} is left out: {problem.reason}")
    facts: dict[str, object] = {"dataset": str(folder), "songs": len(done.dataset.samples), "encoded": done.made,
                                "minutes": round(done.dataset.seconds / 60, 1)}
    what = "songs"
    if shard:
        facts["shard"], what = f"{shard.number}/{shard.of}", f"of {len(shard.songs)} songs, those of {shard},"
    output.result(facts, f"{len(done.dataset.samples)} {what} ready in {folder}, {done.made} encoded now.")
    return done.dataset


def songs_of(source: Path, output: Output) -> SongFolder:
    """Find the songs of a folder or of a dataset.json, and show what is left out."""
    found = find_songs(source)
    for problem in (*found.problems, *found.notices):
        output.notice(f"{problem.name}: {problem.reason}")
    return found


def run_preprocess(arguments: argparse.Namespace, output: Output) -> None:
    """Run `preprocess`."""
    if arguments.audio_dir is None and arguments.dataset_json is None:
        raise ConfigError("Give --audio-dir with the folder of your songs.")
    model = open_model(arguments)
    with stoppable(output) as stop:
        encode(arguments, model, arguments.tensor_output, output, stop, arguments.shard)


def run_merge(arguments: argparse.Namespace, output: Output) -> None:
    """Run `merge-datasets`."""
    from sidestep_core.dataset.merge_shards import merge_shards

    target: Path = arguments.output.expanduser().absolute()
    with stoppable(output) as stop:
        merged = merge_shards([folder.expanduser().absolute() for folder in arguments.shards], target,
                              report=stop.reporting())
    if merged.left_out:
        output.notice(f"{len(merged.left_out)} songs could not be used by their shard: {', '.join(merged.left_out)}.")
    if merged.rounded:
        output.notice(f"{merged.rounded} texts that shards share were rounded differently by their devices. Those of "
                      "the first shard are taken.")
    songs = len(merged.dataset.samples)
    output.result({"dataset": str(target), "songs": songs, "minutes": round(merged.dataset.seconds / 60, 1)},
                  f"{songs} songs of {len(arguments.shards)} shards ready in {target}.")


def run_build(arguments: argparse.Namespace, output: Output) -> None:
    """Run `build-dataset`."""
    root: Path = arguments.input
    percent = arguments.genre_ratio
    config = BuildConfig(**{**flags.values(arguments, "build"), "genre_ratio": percent / 100})
    found = build(songs_of(root, output), config)
    target = arguments.output or (root if root.is_dir() else root.parent) / DATASET_FILE
    if target.exists() and not arguments.yes and target.resolve() != _written_before(target, found):
        raise DatasetError(f"{target} exists already. Give --yes to write it again, or another --output.")
    write_dataset_json(found, target, arguments.name)
    output.result({"file": str(target), "songs": len(found.songs)}, f"{len(found.songs)} songs in {target}.")


def _written_before(target: Path, found: SongFolder) -> Path | None:
    """Return the file itself if it lists the same songs, so that writing it loses nothing."""
    try:
        there = find_songs(target)
    except DatasetError:
        return None
    return target.resolve() if {song.name for song in there.songs} == {song.name for song in found.songs} else None


def run_analyze(arguments: argparse.Namespace, output: Output) -> None:
    """Run `analyze`."""
    from sidestep_core.songs.analyze import AnalyzeConfig, analyze
    from sidestep_core.songs.report_csv import write_report

    found = songs_of(arguments.input, output)
    folder: Path = arguments.output.expanduser().absolute()
    config: Config = AnalyzeConfig(**flags.values(arguments, "analyze"))
    assert isinstance(config, AnalyzeConfig)
    with stoppable(output) as stop:
        analyzed = analyze(found, config, folder / ANALYSIS, report=stop.reporting())
    write_report(analyzed, folder / REPORT)
    write_dataset_json(analyzed, folder / DATASET_FILE, folder.name)
    warned = sum(bool(report.warnings) for report in analyzed.reports)
    output.result({"report": str(folder / REPORT), "dataset": str(folder / DATASET_FILE),
                   "songs": len(analyzed.songs), "warned": warned},
                  f"{len(analyzed.songs)} songs analyzed, {warned} with warnings: {folder / REPORT}. Train on "
                  f"{folder / DATASET_FILE}, which has the estimates.")
