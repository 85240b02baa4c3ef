"""Generate the same prompt and seed with the base and several adapters, to choose by ear."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.samplers
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ..sidestep_core.adapters.file import Adapter, content_fingerprint
from ..sidestep_core.audio import decode
from ..sidestep_core.compare import comparison
from ..sidestep_core.compare.comparison import MAX_TAKES, Comparison, Take
from ..sidestep_core.compare.strengths import parse_strengths
from ..sidestep_core.errors import AdapterError, ConfigError
from .host import choices, folders
from .host.compare import takes
from .host.compare.takes import Row, Sampling
from .routes import events
from .sockets import CATEGORY, AdapterSocket

FILES = (1, 2, 3)
"""Numbers of the rows that take an adapter from a list."""
STRENGTHS_TOOLTIP = "One take for each strength, such as 0.7, 1.0. 1.0 is exactly what was trained."


class CompareAdapters(io.ComfyNode):
    """MODEL, conditioning, adapters and strengths -> takes"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepCompareAdapters",
            display_name="Compare Adapters (ACE-Step)",
            category=CATEGORY,
            description="Generates the same prompt and seed without an adapter and with each adapter and strength, so "
                        "that you can switch between them while they play.",
            search_aliases=["compare lora", "a/b test", "listen", "strength", "xy plot", "side-step"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model without an adapter, as it would go into KSampler."),
                io.Conditioning.Input("positive", tooltip="The prompt that all takes share."),
                io.Conditioning.Input("negative", tooltip="The negative prompt that all takes share."),
                io.Latent.Input("latent_image", tooltip="An empty latent: its length is that of every take."),
                io.Vae.Input("vae", tooltip="The VAE of ACE-Step 1.5."),
                AdapterSocket.Input("adapter", optional=True, tooltip=(
                    "From Train LoRA (ACE-Step) or Load Adapter. You can also choose files below.")),
                io.String.Input("strengths", default="0.7, 1.0", tooltip=f"For adapter. {STRENGTHS_TOOLTIP}"),
                *_file_inputs(),
                *_sampling_inputs(),
            ],
            outputs=[io.Audio.Output(display_name="takes", is_output_list=True, tooltip=(
                         "The base, then a take for each adapter and strength.")),
                     io.String.Output(display_name="names", is_output_list=True)],
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, positive: Any, negative: Any, latent_image: Mapping[str, Any], seed: int,
                steps: int, cfg: float, sampler_name: str, scheduler: str, denoise: float, strengths: str,
                adapter: Adapter | None = None, **files: str) -> io.NodeOutput:
        takes.require_one(latent_image)
        rows = _rows(adapter, strengths, files)
        sampling = Sampling(seed=seed, steps=steps, cfg=cfg, sampler=sampler_name, scheduler=scheduler,
                            denoise=denoise, positive=positive, negative=negative, latent=latent_image, vae=vae)
        context = get_executing_context()
        node_id = "" if context is None else str(context.node_id)
        waveforms = [takes.require_sound(takes.generate(model, row, sampling), row.take) for row in rows]
        texts = takes.texts(events.running_prompt(node_id), node_id)
        made = Comparison(
            id=comparison.new_id(), created=round(time.time(), 3), prompt=texts["tags"], lyrics=texts["lyrics"],
            seed=seed, steps=steps, cfg=cfg, sampler=sampler_name, scheduler=scheduler, denoise=denoise,
            seconds=round(waveforms[0].shape[1] / decode.SAMPLE_RATE, 3),
            takes=tuple(replace(row.take, lufs=takes.measured(waveform))
                        for row, waveform in zip(rows, waveforms, strict=True)))
        comparison.write(folders.comparisons_folder(), made, [decode.flac(waveform) for waveform in waveforms])
        audio = [{"waveform": waveform.unsqueeze(0), "sample_rate": decode.SAMPLE_RATE} for waveform in waveforms]
        return io.NodeOutput(audio, [takes.label(row.take) for row in rows],
                             ui={"sidestep": [{"comparison": made.id}]})

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> str:
        """Fingerprint of the chosen files' content: one replaced under the same name is compared again."""
        found = [_file_of(inputs.get(f"adapter_file_{number}") or choices.NO_ADAPTER) for number in FILES]
        return " ".join(content_fingerprint(path) if path else "" for path in found)


def _file_inputs() -> Iterator[io.Input]:
    for number in FILES:
        yield io.Combo.Input(f"adapter_file_{number}", options=choices.adapters(), default=choices.NO_ADAPTER,
                             tooltip="A file of your LoRA list, or a checkpoint of a run in output/sidestep/runs.")
        yield io.String.Input(f"strengths_{number}", default="1.0", tooltip=(
            f"For adapter_file_{number}. {STRENGTHS_TOOLTIP}"))


def _sampling_inputs() -> Iterator[io.Input]:
    """Inputs of ComfyUI's KSampler, with defaults for ACE-Step turbo."""
    yield io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff, control_after_generate=True, tooltip=(
        "Noise that all takes share. Another seed is another song."))
    yield io.Int.Input("steps", default=8, min=1, max=10_000, tooltip="8 for turbo, 50 for base and sft.")
    yield io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=(
        "1 for turbo, 6 for base, 7 for sft."))
    yield io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip=(
        "As on KSampler."))
    yield io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="simple", tooltip=(
        "As on KSampler."))
    yield io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="1 for an empty latent.")


def _rows(adapter: Adapter | None, strengths: str, files: Mapping[str, str]) -> list[Row]:
    """List the base, then every adapter at each of its strengths.  ConfigError for none, too many, or one twice."""
    rows = [Row(take=Take(name="base"))]
    if adapter is not None:
        name = folders.adapter_name_of(adapter.path)
        rows += _rows_of(adapter.path, adapter.path.stem, strengths, "strengths", adapter_file=name)
    for number in FILES:
        choice = files[f"adapter_file_{number}"]
        path = _file_of(choice)
        if path is not None:
            checkpoint = choices.checkpoint_adapter(choice) is not None
            rows += _rows_of(path, _name_of(choice), files[f"strengths_{number}"], f"strengths_{number}",
                             **{"checkpoint" if checkpoint else "adapter_file": choice})
    made = [(row.take.content, row.take.strength) for row in rows]
    twice = [row.take for row in rows if made.count((row.take.content, row.take.strength)) > 1]
    if twice:
        raise ConfigError(f"{takes.label(twice[0])} is chosen twice. Change its strengths, or choose another adapter.")
    if len(rows) == 1:
        raise ConfigError("There is no adapter to compare. Connect one, or choose a file.")
    if len(rows) > MAX_TAKES:
        raise ConfigError(f"These are {len(rows)} takes with the base; at most {MAX_TAKES} can be compared. "
                          "Leave out some strengths.")
    return rows


def _rows_of(path: Path, name: str, strengths: str, widget: str, **source: str) -> list[Row]:
    content = content_fingerprint(path)
    return [Row(take=Take(name=name, strength=strength, content=content, **source), path=path)
            for strength in parse_strengths(strengths, widget)]


def _file_of(choice: str) -> Path | None:
    """File behind a choice; None for no adapter.  AdapterError when it is gone."""
    if choice == choices.NO_ADAPTER:
        return None
    path = choices.checkpoint_adapter(choice) or folders.adapter_path(choice)
    if not path.is_file():
        raise AdapterError(f"{choice} is gone. Choose another.")
    return path


def _name_of(choice: str) -> str:
    """Shorten a choice: "my_lora" for a file, "my_lora step 200" for a checkpoint."""
    if choices.checkpoint_adapter(choice) is None:
        return Path(choice).stem
    run, _, folder = choice.partition("/")
    return f"{run.rpartition('-')[0]} step {folder.rpartition('-')[2]}"
