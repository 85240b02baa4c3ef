"""One node for each kind of adapter: its size and place.  A new kind is one more row of KINDS."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io

from ..sidestep_core.adapters.config import AdapterConfig
from ..sidestep_core.adapters.loha import LohaConfig
from ..sidestep_core.adapters.lokr import LokrConfig
from ..sidestep_core.adapters.lora import LoraConfig
from ..sidestep_core.estimate.result import Estimate
from ..sidestep_core.settings import adapters
from ..sidestep_core.settings.setting import Settings
from .sockets import CATEGORY, AdapterConfigSocket
from .widgets import placement
from .widgets.setting import setting_inputs


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Node of one kind of adapter."""

    config: type[AdapterConfig]
    node_id: str
    display_name: str
    description: str
    search_aliases: tuple[str, ...]
    size: tuple[str, ...]
    """Settings of its own that stand first; the others follow its place, as advanced ones."""

    @property
    def settings(self) -> Settings:
        return adapters.KINDS[self.config.kind]

    def size_inputs(self) -> list[io.Input]:
        return setting_inputs(self.config, self.settings, *self.size)

    def other_inputs(self) -> list[io.Input]:
        others = (name for name in self.settings if name not in self.size)
        return setting_inputs(self.config, self.settings, *others, optional=True, advanced=True)


LORA = Kind(
    config=LoraConfig,
    node_id="SideStepConfigureLoRA",
    display_name="Configure LoRA",
    description="The size and place of a LoRA. The defaults are a good start.",
    search_aliases=("lora", "rank", "dora", "rslora", "side-step"),
    size=("rank", "alpha"),
)
LOKR = Kind(
    config=LokrConfig,
    node_id="SideStepConfigureLoKR",
    display_name="Configure LoKR",
    description="The size and place of a LoKR: small files, whose capacity is set by factor.",
    search_aliases=("lokr", "lycoris", "kronecker", "side-step"),
    size=("linear_dim", "alpha", "factor"),
)
LOHA = Kind(
    config=LohaConfig,
    node_id="SideStepConfigureLoHA",
    display_name="Configure LoHA",
    description="The size and place of a LoHA: two LoRAs multiplied number by number.",
    search_aliases=("loha", "lycoris", "hadamard", "side-step"),
    size=("rank", "alpha"),
)
KINDS = (LORA, LOKR, LOHA)


def node_of(kind: Kind) -> type[io.ComfyNode]:
    """Make the node class of a kind."""

    class Configure(io.ComfyNode):
        """size, place, estimate -> Configured"""

        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id=kind.node_id, display_name=kind.display_name, category=CATEGORY, description=kind.description,
                search_aliases=list(kind.search_aliases),
                inputs=[*kind.size_inputs(), placement.dropout_input(), *placement.inputs(), *kind.other_inputs(),
                        *placement.selection_inputs(), *placement.last_inputs()],
                outputs=[AdapterConfigSocket.Output(display_name="adapter_config")],
            )

        @classmethod
        def execute(cls, estimate: Estimate | None = None, **widgets: object) -> io.NodeOutput:
            return placement.configure(kind.config, widgets, estimate)

    Configure.__name__ = Configure.__qualname__ = kind.node_id.removeprefix("SideStep")
    return Configure


CONFIGURE_NODES = [node_of(kind) for kind in KINDS]
