"""One node for each kind of adapter: its size and place.  A new kind is one more row of KINDS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comfy_api.latest import io

from ..sidestep_core.adapters.config import AdapterConfig
from ..sidestep_core.adapters.loha import LohaConfig
from ..sidestep_core.adapters.lokr import LokrConfig
from ..sidestep_core.adapters.lora import LoraConfig
from ..sidestep_core.estimate.result import Estimate
from .sockets import CATEGORY, AdapterConfigSocket
from .widgets import placement, words

DORA = ("DoRA: train the length of each column of a weight apart from its direction. On the input side, as only that "
        "is exact in ComfyUI.")
SCALAR = "Train one more number per module, which scales it."


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Node of one kind of adapter, and the widgets of its size before and after those of its place."""

    config: type[AdapterConfig]
    node_id: str
    display_name: str
    description: str
    search_aliases: tuple[str, ...]
    size: Sequence[io.Input]
    options: Sequence[io.Input]


def option(name: str, tooltip: str) -> io.Input:
    """Advanced switch, off by default."""
    return io.Boolean.Input(name, default=False, optional=True, advanced=True, tooltip=tooltip)


LORA = Kind(
    config=LoraConfig,
    node_id="SideStepConfigureLoRA",
    display_name="Configure LoRA",
    description="The size and place of a LoRA. The defaults are a good start.",
    search_aliases=("lora", "rank", "dora", "rslora", "side-step"),
    size=(
        io.Int.Input("rank", default=LoraConfig.rank, min=1, max=512, tooltip=(
            "Capacity. 64 holds a style; 16 saves memory and copies less from few songs; 128 for large sets.")),
        io.Float.Input("alpha", default=LoraConfig.alpha, min=0.01, max=2048.0, step=0.01, tooltip=(
            "Scale of the adapter: alpha / rank. Twice the rank is usual. It is stored in the file: strength 1.0 is as "
            "trained.")),
    ),
    options=(
        option("rslora", "Scale by alpha / sqrt(rank), so that large ranks learn as fast as small ones. With alpha 128 "
                         "and rank 64 that is 16 instead of 2: lower alpha or the learning rate with it."),
        option("dora", f"{DORA} Slower and sometimes better."),
    ),
)
LOKR = Kind(
    config=LokrConfig,
    node_id="SideStepConfigureLoKR",
    display_name="Configure LoKR",
    description="The size and place of a LoKR: small files, whose capacity is set by factor.",
    search_aliases=("lokr", "lycoris", "kronecker", "side-step"),
    size=(
        io.Int.Input("linear_dim", default=LokrConfig.linear_dim, min=1, max=10_000, tooltip=(
            "Rank of the large block. From half of the block's width on, the block is a full matrix, and this and "
            "alpha have no effect. That is so with factor automatic.")),
        io.Float.Input("alpha", default=LokrConfig.alpha, min=0.01, max=20_000.0, step=0.01, tooltip=(
            "Scale of the adapter: alpha / linear_dim, unless the block is a full matrix. Twice linear_dim is usual. "
            "Side-Step calls it linear_alpha.")),
        words.setting_input(LokrConfig, "factor", (
            "Main control of capacity. automatic splits a module of width 2048 into blocks of 32 and 64: 5,120 "
            "parameters (a LoRA of rank 64 has 262,144). 8 has a block 256 wide: 32,832 parameters at linear_dim 64. 4 "
            "has one 512 wide: 65,552.")),
    ),
    options=(
        option("decompose_both", "Split the small block too, if it is large enough. Fewer parameters."),
        option("use_tucker", "Tucker decomposition of convolutions, handed to LyCORIS. The adapted modules are all "
                             "linear, so it changes nothing on this model."),
        option("use_scalar", SCALAR),
        option("weight_decompose", DORA),
    ),
)
LOHA = Kind(
    config=LohaConfig,
    node_id="SideStepConfigureLoHA",
    display_name="Configure LoHA",
    description="The size and place of a LoHA: two LoRAs multiplied number by number.",
    search_aliases=("loha", "lycoris", "hadamard", "side-step"),
    size=(
        io.Int.Input("rank", default=LohaConfig.rank, min=1, max=512, tooltip=(
            "Rank of each of the two LoRAs. Their product reaches rank x rank; it takes twice the parameters of a LoRA "
            "of this rank.")),
        io.Float.Input("alpha", default=LohaConfig.alpha, min=0.01, max=2048.0, step=0.01, tooltip=(
            "Scale of the adapter: alpha / rank. It is stored in the file: strength 1.0 is as trained.")),
    ),
    options=(option("use_scalar", SCALAR), option("weight_decompose", DORA)),
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
                inputs=[*kind.size, placement.dropout_input(), *placement.inputs(), *kind.options,
                        *placement.selection_inputs()],
                outputs=[AdapterConfigSocket.Output(display_name="adapter_config")],
            )

        @classmethod
        def execute(cls, estimate: Estimate | None = None, **widgets: object) -> io.NodeOutput:
            return placement.configure(kind.config, widgets, estimate)

    Configure.__name__ = Configure.__qualname__ = kind.node_id.removeprefix("SideStep")
    return Configure


CONFIGURE_NODES = [node_of(kind) for kind in KINDS]
