"""Save settings under a name, to load them again or to share them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from comfy_api.latest import io

from ..sidestep_core.adapters.file import Adapter
from ..sidestep_core.errors import ConfigError
from ..sidestep_core.io import atomic
from ..sidestep_core.presets import preset as presets
from ..sidestep_core.presets.preset import Preset
from .host import preset_files
from .sockets import CATEGORY, AdapterConfigSocket, AdapterSocket, Configured, GivenSettings, TrainConfigSocket
from .widgets import training as training_widgets

_made: dict[str, Path] = {}
"""The file of each name that this process wrote, for noticing that it is gone."""


class SavePreset(io.ComfyNode):
    """AdapterConfig, TrainConfig or a finished Adapter -> file, JSON"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepSavePreset",
            display_name="Save Preset",
            category=CATEGORY,
            description="Keeps settings as a preset in output/sidestep/presets. The file, or its text, can be given to "
                        "others.",
            search_aliases=["preset", "export settings", "side-step"],
            is_output_node=True,
            inputs=[
                io.String.Input("name", default="my_preset", tooltip="Load Preset lists it under this name."),
                io.String.Input("description", default="", multiline=True, tooltip=(
                    "What it is good for, in your own words.")),
                io.Boolean.Input("overwrite", default=False, tooltip=(
                    "Replace a preset of this name. Otherwise a name that is taken is an error.")),
                AdapterConfigSocket.Input("adapter_config", optional=True, tooltip=(
                    "From a Configure node or Load Preset.")),
                TrainConfigSocket.Input("settings", optional=True, tooltip=(
                    "From Load Preset or Training Settings. Those that Training Settings has not, such as the length, "
                    "are taken from the adapter below, or are the defaults.")),
                AdapterSocket.Input("adapter", optional=True, tooltip=(
                    "A finished adapter, from Train LoRA (ACE-Step) or Load Adapter: its file says how it was trained. "
                    "What is connected above counts instead.")),
            ],
            outputs=[io.String.Output(display_name="json")],
        )

    @classmethod
    def execute(cls, name: str, description: str, overwrite: bool, adapter_config: Configured | None = None,
                settings: GivenSettings | None = None, adapter: Adapter | None = None) -> io.NodeOutput:
        path = preset_files.own_file(name)
        known = _known(adapter_config, settings, adapter)
        preset = replace(known, name=name.strip(), description=description.strip()).portable()
        text = preset.to_text()
        if not (path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text):
            if path.exists() and not overwrite:
                raise ConfigError(f"There is a preset {name.strip()!r} with other settings already: {path}. Choose "
                                  "another name, or switch overwrite on.")
            atomic.write_text(path, text)
        _made[name] = path
        return io.NodeOutput(text, ui={"sidestep": [{"file": str(path), "message": f"Saved as {path}"}]})

    @classmethod
    def fingerprint_inputs(cls, name: str, **_: object) -> float | str:
        """Runs once more when the file is gone."""
        return float("nan") if name in _made and not _made[name].is_file() else ""


def _known(configured: Configured | None, settings: GivenSettings | None, adapter: Adapter | None) -> Preset:
    """Connected settings, over those that the adapter was trained with, over the defaults."""
    if configured is None and settings is None and adapter is None:
        raise ConfigError("Nothing is connected. Connect what the preset is to hold: adapter_config, settings, or a "
                          "finished adapter.")
    known = presets.from_adapter(adapter.path) if adapter is not None else Preset(name="")
    return replace(known, adapter=known.adapter if configured is None else configured.config,
                   train=known.train if settings is None else settings.completed(training_widgets.own_of(known.train)))
