"""Guided mode: a model, songs and a goal become settings with reasons.  Nothing is asked that can be found.

Each question can be taken back: `b` in a text, or the choice Back.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sidestep_core.device import choose_device, total_memory
from sidestep_core.errors import ConfigError, MissingDependency, SideStepError
from sidestep_core.io import atomic
from sidestep_core.model.checkpoint import open_checkpoint
from sidestep_core.optional import is_installed
from sidestep_core.presets.guide import QUICK, SMALL, THOROUGH, Facts, Proposal, propose
from sidestep_core.presets.preset import BUILT_IN, Preset
from sidestep_core.songs.scan import find_songs, seconds_of

from . import models, names, settings
from .console import Output

BACK, START, SAVE, QUIT = "Back", "Start", "Save these settings as a preset", "Quit"
GOALS = {
    "Train this style": "", "A quick test that everything works": QUICK,
    "The best result, however long it takes": THOROUGH, "As little memory as possible": SMALL,
}
PLACES = ("checkpoints", "models", "../checkpoints", "../ACE-Step-1.5/checkpoints", "../ComfyUI/models", "../models",
          "../../models")
"""Folders in which models are looked for, from the present one."""
ADAPTERS = Path("adapters")
SHOWN = ("rank", "alpha", "max_steps", "learning_rate", "chunk_duration", "batch_size", "gradient_accumulation",
         "optimizer")


@dataclass(frozen=True)
class Answers:
    """Answers so far."""

    model: Path = Path()
    music: Path = Path()
    songs: int = 0
    seconds: float = 0.0
    """Length of all songs."""
    goal: str = ""
    proposal: Proposal | None = None


class Back(Exception):
    """Wish to return to the question before."""


class Quit(Exception):
    """Wish to end."""


Question = Callable[[Answers, Output], Answers | None]
"""Asks, and returns the answers with its own; None if there was nothing to ask."""


def run(output: Output) -> list[str]:
    """Ask until there is a training to start; return its command, or nothing to quit."""
    if not is_installed("questionary"):
        raise MissingDependency("The guided mode needs questionary: pip install questionary. Every command works "
                                "without: side-step --help lists them.")
    answers, asked, number = Answers(), [0], 0
    questions: Sequence[Question] = (ask_model, ask_music, ask_goal, ask_start)
    while number < len(questions):
        try:
            found = questions[number](answers, output)
            if found is None:
                number += 1
                continue
            answers = found
            asked.append(number)
            number += 1
        except Back:
            number = asked.pop() if len(asked) > 1 else 0
        except Quit:
            return []
        except SideStepError as error:
            output.error(str(error))
    return command(answers)


def ask_model(answers: Answers, output: Output) -> Answers | None:
    """Choose the model: the only one that is found, or one of them, or one in a folder that is typed."""
    found = [path for position in PLACES if Path(position).is_dir() for path in models.candidates(Path(position))]
    if len(found) == 1 and answers.model == Path():
        output.line(f"Model: {found[0].name}, the only one here ({found[0].parent}).")
        return replace(answers, model=found[0])
    if found:
        by_name = {f"{path.name}  ({path.parent})": path for path in found}
        return replace(answers, model=by_name[choose("Which model?", [*by_name], first=True)])
    folder = Path(text("Folder of your ACE-Step 1.5 checkpoints, or of ComfyUI's models:")).expanduser()
    inside = [folder] if folder.exists() and models.is_model_file(folder) else [*models.candidates(folder)]
    if not inside:
        raise ConfigError(f"There is no ACE-Step 1.5 model in {folder}.")
    by_name = {path.name: path for path in inside}
    return replace(answers, model=inside[0] if len(inside) == 1 else by_name[choose("Which model?", [*by_name])])


def ask_music(answers: Answers, output: Output) -> Answers:
    """Choose the folder of the songs, and say what is in it."""
    folder = Path(text("Folder with your songs:")).expanduser()
    found = find_songs(folder)
    without = sum(not (song.caption or song.genre) for song in found.songs)
    seconds = seconds_of(found)
    output.line(f"{len(found.songs)} songs, {seconds / 60:.0f} minutes"
                + (f"; {without} without a caption" if without else "") + ".")
    for problem in found.problems[:5]:
        output.notice(f"{problem.name} is left out: {problem.reason}")
    return replace(answers, music=folder, songs=len(found.songs), seconds=seconds)


def ask_goal(answers: Answers, output: Output) -> Answers:
    """Choose the goal, and propose settings for it."""
    goal = choose("What do you want?", [*GOALS])
    device = choose_device("auto")
    proposal = propose(Facts(songs=answers.songs, seconds=answers.seconds, size=size_of(answers.model),
                             memory=total_memory(device), has_8bit=is_installed("bitsandbytes")), GOALS[goal])
    return replace(answers, goal=goal, proposal=proposal)


def ask_start(answers: Answers, output: Output) -> Answers:
    """Show the proposal with its reasons, and start it, keep it as a preset, or go back."""
    proposal = answers.proposal
    assert proposal is not None
    values = {**proposal.adapter.to_json(), **proposal.train.to_json()}
    output.table(f"Proposal ({proposal.preset})", [(name, f"{values[name]}") for name in SHOWN])
    output.line(str(proposal.reason))
    output.line(f"The music is heard {proposal.passes} times.")
    for warning in proposal.warnings:
        output.notice(str(warning))
    output.line("The same as a command:\n  side-step " + shlex.join(command(answers)))
    while choose("Ready?", [START, SAVE]) == SAVE:
        save(text("Name of the preset:"), proposal, output)
    return answers


def save(name: str, proposal: Proposal, output: Output) -> None:
    """Keep a proposal as a preset of the present folder."""
    path = settings.preset_folders()[0] / f"{name}.json"
    if name in BUILT_IN or Path(name).name != name or path.exists():
        output.error(f"A preset cannot be called {name!r} here, or there is one already. Choose another name.")
        return
    preset = Preset(name=name, description=str(proposal.reason), adapter=proposal.adapter, train=proposal.train)
    atomic.write_text(path.absolute(), preset.portable().to_text())
    output.line(f"Saved as {path}: --preset {name}.")


def command(answers: Answers) -> list[str]:
    """Words of the command that encodes the songs and trains."""
    proposal, name = answers.proposal, answers.music.resolve().name
    assert proposal is not None
    values = {**proposal.adapter.to_json(), **proposal.train.to_json()}
    flags = [word for setting in SHOWN for word in (
        (names.TRAINING.get(setting) or (f"--{setting.replace('_', '-')}",))[0], f"{values[setting]}")]
    out = ADAPTERS / name
    return ["--yes", "fixed", "--checkpoint-dir", str(answers.model), "--preprocess", "--audio-dir",
            str(answers.music), "--tensor-output", str(out / "tensors"), "--output-dir", str(out), *flags]


def size_of(model: Path) -> str:
    """Size of a model: 2B, XL or other."""
    arguments = argparse.Namespace(checkpoint_dir=model, model_variant="turbo", base_model=None, text_encoder=None,
                                   vae=None, tokenizer=None)
    if model.is_dir():
        return open_checkpoint(model).size
    return models.open_model(arguments).checkpoint.size


def choose(question: str, choices: list[str], *, first: bool = False) -> str:
    """Ask for one of the choices.  Back or Quit if that is chosen."""
    import questionary

    answer = questionary.select(question, [*choices, *([] if first else [BACK]), QUIT]).ask()
    if answer is None or answer == QUIT:
        raise Quit
    if answer == BACK:
        raise Back
    return str(answer)


def text(question: str) -> str:
    """Ask for a text.  Back for `b`, Quit for Ctrl-C."""
    import questionary

    answer = questionary.text(f"{question} (b: back)").ask()
    if answer is None:
        raise Quit
    if answer.strip() == "b":
        raise Back
    return str(answer).strip().strip("\"'")
