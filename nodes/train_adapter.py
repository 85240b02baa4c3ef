"""TrainAdapter: trains in the background of the queue, shows how it goes, keeps everything when stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from comfy_api.latest import io

from ..sidestep_core import metrics
from ..sidestep_core.adapter import Adapter
from ..sidestep_core.checkpoint import Checkpoint
from ..sidestep_core.config import LoraConfig, TrainConfig
from ..sidestep_core.dataset import Dataset
from ..sidestep_core.storage import fingerprint
from . import events, folders, models
from .host import run_stage
from .sockets import CATEGORY, AdapterConfigSocket, AdapterSocket, CheckpointSocket, DatasetSocket

CONTINUE = "continue"
TRAIN_AGAIN = "train again"

_made: dict[str, Path] = {}
"""Where the adapter of each name was put by this process, for noticing that it is gone."""


class TrainAdapter(io.ComfyNode):
    """Checkpoint, Dataset, LoraConfig -> Adapter"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepTrainAdapter",
            display_name="Train Adapter",
            category=CATEGORY,
            description="Trains the adapter and puts it into the LoRA folder, proven to load at strength 1.0. Stop it "
                        "with ComfyUI's own cancel button: nothing is lost, and queueing again continues.",
            search_aliases=["train lora", "fine-tune", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                CheckpointSocket.Input("checkpoint"),
                DatasetSocket.Input("dataset"),
                AdapterConfigSocket.Input("adapter_config"),
                io.String.Input("adapter_name", default="my_lora", tooltip=(
                    "Name of the file in models/loras. An existing file is never overwritten: -2, -3 ... is added.")),
                *_method_inputs(),
                io.Combo.Input("if_already_trained", options=[CONTINUE, TRAIN_AGAIN], advanced=True, tooltip=(
                    "The same songs and settings again: take the finished adapter, or train another one. A run that "
                    "was stopped is continued by both.")),
            ],
            outputs=[AdapterSocket.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, checkpoint: Checkpoint, dataset: Dataset, adapter_config: LoraConfig, adapter_name: str,
                if_already_trained: str, **method: object) -> io.NodeOutput:
        from ..sidestep_core import run_state
        from ..sidestep_core.train import identity, train

        config = TrainConfig.from_json(method)
        target = folders.adapter_file(adapter_name)
        key = fingerprint(identity(checkpoint, dataset, adapter_config, config))
        run = _run_folder(adapter_name, key, if_already_trained)
        node_id = cls.hidden.unique_id
        events.replay(node_id, run.name, metrics.read(run / metrics.FILE))
        if run_state.finished(run) is None:
            models.make_room()
        on = replace(config, device=models.device(config.device))
        adapter = run_stage(
            node_id, run.name,
            lambda report: train(checkpoint, dataset, adapter_config, on, run, target,
                                 load=models.load_as_comfyui, report=report),
            summary=lambda adapter: f"{adapter.path.name} is in your LoRA list.",
        )
        _made[adapter_name] = adapter.path
        return io.NodeOutput(adapter, ui={"sidestep": [_facts(adapter)]})

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str, if_already_trained: str, **_: object) -> float | str:
        """Runs each time for 'train again', and once more when the adapter's file is gone."""
        gone = adapter_name in _made and not _made[adapter_name].is_file()
        return float("nan") if gone or if_already_trained == TRAIN_AGAIN else CONTINUE


def _method_inputs() -> list[io.Input]:
    """One widget per setting of TrainConfig but the timestep law, under the same name and with the same default."""
    return [
        io.Int.Input("max_steps", default=TrainConfig.max_steps, min=1, max=1_000_000, tooltip=(
            "Optimizer steps. 1000 is a good first try; listen, then take more if the style is weak. Another number "
            "of steps is another run, from the start.")),
        io.Float.Input("learning_rate", default=TrainConfig.learning_rate, min=1e-8, max=1.0, step=1e-6, round=1e-8,
                       tooltip="How far each step goes. 0.0001 is the usual value; lower it if the loss jumps."),
        io.Combo.Input("schedule", options=["cosine", "constant"], default=TrainConfig.schedule, advanced=True,
                       tooltip="cosine slows down towards the end; constant does not."),
        io.Int.Input("warmup_steps", default=TrainConfig.warmup_steps, min=0, max=100_000, advanced=True, tooltip=(
            "The learning rate rises over these steps; at most a tenth of the run.")),
        io.Int.Input("batch_size", default=TrainConfig.batch_size, min=1, max=64, advanced=True, tooltip=(
            "Songs per forward pass where their lengths agree; others run one by one. Costs memory.")),
        io.Int.Input("gradient_accumulation", default=TrainConfig.gradient_accumulation, min=1, max=256, advanced=True,
                     tooltip="Forward passes per step. More makes each step steadier and slower, at no memory."),
        io.Float.Input("weight_decay", default=TrainConfig.weight_decay, min=0.0, max=1.0, step=0.001, advanced=True,
                       tooltip="Pulls the adapter's weights towards zero."),
        io.Float.Input("max_grad_norm", default=TrainConfig.max_grad_norm, min=0.01, max=1000.0, step=0.01,
                       advanced=True, tooltip="Steps with a larger gradient are scaled down to this."),
        io.Float.Input("cfg_ratio", default=TrainConfig.cfg_ratio, min=0.0, max=1.0, step=0.01, advanced=True, tooltip=(
            "Share of samples trained without caption and lyrics; guidance (CFG) needs some.")),
        io.Float.Input("crop_seconds", default=TrainConfig.crop_seconds, min=0.0, max=600.0, step=1.0, tooltip=(
            "Train on random pieces of this length: much less memory and time. 60 is good; 0 uses whole songs.")),
        io.Int.Input("heldout_songs", default=TrainConfig.heldout_songs, min=-1, max=1000, advanced=True, tooltip=(
            "Songs kept aside to measure progress honestly. -1: one in ten, none below four songs (then the songs "
            "trained on are measured).")),
        io.Int.Input("heldout_every", default=TrainConfig.heldout_every, min=1, max=100_000, advanced=True,
                     tooltip="Steps between two such measurements."),
        io.Int.Input("save_every", default=TrainConfig.save_every, min=1, max=100_000, advanced=True,
                     tooltip="Steps between two checkpoints, from which a run continues after a crash."),
        # The page would give a seed a widget that randomises it after each run, which would train anew each time.
        io.Int.Input("seed", default=TrainConfig.seed, min=0, max=2**53, control_after_generate=False, tooltip=(
            "The same seed, songs and settings give the same adapter.")),
        io.String.Input("device", default=TrainConfig.device, advanced=True,
                        tooltip="auto, cpu, cuda, cuda:1, mps or xpu."),
        io.Combo.Input("precision", options=["auto", "bf16", "fp32"], default=TrainConfig.precision, advanced=True,
                       tooltip="Of the frozen model. The adapter is always trained in fp32."),
        io.Boolean.Input("gradient_checkpointing", default=TrainConfig.gradient_checkpointing, advanced=True, tooltip=(
            "Needs much less memory and about a third more time; the result is the same.")),
    ]


def _run_folder(name: str, key: str, if_already_trained: str) -> Path:
    """The run of this identity; for 'train again' the first one that is not finished."""
    from ..sidestep_core import run_state

    run, number = folders.run_folder(name, key), 2
    while if_already_trained == TRAIN_AGAIN and run_state.is_finished(run):
        run, number = folders.run_folder(name, f"{key}-{number}"), number + 1
    return run


def _facts(adapter: Adapter) -> dict[str, object]:
    """What the node and the demo show of a finished training."""
    return {
        "adapter": str(adapter.path), "steps": adapter.steps, "tag": adapter.tag,
        "heldout_first": adapter.heldout_first, "heldout_last": adapter.heldout_last,
        "keys_matched": adapter.proof.matched, "keys_total": adapter.proof.total,
        "effect": adapter.proof.effect, "error": adapter.proof.error,
    }
