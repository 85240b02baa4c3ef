"""Train an adapter in a thread of its own, with live progress; a stop keeps the finished steps."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

from comfy_api.latest import io

from ..sidestep_core.adapters.config import AdapterConfig
from ..sidestep_core.adapters.file import Adapter
from ..sidestep_core.dataset.manifest import Dataset
from ..sidestep_core.device import choose_device
from ..sidestep_core.estimate.selection import SelectionConfig
from ..sidestep_core.io.hashing import fingerprint
from ..sidestep_core.io.tensors import TensorFile
from ..sidestep_core.sentence import Sentence
from ..sidestep_core.training import metrics
from ..sidestep_core.training.config import TrainConfig
from . import estimate_inline
from .host import choices, folders, live, models, previews, wording
from .host.loaded_model import checkpoint_of
from .host.planning import measured
from .host.polite import giving_way
from .host.report import issue_report
from .host.wording import readable
from .host.worker import run_stage
from .routes import events
from .sockets import (
    CATEGORY,
    AdapterConfigSocket,
    AdapterSocket,
    Configured,
    DatasetSocket,
    GivenSettings,
    TrainConfigSocket,
    checkpoint_input,
)
from .widgets import placement
from .widgets import training as training_widgets

log = logging.getLogger(__name__)

CONTINUE = "continue"
TRAIN_AGAIN = "train again"

_made: dict[str, Path] = {}
"""Adapter file of each name that this process published, to notice when it is gone."""


class TrainAdapter(io.ComfyNode):
    """Checkpoint, Dataset, Configured -> Adapter"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepTrainAdapter",
            display_name="Train LoRA (ACE-Step)",
            category=CATEGORY,
            description="Trains the adapter and puts it into the LoRA folder, proven to load at strength 1.0. Stop it "
                        "with ComfyUI's own cancel button: nothing is lost, and pressing Run again continues.",
            search_aliases=["music", "resume", "continue", "train adapter", "train lora", "lokr", "loha", "fine-tune",
                            "ace step", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                checkpoint_input(),
                DatasetSocket.Input("dataset"),
                AdapterConfigSocket.Input("adapter_config", tooltip="From a Configure node or Load Preset."),
                TrainConfigSocket.Input("settings", optional=True, tooltip=(
                    "From Training Settings, which adds to the settings of this node, or from Load Preset, which sets "
                    "all of them: the widgets here are then dimmed and show its values.")),
                AdapterSocket.Input("start_from", optional=True, tooltip=(
                    "Begin with the weights of this adapter instead of none. It must be of the same kind and size.")),
                io.String.Input("adapter_name", default="my_lora", tooltip=(
                    "Name of the file in models/loras. An existing file is never overwritten: -2, -3 ... is added.")),
                *training_widgets.own_inputs(),
                io.Combo.Input("if_already_trained", options=[CONTINUE, TRAIN_AGAIN], default=CONTINUE, optional=True,
                               advanced=True, tooltip=(
                    "The same songs and settings again: take the finished adapter, or train another one. A run that "
                    "was stopped is continued by both.")),
                io.Combo.Input("resume_from", options=choices.choices(), default=choices.LATEST, optional=True,
                               advanced=True, tooltip=(
                    "Where to go on. A stopped run goes on by itself. A checkpoint of the list begins a run of its own "
                    "at that point; songs, adapter, optimizer, seed and heldout_songs must be the same.")),
                io.Boolean.Input("auto_estimate", default=False, optional=True, advanced=True, tooltip=(
                    "First measure, as Estimate Gradients does, which modules your songs would change most, and train "
                    "only those, of the ones that the Configure node allows.")),
                io.Int.Input("top_k", default=SelectionConfig.top_k, min=1, max=512, optional=True, advanced=True,
                             tooltip="How many modules auto_estimate chooses."),
                io.Boolean.Input("polite", default=False, optional=True, advanced=True, tooltip=(
                    "When you generate something during the training, it saves, frees the card for that, and goes on "
                    "by itself afterwards, with exactly the same result. At least two minutes lie between two times.")),
            ],
            outputs=[AdapterSocket.Output(display_name="adapter"),
                     io.String.Output(display_name="trigger_word", tooltip=(
                         "The word that calls the style: join it with the rest of your prompt."))],
        )

    @classmethod
    def execute(cls, checkpoint: object, dataset: Dataset, adapter_config: Configured, adapter_name: str,
                settings: GivenSettings | None = None, start_from: Adapter | None = None,
                if_already_trained: str = CONTINUE, resume_from: str = choices.LATEST, auto_estimate: bool = False,
                top_k: int = SelectionConfig.top_k, polite: bool = False, **own: object) -> io.NodeOutput:
        from ..sidestep_core.training import run_checkpoint
        from ..sidestep_core.training.parallel.launch import train_on_devices
        from ..sidestep_core.training.train import identity

        checkpoint = checkpoint_of(checkpoint)
        given = settings or GivenSettings(config=TrainConfig(), complete=False)
        if given.complete:
            log.info("The settings of this training come from a preset; the node's own are not used.")
        config = given.completed(training_widgets.values(own))
        target = folders.adapter_file(adapter_name)
        node_id = cls.hidden.unique_id
        if auto_estimate:
            adapter_config = estimate_inline.chosen(node_id, checkpoint, dataset, adapter_config, config, top_k)
        adapter_settings = adapter_config.config
        warnings = [readable(text) for text in adapter_config.mismatches(checkpoint, dataset)]
        for warning in warnings:
            log.warning("%s", wording.without_places(warning))
        if adapter_config.estimate is None:
            events.remember_source(node_id, "adapter_config", placement.trained_facts(adapter_settings, checkpoint))
        first_weights = None if start_from is None else start_from.path
        beginning = choices.checkpoint_of(resume_from)
        key = fingerprint(identity(checkpoint, dataset, adapter_settings, config, start_from=first_weights,
                                   resume_from=beginning))
        run = _run_folder(adapter_name, key, if_already_trained)
        events.replay(node_id, run.name, metrics.read(run / metrics.FILE),
                      saved=[run_checkpoint.step_of(path) for path in run_checkpoint.checkpoints(run)])
        if run_checkpoint.finished(run) is None:
            log.info("For an issue report:\n%s", issue_report(checkpoint, adapter_settings, config))
            models.make_room()
        on = replace(config, device=models.device(config.device))
        origin = events.origin_of(node_id)
        shape = measured.key(checkpoint, dataset, adapter_settings, config, choose_device(on.device))
        with live.training(run.name, node_id) as training, giving_way(training, polite=polite) as watch:
            adapter = run_stage(
                node_id, run.name,
                lambda report: train_on_devices(
                    models.HostModels(), checkpoint, dataset, adapter_settings, on, run, target,
                    start_from=first_weights, resume_from=beginning, load=models.load_as_comfyui,
                    preview=previews.preview_maker(node_id, run, checkpoint, on, dataset.samples[0].caption, report),
                    controls=training.controls, report=measured.remembering(report, shape), origin=origin),
                summary=lambda adapter: Sentence.joined(
                    (Sentence("{file} is in your LoRA list.", file=adapter.path.name), *warnings)),
                watch=watch)
        _made[adapter_name] = adapter.path
        return io.NodeOutput(adapter, adapter.trigger_word, ui={"sidestep": [
            _facts(adapter, adapter_settings) | {"run": run.name, "warnings": warnings}]})

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str, if_already_trained: str = CONTINUE, **_: object) -> float | str:
        """Runs each time for 'train again', and once more when the adapter's file is gone or its run goes on."""
        gone = adapter_name in _made and not _made[adapter_name].is_file()
        goes_on = any(run.startswith(f"{adapter_name.strip()}-") for run in live.reopened)
        return float("nan") if gone or goes_on or if_already_trained == TRAIN_AGAIN else CONTINUE


def _run_folder(name: str, key: str, if_already_trained: str) -> Path:
    """Folder of the run of this identity; for 'train again' the first one that is not finished."""
    from ..sidestep_core.training import run_checkpoint

    run, number = folders.run_folder(name, key), 2
    while if_already_trained == TRAIN_AGAIN and run_checkpoint.is_finished(run):
        run, number = folders.run_folder(name, f"{key}-{number}"), number + 1
    return run


def _facts(adapter: Adapter, config: AdapterConfig) -> dict[str, object]:
    """Facts of a finished training for the node and the demo."""
    return {
        "adapter": str(adapter.path), "kind": config.kind, "parameters": _parameters(adapter.path),
        "steps": adapter.steps, "trigger_word": adapter.trigger_word,
        "heldout_first": adapter.heldout_first, "heldout_last": adapter.heldout_last,
        "measured_on": adapter.measured_on,
        "keys_matched": adapter.proof.matched, "keys_total": adapter.proof.total,
        "effect": adapter.proof.effect, "error": adapter.proof.error,
    }


def _parameters(path: Path) -> int:
    """Number of trained parameters in an adapter file."""
    stored = TensorFile(path).stored
    return sum(math.prod(tensor.shape) for name, tensor in stored.items() if not name.endswith(".alpha"))
