"""The door of the command line: arguments in, exit code out (0 done, 1 error, 2 usage, 130 stopped and kept)."""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sidestep_core.errors import SideStepError
from sidestep_core.progress import Cancelled

from . import console
from .console import Output
from .stop import STOPPED

ERROR, USAGE = 1, 2
STAGES = {
    "preprocess the songs": "side-step preprocess",
    "estimate the gradients": "side-step estimate",
    "merge the adapter": "side-step merge",
    "merge the shards": "side-step merge-datasets",
}
"""Phrase for a stage in messages of the core -> its command."""
VANILLA = ("vanilla, the old trainer with discrete timesteps and no CFG dropout, is gone. The same training is:\n"
           "  side-step fixed --timestep-mode discrete --cfg-ratio 0 ...")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a song's name may be in no alphabet of the console
    given = list(sys.argv[1:] if words is None else words)
    if not given and sys.stdin.isatty():
        return guided_mode()
    parser = build_parser()
    arguments = parser.parse_args(given)
    output = console.choose(plain=arguments.plain, as_json=arguments.json)
    logging.getLogger("sidestep_core").setLevel(logging.INFO)
    logging.getLogger("sidestep_core").propagate = False
    try:
        arguments.run(arguments, output)
    except Cancelled as stop:
        output.notice(f"{stop} The same command continues.")
        return STOPPED
    except KeyboardInterrupt:
        output.notice("Stopped.")
        return STOPPED
    except SideStepError as error:
        output.error(with_commands(str(error)))
        return ERROR
    finally:
        output.close()
    return 0


def guided_mode() -> int:
    """Ask what to train, and train it."""
    from . import guided

    output = console.choose(plain=False, as_json=False)
    try:
        words = guided.run(output)
    except SideStepError as error:
        output.error(str(error))
        return ERROR
    return main(words) if words else 0


def with_commands(text: str) -> str:
    """Add its command to each stage that a message sends a person to."""
    stages = re.compile(rf"\b({'|'.join(STAGES)})\b((?: again)?)", re.IGNORECASE)
    return stages.sub(lambda found: f"{found[0]} ({STAGES[found[1].lower()]})", text)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of every subcommand."""
    from . import arguments as own
    from . import estimate, influence, listing, merge, songs, train
    from .remote import command as remote

    parser = argparse.ArgumentParser(prog="side-step", allow_abbrev=False, description=(
        "Train LoRA, LoKR and LoHA adapters for ACE-Step 1.5."))
    add_globals(parser, {"default": False})
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace, Output], None], text: str,
                *aliases: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, aliases=list(aliases), allow_abbrev=False)
        made.set_defaults(run=run, command=name)
        add_globals(made.add_argument_group("Output"), {"default": argparse.SUPPRESS})
        return made

    own.add_training(command("fixed", train.run, "Train an adapter."))
    own.add_selective(command("selective", train.run, "Train chosen modules, by an estimate."))
    own.add_estimate(command("estimate", estimate.run, "Measure which modules matter, without training."))
    compare = command("compare-configs", estimate.run_compare, "Compare estimates.")
    compare.add_argument("--configs", nargs="+", type=Path, required=True, metavar="FILE", help="Two or more files.")
    own.add_selection(compare)
    own.add_influence(command("influence", influence.run, "Measure which songs help an adapter, and which harm it."))
    own.add_build(command("build-dataset", songs.run_build, "List the songs of a folder in one dataset.json."))
    own.add_preprocess(command("preprocess", songs.run_preprocess, "Encode songs, once for all trainings."))
    own.add_merge_datasets(command("merge-datasets", songs.run_merge, "Join the shards of preprocess --shard."))
    own.add_analyze(command("analyze", songs.run_analyze, "Measure tempo, key and loudness of songs."))
    own.add_merge(command("merge", merge.run, "Write a copy of the model with adapters in it.", "apply"))
    remote.add_arguments(command("remote", remote.run, "Run a workflow in a ComfyUI on another computer."))
    own.add_runs(command("runs", listing.run_runs, "List the runs of an output folder."))
    own.add_preset(command("preset", listing.run_preset, "List, show or save presets."))
    command("vanilla", vanilla, "Gone; says what replaces it.")
    return parser


def add_globals(parser: argparse._ActionsContainer, default: dict[str, Any]) -> None:
    """Add the flags that every command has, before or after its name."""
    parser.add_argument("--plain", action="store_true", help=(
        "Plain lines, without colours and bars; so it is anyway where no terminal shows them."), **default)
    parser.add_argument("--yes", "-y", action="store_true", help="Start without asking.", **default)
    parser.add_argument("--json", action="store_true", help="One JSON object per line, for programs.", **default)


def vanilla(arguments: argparse.Namespace, output: Output) -> None:
    """Say what replaces `vanilla`."""
    output.line(VANILLA)
