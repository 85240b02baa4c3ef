"""LoRA: W + (alpha / rank) * B @ A.  With DoRA it is trained in layer.py.

Factors, initial values and files are PEFT's, which itself is not imported: that would take several times as long as all
else before the first step.  The tests hold the layer to PEFT's, bit for bit where training starts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import rng
from ..config import require
from ..errors import AdapterError
from ..model.frozen import weight_of
from ..model.layers import project_together, separately
from . import algorithm, dropout, layer, low_rank
from .algorithm import Factors, LiveAdapter, Matrix, Parts, ScaleOf, Trainable, TrainedDelta, uniform, zeros
from .config import AdapterConfig
from .delta import FullDelta, WeightDelta, number, require_chain, require_part, tucker
from .dropout import Switch


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
        return {f"{prefix(module)}.{ending}": tensor.float() for ending, tensor in tensors.items()}


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

    def is_traceable(self, config: AdapterConfig) -> bool:
        return not config.decomposed

    def matrices(self, config: AdapterConfig, rank: int, rows: int, columns: int) -> dict[str, Matrix]:
        return {"down": Matrix(rank, columns, uniform), "up": Matrix(rows, rank, zeros)}

    def attach(self, decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveAdapter:
        if config.decomposed:
            return layer.attach(self, decoder, config, modules, seed)
        return attach(decoder, config, modules, seed)

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


class LoraLayer(nn.Module):
    """A frozen linear layer and its LoRA: scale * B A, with A = lora_A [rank, inputs] and B = lora_B [outputs, rank].
    """

    def __init__(self, base: nn.Linear, config: AdapterConfig, rank: int, random: torch.Generator, name: str,
                 switch: Switch) -> None:
        super().__init__()
        self.name, self.switch = name, switch
        self.key = dropout.key_of(name)
        self.base_layer = base
        weight = weight_of(base)
        rows, columns = weight.shape
        down, up = first_factors(rank, rows, columns, random)
        # PEFT rounds to the base's dtype, and this pack trains in float32.
        self.lora_A, self.lora_B = (nn.Parameter(factor.to(weight.dtype).to(weight.device, torch.float32))
                                    for factor in (down, up))
        self.rank, self.scale = rank, config.scaling(rank)
        self.dropout, self.rank_dropout = config.dropout, config.rank_dropout
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        return _together(x, (self,))[0]

    def weights(self, kept: float) -> low_rank.LoraWeights:
        """Weights of one product; `kept` is the factor of dropout."""
        return low_rank.LoraWeights(weight=weight_of(self.base_layer), down=self.lora_A, up=self.lora_B,
                                    scale=kept * self.scale)

    def saved(self) -> dict[str, Tensor]:
        """Tensors of the file, by PEFT's names and `alpha`."""
        return {"lora_A.weight": self.lora_A.detach().clone(), "lora_B.weight": self.lora_B.detach().clone(),
                "alpha": torch.tensor(self.scale * self.rank)}


def first_factors(rank: int, rows: int, columns: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw A as PEFT does, and B, which is zero."""
    # PEFT makes both as linear layers of torch, whose own initial values it replaces: these draws come first.
    torch.empty(rank * (rows + columns)).uniform_(generator=random)
    down = nn.init.kaiming_uniform_(torch.empty(rank, columns), a=math.sqrt(5), generator=random)
    return down, torch.zeros(rows, rank)


def attach(decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveLora:
    """Put a LoRA on exactly `modules` (name -> rank), in float32 over any base dtype; nothing else trains.

    A starts random by `seed`, B at zero, so the decoder's output stays the same.
    """
    decoder.requires_grad_(False)
    switch, random = Switch(), rng.generator(seed, "init")
    layers = {name: LoraLayer(layer.adaptable(decoder, name), config, rank, random, name, switch)
              for name, rank in modules.items()}
    for name, adapted in layers.items():
        decoder.set_submodule(name, adapted)
    project_together(decoder, _project)
    return LiveLora(layers=layers, switch=switch)


def _project(x: Tensor, projections: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Compute projections of one input, together where all are adapted."""
    adapted = [each for each in projections if isinstance(each, LoraLayer)]
    return _together(x, adapted) if len(adapted) == len(projections) else separately(x, projections)


def _together(x: Tensor, layers: Sequence[LoraLayer]) -> tuple[Tensor, ...]:
    """Compute adapted linear layers of one input, with one dropout mask."""
    first = layers[0]
    if not first.switch.on:
        return tuple(each.base_layer(x) for each in layers)
    p, of_ranks = (first.dropout, first.rank_dropout) if first.training else (0.0, 0.0)
    x = x.to(weight_of(first.base_layer).dtype)
    kept = dropout.mask_scale(p) * dropout.mask_scale(of_ranks)
    weights = [each.weights(kept) for each in layers]
    if torch.compiler.is_compiling():
        samples = first.switch.samples
        dropped = dropout.drop(x, samples, first.key, p) if p else x
        ranks = [dropout.columns(x.detach(), each.rank, samples, each.key, of_ranks) for each in layers if of_ranks]
        return low_rank.linears_plainly(x, weights, dropped, torch.cat(ranks, dim=-1) if ranks else None)
    mask = dropout.draw_mask(x, p, first.switch, first.name) if p else None
    ranks = [dropout.draw_columns(x, each.rank, of_ranks, each.switch, each.name) for each in layers if of_ranks]
    return low_rank.linears(x, weights, mask, torch.cat(ranks, dim=-1) if ranks else None)


@dataclass(frozen=True, kw_only=True)
class LiveLora:
    """A LoRA attached to a decoder; see algorithm.LiveAdapter."""

    layers: Mapping[str, LoraLayer]
    switch: Switch
    undecayed: tuple[nn.Parameter, ...] = ()

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Trained parameters, float32, in a fixed order."""
        return tuple(factor for each in self.layers.values() for factor in (each.lora_A, each.lora_B))

    @property
    def ups(self) -> tuple[nn.Parameter, ...]:
        """B of every module."""
        return tuple(each.lora_B for each in self.layers.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of the adapter's file: PEFT's names plus one `.alpha` per module, equal to scaling * rank.

        ComfyUI multiplies by alpha / rank and takes 1 where alpha is missing, which halves a rank-64 alpha-128
        adapter.  PEFT ignores the extra tensors, so the same file opens there too.
        """
        return {f"{prefix(module)}.{name}": tensor for module, each in self.layers.items()
                for name, tensor in each.saved().items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore saved tensors, bit for bit.  AdapterError, before anything changes, for those of another adapter.

        PEFT's own files, which have no alpha, are taken too: they are of this adapter if their config is.
        """
        own = self.state_dict()
        alphas = {name: tensor for name, tensor in own.items() if name.endswith(".alpha")}
        algorithm.check_belongs({**alphas, **tensors}, own)
        with torch.no_grad():
            for module, each in self.layers.items():
                each.lora_A.copy_(tensors[f"{prefix(module)}.lora_A.weight"])
                each.lora_B.copy_(tensors[f"{prefix(module)}.lora_B.weight"])

    def deltas(self, every: int = 1) -> Iterator[TrainedDelta]:
        """Weight delta of every n-th module.

        Multiplied on the CPU, because a GPU may round products to TF32, and then nothing saved would agree with it.
        """
        for module, each in itertools.islice(self.layers.items(), None, None, every):
            down, up = (factor.detach().cpu() for factor in (each.lora_A, each.lora_B))
            delta = each.scale * (up @ down)
            yield TrainedDelta(module=module, weight=torch.zeros_like(delta), delta=delta)


def prefix(module: str) -> str:
    """Name of a module in PEFT's files."""
    return f"base_model.model.{module}"
