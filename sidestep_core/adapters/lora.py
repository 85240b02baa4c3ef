"""LoRA: W + (alpha / rank) * B @ A.  Trained through PEFT, or with DoRA in our own layer."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .. import optional, rng
from ..config import require
from ..errors import AdapterError
from ..model.frozen import weight_of
from ..model.layers import project_together, separately
from . import algorithm, dropout, layer, low_rank
from .algorithm import Factors, LiveAdapter, Matrix, Parts, ScaleOf, Trainable, TrainedDelta, uniform, zeros
from .config import AdapterConfig
from .delta import FullDelta, WeightDelta, number, require_chain, require_part, tucker
from .dropout import Switch

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

_NAME = "default"
PURPOSE = "LoRA training"


@dataclass(frozen=True, kw_only=True)
class LoraConfig(AdapterConfig):
    """Settings of a LoRA."""

    kind: ClassVar[str] = "lora"

    rank: int = 64
    rslora: bool = False
    """Scale by alpha / sqrt(rank), which keeps large ranks as lively as small ones."""
    dora: bool = False
    """Train the length of each input column of the weight apart from its direction (input-axis DoRA)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, f"rank must be at least 1, got {self.rank}.")

    @property
    def base_rank(self) -> int:
        return self.rank

    @property
    def decomposed(self) -> bool:
        return self.dora

    def scaling(self, rank: int) -> float:
        """Scale of a module's delta; rsLoRA is made for comparing ranks, so there the module's own rank counts."""
        return self.alpha / math.sqrt(rank) if self.rslora else super().scaling(rank)


@dataclass(frozen=True, kw_only=True)
class LowRankDelta(WeightDelta):
    """scale * up @ down"""

    down: Tensor
    """[rank, inputs, ...]"""
    up: Tensor
    """[outputs, rank, ...]"""
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.up.shape[0], self.down[0].numel()

    def delta(self, dtype: torch.dtype) -> Tensor:
        return self.scale * (self.up.flatten(1).to(dtype) @ self.down.flatten(1).to(dtype))

    def host(self) -> dict[str, Tensor]:
        return {"lora_up.weight": self.up, "lora_down.weight": self.down, "alpha": number(self.scale * len(self.down))}

    def own_state(self, module: str, dora: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if dora:
            return super().own_state(module, dora)
        tensors = {"lora_A.weight": self.down, "lora_B.weight": self.up, "alpha": self.host()["alpha"]}
        return {f"base_model.model.{module}.{ending}": tensor.float() for ending, tensor in tensors.items()}


class Lora(Trainable):
    """LoRA and DoRA."""

    kind = "lora"
    config = LoraConfig
    file_names: ClassVar[Mapping[str, str]] = {
        "lora_A": "down", "lora_down": "down", "lora.down": "down", "lora_linear_layer.down": "down",
        "lora_B": "up", "lora_up": "up", "lora.up": "up", "lora_linear_layer.up": "up", "lora_mid": "mid",
    }  # fmt: skip
    peft_type = "LORA"
    rank_parts = ("down",)
    scaled_names = ("lora_B.weight", "lora_up.weight")
    low_rank = True

    def require(self, config: AdapterConfig) -> None:
        if config.decomposed:
            return
        with optional.imports("peft", PURPOSE):
            import peft.tuners.lora.model

            if peft.import_utils.is_bnb_available():
                import peft.tuners.lora.bnb  # noqa: F401

    def matrices(self, config: AdapterConfig, rank: int, rows: int, columns: int) -> dict[str, Matrix]:
        return {"down": Matrix(rank, columns, uniform), "up": Matrix(rows, rank, zeros)}

    def attach(self, decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveAdapter:
        if config.decomposed:
            return layer.attach(self, decoder, config, modules, seed)
        return attach_peft(decoder, cast("LoraConfig", config), modules, seed)

    def product(self, factors: Factors) -> Tensor:
        return factors["up"] @ factors["down"]

    def file_name(self, name: str) -> str:
        return f"lora_{name}.weight"

    def parse(self, module: str, parts: Parts, scale_of: ScaleOf) -> WeightDelta:
        down, up = require_part(module, parts, "down"), require_part(module, parts, "up")
        scale = scale_of(len(down))
        if "mid" in parts:
            core = require_part(module, parts, "mid")
            require_chain(module, up, core, down)
            return FullDelta(diff=scale * tucker(core, down, up, rank_first=False))
        require_chain(module, up, down)
        if up[0].numel() != len(down):
            raise AdapterError(f"{module} is damaged: its up is {tuple(up.shape)}. Get the file again.")
        return LowRankDelta(down=down, up=up, scale=scale)


def attach_peft(decoder: nn.Module, config: LoraConfig, modules: Mapping[str, int], seed: int) -> LiveLora:
    """Put a LoRA on exactly `modules` (name -> rank), in float32 over any base dtype; nothing else trains.

    A starts random by `seed`, B at zero, so the decoder's output stays the same.
    """
    with optional.imports("peft", PURPOSE):
        # PEFT imports packages that it works with here too, and raises about old versions of them.
        _inject(decoder, config, modules, seed)
    adapted = {name: linear.r[_NAME] for name, linear in _adapted(decoder)}
    if list(adapted.items()) != list(modules.items()):
        differing = sorted(name for name, _ in set(modules.items()) ^ set(adapted.items()))
        raise AdapterError(f"The adapter was to be put on {len(modules)} modules but sits on {len(adapted)}; "
                           f"differing: {', '.join(differing[:4])}.")
    switch = Switch()
    for name, linear in _adapted(decoder):
        vars(linear).update(name=name, switch=switch)
        for factor in _factors(linear):
            factor.float()
    project_together(decoder, _project)
    trained = tuple(parameter for parameter in decoder.parameters() if parameter.requires_grad)
    if len(trained) != 2 * len(modules):
        raise AdapterError(f"{len(trained)} parameters would be trained; {2 * len(modules)} belong to the adapter.")
    return LiveLora(decoder=decoder, parameters=trained, switch=switch)


def _inject(decoder: nn.Module, config: LoraConfig, modules: Mapping[str, int], seed: int) -> None:
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    # PEFT reads the keys as patterns.
    own_ranks = {re.escape(name): rank for name, rank in modules.items() if rank != config.rank}
    # PEFT divides alpha by the rank or, with rsLoRA, by its root; see LoraConfig.scaling.
    own_alphas = {} if config.rslora else {name: config.alpha * rank / config.rank for name, rank in own_ranks.items()}
    # PEFT's annotation says int; it divides, so a float is as good.
    peft_config = PeftConfig(
        r=config.rank, lora_alpha=cast("int", config.alpha), lora_dropout=config.dropout, target_modules=list(modules),
        bias="none", use_rslora=config.rslora, rank_pattern=own_ranks, alpha_pattern=cast("dict[str, int]", own_alphas),
    )
    # The door that PEFT's guide names for layers of one's own, under a private name.
    peft_config._register_custom_module({nn.Linear: _layer_class()})  # noqa: SLF001
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed(seed, "init"))
        inject_adapter_in_model(peft_config, decoder, adapter_name=_NAME)


@functools.cache
def _layer_class() -> type[Linear]:
    """PEFT's layer, which owns the parameters, with a forward pass that keeps less and runs fewer kernels."""
    from peft.tuners.lora import Linear

    class LeanLinear(Linear):
        def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
            return _together(x, (self,))[0]

    return LeanLinear


def _project(x: Tensor, projections: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Compute projections of one input, together where all are adapted."""
    from peft.tuners.lora import Linear

    linears = [each for each in projections if isinstance(each, Linear)]
    return _together(x, linears) if len(linears) == len(projections) else separately(x, projections)


def _together(x: Tensor, linears: Sequence[Linear]) -> tuple[Tensor, ...]:
    """Compute adapted linear layers of one input, with one dropout mask."""
    first = linears[0]
    # As `attach_peft` put them there.
    name: str = vars(first)["name"]
    switch: Switch = vars(first)["switch"]
    if not switch.on:
        return tuple(linear.base_layer(x) for linear in linears)
    p = _dropout_of(first) if first.training else 0.0
    dtype = weight_of(cast("nn.Linear", first.base_layer)).dtype
    mask = dropout.draw_mask(x.to(dtype), p, switch, name) if p else None
    kept = 1.0 if mask is None else dropout.mask_scale(p)
    return low_rank.linears(x, [_lean(linear, kept) for linear in linears], mask)


def _lean(linear: Linear, kept: float) -> low_rank.LoraWeights:
    down, up = _factors(linear)
    return low_rank.LoraWeights(weight=weight_of(cast("nn.Linear", linear.base_layer)), down=down.weight, up=up.weight,
                            scale=kept * linear.scaling[_NAME])


def _adapted(decoder: nn.Module) -> Iterator[tuple[str, Linear]]:
    from peft.tuners.lora import Linear

    for name, module in decoder.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _dropout_of(linear: Linear) -> float:
    made = linear.lora_dropout[_NAME]
    return made.p if isinstance(made, nn.Dropout) else 0.0


def _factors(linear: Linear) -> tuple[nn.Linear, nn.Linear]:
    """A (down) and B (up)."""
    return cast("nn.Linear", linear.lora_A[_NAME]), cast("nn.Linear", linear.lora_B[_NAME])


@dataclass(frozen=True, kw_only=True)
class LiveLora:
    """A LoRA attached to a decoder; see algorithm.LiveAdapter."""

    decoder: nn.Module
    parameters: tuple[nn.Parameter, ...]
    switch: Switch
    undecayed: tuple[nn.Parameter, ...] = ()

    @property
    def ups(self) -> tuple[nn.Parameter, ...]:
        """B of every module."""
        return tuple(cast("nn.Parameter", _factors(linear)[1].weight) for _, linear in _adapted(self.decoder))

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of the adapter's file: PEFT's names plus one `.alpha` per module, equal to scaling * rank.

        ComfyUI multiplies by alpha / rank and takes 1 where alpha is missing, which halves a rank-64 alpha-128
        adapter.  PEFT ignores the extra tensors, so the same file opens there too.
        """
        tensors: dict[str, Tensor] = {}
        for name, linear in _adapted(self.decoder):
            down, up = _factors(linear)
            tensors[f"base_model.model.{name}.lora_A.weight"] = down.weight.detach().clone()
            tensors[f"base_model.model.{name}.lora_B.weight"] = up.weight.detach().clone()
            tensors[f"base_model.model.{name}.alpha"] = torch.tensor(linear.scaling[_NAME] * linear.r[_NAME])
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore saved tensors, bit for bit.  AdapterError, before anything changes, for those of another adapter.

        PEFT's own files, which have no alpha, are taken too: they are of this adapter if their config is.
        """
        own = self.state_dict()
        alphas = {name: tensor for name, tensor in own.items() if name.endswith(".alpha")}
        algorithm.check_belongs({**alphas, **tensors}, own)
        with torch.no_grad():
            for name, linear in _adapted(self.decoder):
                for part, module in zip(("lora_A", "lora_B"), _factors(linear), strict=True):
                    module.weight.copy_(tensors[f"base_model.model.{name}.{part}.weight"])

    def deltas(self, every: int = 1) -> Iterator[TrainedDelta]:
        """Weight delta of every n-th module.

        Multiplied on the CPU, because a GPU may round products to TF32, and then nothing saved would agree with it.
        """
        for name, linear in itertools.islice(_adapted(self.decoder), None, None, every):
            down, up = (factor.weight.detach().float().cpu() for factor in _factors(linear))
            delta = linear.scaling[_NAME] * (up @ down)
            yield TrainedDelta(module=name, weight=torch.zeros_like(delta), delta=delta)
