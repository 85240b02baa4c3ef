"""Answer to the page: what pressing Run would train, and whether it fits, from the widgets of the workflow alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import comfy.model_management
import torch

from ....sidestep_core.adapters.config import AdapterConfig
from ....sidestep_core.device import choose_device
from ....sidestep_core.errors import SideStepError
from ....sidestep_core.io.hashing import fingerprint
from ....sidestep_core.model.checkpoint import Checkpoint
from ....sidestep_core.sentence import Sentence
from ....sidestep_core.training import run_checkpoint
from ....sidestep_core.training.config import TrainConfig
from ....sidestep_core.training.planning import step_times
from ....sidestep_core.training.planning.plan import Fix, Plan, Room, plan
from ....sidestep_core.training.train import identity
from ...widgets import placement, training
from .. import choices, folders, loaded_model, models, preset_files
from ..preflight import KINDS
from ..wording import sentence
from . import measured
from .prompts import Node, NotKnown
from .songs import PlannedSongs, planned

TRAINER = "SideStepTrainAdapter"
SETTINGS = "SideStepTrainingSettings"
PRESET = "SideStepLoadPreset"
PROBLEMS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Given:
    """Everything that Train LoRA is given."""

    trainer: Node
    checkpoint: Checkpoint
    songs: PlannedSongs
    adapter: AdapterConfig
    config: TrainConfig


def answer(prompt: Mapping[str, object], node_id: str) -> dict[str, object]:
    """Plan the training of a node of the prompt.

    Where something is wrong or not known before the workflow runs, `message` says so, and the rest is left out.
    """
    trainer = Node.find(prompt, node_id)
    if trainer.kind != TRAINER:
        return {"name": "", "message": Sentence("This node trains nothing."), "wrong": False}
    named = {"name": _taken(trainer)}
    try:
        given = _given(trainer)
        device = choose_device(models.device(given.config.device))
        made = plan(given.checkpoint, given.songs.dataset, given.adapter,
                    replace(given.config, device=str(device)), _room(device))
    except NotKnown as error:
        return {**named, "message": error.sentence, "wrong": False}
    except (SideStepError, OSError) as error:
        return {**named, "message": sentence(error), "wrong": True}
    return {**named, **_facts(made), **_songs(given.songs), "message": _state(given),
            "wrong": False, "seconds": _seconds(given, made, device), "fix": _fix(trainer, made.fix)}


def _given(trainer: Node) -> Given:
    checkpoint = _checkpoint(_required(trainer, "checkpoint", "Load ACE-Step Checkpoint"))
    songs = planned(_required(trainer, "dataset", "Audio Folder to Dataset"), checkpoint)
    adapter = _adapter(_required(trainer, "adapter_config", "Configure LoRA"))
    return Given(trainer=trainer, checkpoint=checkpoint, songs=songs, adapter=adapter, config=_config(trainer))


def _required(trainer: Node, name: str, node: str) -> Node:
    source = trainer.source(name)
    if source is None:
        raise NotKnown(Sentence("Connect {node} to {name}: then the plan of the training is here.",
                                node=node, name=name))
    return source


def _checkpoint(node: Node) -> Checkpoint:
    if node.kind == "SideStepLoadACEStepCheckpoint":
        return loaded_model.chosen(**{name: node.text(name, folders.AUTOMATIC)
                                      for name in ("model", "text_encoder", "vae", "variant")})
    for name in ("unet_name", "ckpt_name"):
        if name in node.inputs:
            return loaded_model.chosen(node.text(name))
    raise NotKnown(Sentence("The model comes from a node that has not run: it is known once the workflow runs."))


def _adapter(node: Node) -> AdapterConfig:
    if node.kind == PRESET:
        return _preset(node).adapter
    if node.kind not in KINDS:
        raise NotKnown(Sentence("The adapter's settings are known once the workflow runs."))
    if node.source("estimate") is not None:
        raise NotKnown(Sentence("The estimate chooses the modules: they are known once the workflow runs."))
    from ....sidestep_core.adapters.registry import configs

    return placement.config_of(configs()[KINDS[node.kind]], node.widgets())


def _config(trainer: Node) -> TrainConfig:
    settings = trainer.source("settings")
    if settings is not None and settings.kind == PRESET:
        return _preset(settings).train
    if settings is not None and settings.kind != SETTINGS:
        raise NotKnown(Sentence("The settings are known once the workflow runs."))
    others = {} if settings is None else settings.widgets()
    own = {name: trainer.value(name) for name in training.OWN if name in trainer.inputs}
    return TrainConfig.from_json(training.values({**others, **own}))


def _preset(node: Node) -> preset_files.Preset:
    return preset_files.chosen(*(node.text(name) for name in ("preset", "changes", "json")))[1]


def _taken(trainer: Node) -> str:
    """Sentence on the name that will be written where the chosen one is taken; empty where it is free."""
    try:
        target = folders.adapter_file(trainer.text("adapter_name"))
    except SideStepError as error:
        return sentence(error)  # the name is none, or comes from another node
    if not target.exists():
        return ""
    number = 2
    while target.with_stem(f"{target.stem}-{number}").exists():
        number += 1
    return Sentence("{name} is taken: {other} will be written.", name=target.stem, other=f"{target.stem}-{number}")


def _room(device: torch.device) -> Room:
    """Memory of a device, with what ComfyUI gives up for a training."""
    held = sum(loaded.model_loaded_memory() for loaded in comfy.model_management.current_loaded_models
               if loaded.device == device and device.type != "cpu")
    return Room(free=int(comfy.model_management.get_free_memory(device)) + int(held),
                total=int(comfy.model_management.get_total_memory(device)))


def _facts(made: Plan) -> dict[str, object]:
    return {
        "songs": made.songs, "heldout": made.heldout, "minutes": made.minutes, "steps": made.steps,
        "listens": made.listens, "modules": made.modules, "parameters": made.parameters, "bytes": made.file_bytes,
        "verdict": made.verdict, "need": made.need.total, "free": made.room.free if made.room else None,
        "total": made.room.total if made.room else None, "notices": list(made.notices),
    }


def _songs(songs: PlannedSongs) -> dict[str, object]:
    shown = [f"{problem.name}: {problem.reason}" for problem in songs.problems[:PROBLEMS_SHOWN]]
    more = len(songs.problems) - len(shown)
    if more:
        shown.append(Sentence("And {n} more.", n=more))
    return {"problems": shown, "left_out": len(songs.problems), "notes": list(songs.notes)}


def _state(given: Given) -> str:
    """Sentence on an earlier run of the same training; empty where there is none, or that cannot be told."""
    trainer = given.trainer
    alone = trainer.source("start_from") is None and trainer.value("auto_estimate") is not True
    if not (given.songs.encoded and alone and trainer.text("if_already_trained") != "train again"):
        return ""
    beginning = choices.checkpoint_of(trainer.text("resume_from", choices.LATEST))
    key = fingerprint(identity(given.checkpoint, given.songs.dataset, given.adapter, given.config,
                               resume_from=beginning))
    run = folders.run_folder(trainer.text("adapter_name"), key)
    if run_checkpoint.is_finished(run):
        return Sentence("Trained already: Run takes the finished adapter.")
    saved = run_checkpoint.checkpoints(run)
    return Sentence("Run goes on at step {step}.", step=run_checkpoint.step_of(saved[-1])) if saved else ""


def _seconds(given: Given, made: Plan, device: torch.device) -> float | None:
    """Seconds of the training by an earlier one of the same shape on this device; None without one."""
    key = measured.key(given.checkpoint, given.songs.dataset, given.adapter, given.config, device)
    step = step_times.read(measured.file()).get(key)
    return None if step is None else step * made.steps


def _fix(trainer: Node, fix: Fix | None) -> dict[str, object] | None:
    """Change that helps, with the node and the widget to make it in, where that is in the workflow."""
    if fix is None:
        return None
    node = _owner(trainer, fix.setting)
    position = None if node is None else {"node": node.id, "widget": "changes" if node.kind == PRESET else fix.setting}
    return {"sentence": fix.sentence, "setting": fix.setting, "value": fix.value, "fits": fix.fits, "place": position}


def _owner(trainer: Node, setting: str) -> Node | None:
    """Node that has the widget of a setting, or the preset that sets it."""
    source = trainer.source("adapter_config" if setting == "rank" else "settings")
    if source is not None and (source.kind == PRESET or setting in source.inputs):
        return source
    return trainer if setting in training.OWN else None


