"""LoadAdapter: an adapter file from the LoRA folders, for ApplyAdapter."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.adapters.alpha import settings_file
from ..sidestep_core.adapters.file import content_fingerprint
from ..sidestep_core.adapters.formats import notices, open_file
from .host import folders
from .host.reporting import warned
from .sockets import CATEGORY, AdapterSocket


class LoadAdapter(io.ComfyNode):
    """adapter file -> Adapter"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepLoadAdapter",
            display_name="Load Adapter",
            category=CATEGORY,
            description="Takes a trained adapter from the LoRA folders.",
            search_aliases=["load lora", "side-step"],
            inputs=[io.Combo.Input("adapter_file", options=folders.adapter_choices(), tooltip=(
                "A file in models/loras or output/loras, or a folder/ that PEFT or Side-Step saved there."))],
            outputs=[AdapterSocket.Output(display_name="adapter"),
                     io.String.Output(display_name="trigger_word")],
        )

    @classmethod
    def execute(cls, adapter_file: str) -> io.NodeOutput:
        adapter = open_file(folders.adapter_path(adapter_file))
        return io.NodeOutput(adapter, adapter.trigger_word, ui={"sidestep": [
            {"file": adapter.path.name} | warned(notices(adapter.path))]})

    @classmethod
    def fingerprint_inputs(cls, adapter_file: str) -> str:
        """Fingerprint of the content, with its settings file: a file replaced under the same name is loaded again."""
        path = folders.adapter_path(adapter_file)
        settings = settings_file(path)
        return content_fingerprint(path) + (content_fingerprint(settings) if settings else "")
