"""Subcommands and their flags, in the groups of Side-Step's argument reference."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.registry import configs
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.selection import SelectionConfig
from sidestep_core.runs.influence import DRAWS
from sidestep_core.settings import adapters as adapter_tables
from sidestep_core.settings.estimate import ESTIMATE, SELECTION
from sidestep_core.settings.songs import ANALYZE, BUILD, PREPROCESS
from sidestep_core.settings.training import TRAINING
from sidestep_core.songs.analyze import AnalyzeConfig
from sidestep_core.songs.defaults import BuildConfig
from sidestep_core.training.config import TrainConfig

from . import flags, names

GIVEN: dict[str, Any] = {"default": argparse.SUPPRESS}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the model and its files."""
    group = parser.add_argument_group("Model / Paths")
    group.add_argument("--checkpoint-dir", type=Path, required=True, metavar="PATH", help=(
        "Folder of checkpoints (or ComfyUI's models folder), one model's folder in it, or a model file."))
    group.add_argument("--model-variant", default="turbo", metavar="NAME", help=(
        "turbo, base, sft, or the name of the model's folder or file. Default: turbo."))
    group.add_argument("--base-model", choices=("turbo", "base", "sft"), help=(
        "What a fine-tune was made from. Default: as its config.json or name says."))
    group.add_argument("--text-encoder", type=Path, metavar="PATH", help=(
        "File or folder of the text encoder. Default: found beside the model."))
    group.add_argument("--vae", type=Path, metavar="PATH", help=(
        "File or folder of the VAE. Default: found beside the model."))
    group.add_argument("--tokenizer", type=Path, metavar="FOLDER", help=(
        "Folder of the text encoder's tokenizer. Default: found beside the model, or in its ComfyUI."))


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add every flag of `fixed`."""
    add_model(parser)
    parser.add_argument("--preset", metavar="NAME", help=(
        "Settings to begin with: a built-in preset, one of yours, or a file. Flags change single ones."))
    add_data(parser)
    grouped = {name for own in names.GROUPS.values() for name in own}
    for title, own in names.GROUPS.items():
        group = parser.add_argument_group(title)
        listed = own or tuple(field.name for field in fields(TrainConfig) if field.name not in grouped)
        for name in listed:
            flags.add(group, TrainConfig, TRAINING, name, "train", names.TRAINING)
        if title == "Checkpointing":
            _add_results(group)
        elif title == "Logging / TensorBoard":
            _add_logging(group)
    add_adapter(parser)
    _add_preprocessing(parser)
    _add_without_effect(parser)


def add_data(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    group = parser.add_argument_group("Data")
    group.add_argument("--dataset-dir", type=Path, required=required, metavar="FOLDER", help=(
        "Folder of encoded songs: of preprocess, of ComfyUI, or the .pt files of Side-Step and ACE-Step."))


def _add_results(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output-dir", type=Path, metavar="FOLDER", help=(
        "Folder of the adapter, and of its run in runs/. A stopped run goes on when the same command is run again."))
    group.add_argument("--name", help="Name of the adapter's file. Default: that of the output folder.")
    group.add_argument("--save-every", type=_positive, metavar="EPOCHS", **GIVEN, help=(
        "Epochs between two checkpoints, as in Side-Step. Better count steps, with --save-every-steps."))
    group.add_argument("--resume-from", type=Path, metavar="FOLDER", help=(
        "A checkpoint-step-N to go on from. Default: the newest of this run."))
    group.add_argument("--start-from", type=Path, metavar="FILE", help=(
        "Adapter file whose weights to begin with. It must be of the same kind and size."))


def _add_logging(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--log-dir", type=Path, metavar="FOLDER", help=(
        "Folder for TensorBoard, which it switches on. Default: tensorboard in the run's folder."))
    group.add_argument("--sample-every-n-epochs", type=_not_negative, metavar="EPOCHS", **GIVEN, help=(
        "Epochs between two previews, as in Side-Step; 0: none. Better count steps, with --preview-every."))


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the adapter's kind, place and size."""
    kinds = configs()
    group = parser.add_argument_group("Adapter")
    group.add_argument("--adapter-type", choices=tuple(kinds), **GIVEN, help="Kind of adapter. Default: lora.")
    for name in adapter_tables.PLACEMENT:
        flags.add(group, AdapterConfig, adapter_tables.PLACEMENT, name, "adapter", {})
    for kind, config in kinds.items():
        group = parser.add_argument_group(f"{config.__name__.removesuffix('Config')} (--adapter-type {kind})")
        own = names.KINDS.get(kind, {})
        table = adapter_tables.KINDS[kind]
        for name in table:
            if name not in names.SHARED.get(kind, ()):
                plain = f"--{name.replace('_', '-')}" if kind == "lora" else f"--{kind}-{name.replace('_', '-')}"
                flags.add(group, config, table, name, kind, {name: own.get(name, (plain,))})


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Preprocessing")
    group.add_argument("--preprocess", action="store_true", help=(
        "Encode the songs of --audio-dir first. Without --output-dir, do nothing else."))
    add_songs(group)
    for name in PREPROCESS:
        flags.add(group, PreprocessConfig, PREPROCESS, name, "preprocess", names.PREPROCESS)


def add_songs(group: argparse._ArgumentGroup) -> None:
    """Add the flags for songs to encode, and for the place of the result."""
    group.add_argument("--audio-dir", type=Path, metavar="FOLDER", help="Folder with songs.")
    group.add_argument("--dataset-json", type=Path, metavar="FILE", help=(
        "A dataset.json with captions and lyrics. One in the folder is found without this."))
    group.add_argument("--tensor-output", type=Path, metavar="FOLDER", help=(
        "Folder for the encoded songs. Unchanged songs in it are not encoded again."))


def add_estimate(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `estimate`."""
    add_model(parser)
    add_data(parser, required=True)
    group = parser.add_argument_group("Estimation")
    for name in ESTIMATE:
        flags.add(group, EstimateConfig, ESTIMATE, name, "estimate", {})
    add_selection(parser)
    group.add_argument("--output", type=Path, metavar="FILE", help=(
        "File of the estimate. Default: estimate.json in the dataset's folder."))
    group.add_argument("--heat-map", type=Path, metavar="FILE", help="PNG picture of the estimate.")
    group.add_argument("--batch-size", type=_positive, metavar="N", **GIVEN, help=(
        "Taken, and without effect: songs of any length are measured one by one, so that they count alike."))
    _add_without_effect(parser, ("--num-workers",))


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a choice among modules by an estimate."""
    group = parser.add_argument_group("Choice of modules")
    for name in SELECTION:
        flags.add(group, SelectionConfig, SELECTION, name, "selection", {})


def add_selective(parser: argparse.ArgumentParser) -> None:
    """Add every flag of `selective`: those of `fixed`, and the choice of modules."""
    add_training(parser)
    group = parser.add_argument_group("Selective")
    group.add_argument("--module-config", type=Path, metavar="FILE", help="Estimate to choose by, of estimate.")
    group.add_argument("--auto-estimate", action="store_true", help="Measure first, on these songs.")
    flags.add(group, EstimateConfig, ESTIMATE, "estimate_batches", "estimate", {})
    flags.add(group, EstimateConfig, ESTIMATE, "score", "estimate", {})
    add_selection(parser)


def add_influence(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `influence`."""
    add_model(parser)
    add_data(parser, required=True)
    group = parser.add_argument_group("Influence")
    group.add_argument("--adapter", type=Path, required=True, metavar="FILE", help=(
        "Adapter that was trained on these songs: its file, or one of a checkpoint of its run."))
    group.add_argument("--draws", type=_positive, default=DRAWS, metavar="N", help=(
        "Draws of each song, a multiple of 4. More take longer and give smaller errors. "
        f"Default: {DRAWS}."))
    group.add_argument("--run", type=Path, metavar="FOLDER", dest="run_folder", help=(
        "Folder of the adapter's run, whose report then shows the influences. Default: found beside the adapter."))
    flags.add(group, TrainConfig, TRAINING, "device", "train", names.TRAINING)


def add_build(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `build-dataset`."""
    parser.add_argument("--input", "-i", type=Path, required=True, metavar="FOLDER", help=(
        "Folder with songs, searched with its subfolders; or a dataset.json."))
    group = parser.add_argument_group("Dataset")
    for name in (name for name in BUILD if name != "genre_ratio"):
        flags.add(group, BuildConfig, BUILD, name, "build", names.BUILD)
    group.add_argument("--genre-ratio", type=_percent, default=0, metavar="PERCENT", help=(
        "Percentage of draws that use a song's genre in place of its caption, 0 to 100. Default: 0."))
    group.add_argument("--name", default="local_dataset", help="Name in the file. Default: local_dataset.")
    group.add_argument("--output", type=Path, metavar="FILE", help="Default: dataset.json in the folder of the songs.")


def add_preprocess(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `preprocess`."""
    add_model(parser)
    group = parser.add_argument_group("Songs")
    add_songs(group)
    for name in PREPROCESS:
        flags.add(group, PreprocessConfig, PREPROCESS, name, "preprocess", names.PREPROCESS)
    flags.add(group, TrainConfig, TRAINING, "device", "train", names.TRAINING)
    group.add_argument("--shard", type=_shard, metavar="I/N", help=(
        "Encode part I of N of the songs, such as 2/4: one on each machine, all with the same songs and settings. Then "
        "join the parts with merge-datasets."))


def add_merge_datasets(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `merge-datasets`."""
    parser.add_argument("shards", type=Path, nargs="+", metavar="FOLDER", help="Every shard of preprocess --shard.")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help=(
        "New folder for the whole dataset: the files that one machine would have made."))


def add_analyze(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `analyze`."""
    parser.add_argument("--input", "-i", type=Path, required=True, metavar="FOLDER", help=(
        "Folder with songs, or a dataset.json."))
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help=(
        "Folder for report.csv and a dataset.json with the estimates."))
    group = parser.add_argument_group("Analysis")
    for name in ANALYZE:
        flags.add(group, AnalyzeConfig, ANALYZE, name, "analyze", {})


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `merge`."""
    add_model(parser)
    parser.add_argument("--adapter", type=Path, nargs="+", required=True, metavar="FILE", help=(
        "Adapter files, of any layout, or folders of PEFT."))
    parser.add_argument("--strength", type=float, nargs="+", metavar="N", help=(
        "A strength for each adapter. Default: 1.0, exactly what was trained."))
    parser.add_argument("--alpha", type=float, default=0.0, metavar="N", help=(
        "Alpha of adapter files that do not contain theirs, often twice the rank. Default: from the file."))
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=(
        "The merged model. turbo, base or sft is added where the name does not say it."))


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `runs`."""
    parser.add_argument("run_name", nargs="?", metavar="RUN", help="Beginning of a run's name. Default: all.")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="FOLDER", help="Folder of the adapters.")


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `preset`."""
    parser.add_argument("preset", nargs="?", help="Preset to show: a name, a preset's file, or an adapter.")
    parser.add_argument("--set", action="append", metavar="NAME:VALUE", help="Change a setting, such as rank:32.")
    parser.add_argument("--save", metavar="NAME", help="Save it in the folder presets, under this name.")


def _add_without_effect(parser: argparse.ArgumentParser, only: Iterable[str] = tuple(names.WITHOUT_EFFECT)) -> None:
    """Add flags of Side-Step that change nothing here; they are noted, and the reason shown."""
    group = parser.add_argument_group("Taken, and without effect")
    for flag in only:
        switch = "pin-memory" in flag or "persistent" in flag or "offload" in flag
        options: dict[str, Any] = {"action": "append_const", "const": flag} if switch else {
            "action": _Ignored, "choices": ("none", "all", "lora_only")} if flag == "--bias" else {
            "action": _Ignored, "type": int, "metavar": "N"}
        reason = names.WITHOUT_EFFECT[flag]
        group.add_argument(flag, dest="without_effect", default=[], help=f"{reason[0].upper()}{reason[1:]}.", **options)


class _Ignored(argparse.Action):
    """Note that the flag was given, whatever its value."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, flag: str | None = None) -> None:
        namespace.without_effect = [*namespace.without_effect, self.option_strings[0]]


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _not_negative(text: str) -> int:
    return _at_least(text, 0)


def _percent(text: str) -> int:
    if (number := _at_least(text, 0)) > 100:
        raise argparse.ArgumentTypeError(f"{text} is more than 100 percent")
    return number


def _shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    found = _at_least(number, 1), _at_least(of, 1)
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f"{text}: there is no part {found[0]} of {found[1]}; the last is {of}/{of}")
    return found


def _at_least(text: str, least: int) -> int:
    number = int(text) if text.strip().lstrip("-").isdigit() else None
    if number is None or number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
    return number
