"""LoadPreset: adapter and training settings that belong together, from a list or from a text."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..sidestep_core.presets import preset as presets
from ..sidestep_core.presets.preset import Imported
from .host import folders, preset_files
from .sockets import CATEGORY, AdapterConfigSocket, Configured, GivenSettings, TrainConfigSocket
from .widgets import training as training_widgets

log = logging.getLogger(__name__)


class LoadPreset(io.ComfyNode):
    """preset or its JSON, changes -> Configured, TrainConfig"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepLoadPreset",
            display_name="Load Preset",
            category=CATEGORY,
            description="Every setting of a training from a preset. Connect adapter_config and settings to Train LoRA "
                        "(ACE-Step).",
            search_aliases=["preset", "import settings", "reproduce", "side-step"],
            inputs=[
                io.Combo.Input("preset", options=preset_files.choices(), default=presets.BUILT_IN[0], tooltip=(
                    "recommended is a good start, quick_test only shows that it runs; vram_... are for graphics cards "
                    "of this memory. Your own are in output/sidestep/presets. An adapter trained with Side-Step gives "
                    "the settings it was trained with.")),
                io.String.Input("changes", default="", multiline=True, optional=True, tooltip=(
                    "Other values of single settings, one on each line: rank: 32 or learning_rate: 0.0002. The names "
                    "are those of the widgets of Train LoRA (ACE-Step), Training Settings and the Configure nodes.")),
                io.String.Input("json", default="", multiline=True, optional=True, advanced=True, tooltip=(
                    "The text of a preset file, to be read instead of the choice above: one of Save Preset, of "
                    "Side-Step or of ace-lora-trainer. What has no place here is named in the log.")),
            ],
            outputs=[AdapterConfigSocket.Output(display_name="adapter_config"),
                     TrainConfigSocket.Output(display_name="settings"),
                     io.String.Output(display_name="description")],
        )

    @classmethod
    def execute(cls, preset: str, changes: str = "", json: str = "") -> io.NodeOutput:
        found, chosen = preset_files.chosen(preset, changes, json)
        name = chosen.name or preset
        for note in found.notes:
            log.warning("Preset %s: %s", name, note)
        description = _describe(found)
        return io.NodeOutput(Configured(config=chosen.adapter), GivenSettings(config=chosen.train, complete=True),
                             description, ui={"sidestep": [{
            "name": name, "description": chosen.description, "notes": list(found.notes), "message": description,
            "adapter": chosen.adapter.to_json(), "settings": training_widgets.shown(chosen.train),
        }]})

    @classmethod
    def fingerprint_inputs(cls, preset: str, json: str = "", **_: object) -> str:
        """Runs again when the file of a preset changed."""
        built_in = json.strip() or preset in presets.BUILT_IN
        return "" if built_in else folders.content_stamp(preset_files.path_of(preset))


def _describe(found: Imported) -> str:
    """Description of the preset, then the settings of a foreign one without an equivalent."""
    return "\n".join(part for part in (found.preset.description, *found.notes) if part)
