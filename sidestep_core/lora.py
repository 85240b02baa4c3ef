"""LoRA on a frozen decoder, through PEFT: attach, read out what was learned.  The only module that imports peft."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import flow
from .config import LoraConfig
from .errors import AdapterError, MissingDependency

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

_NAME = "default"


def attach(decoder: nn.Module, config: LoraConfig, modules: tuple[str, ...], seed: int) -> tuple[nn.Parameter, ...]:
    """Put an adapter on exactly `modules`, in float32 whatever the base is in; the new parameters are all that trains.

    A starts random by `seed`, B at zero, so the decoder still computes what it did.
    """
    try:
        _inject(decoder, config, modules, seed)
    except ImportError as error:
        # PEFT itself raises it too, about old versions of packages that it works with.
        raise MissingDependency(f"LoRA training needs the package peft, which says: {error}. Run: pip install -U peft; "
                                "if it names another package, update or remove that one.") from error
    adapted = tuple(name for name, _ in _adapted(decoder))
    if adapted != modules:
        raise AdapterError(f"The adapter was to be put on {len(modules)} modules but sits on {len(adapted)}; "
                           f"differing: {', '.join(sorted(set(modules) ^ set(adapted))[:4])}.")
    for _, layer in _adapted(decoder):
        for factor in _factors(layer):
            factor.float()
        if config.dropout > 0:
            layer.lora_dropout[_NAME] = Dropout(config.dropout)
    trained = tuple(parameter for parameter in decoder.parameters() if parameter.requires_grad)
    if len(trained) != 2 * len(modules):
        raise AdapterError(f"{len(trained)} parameters would be trained; {2 * len(modules)} belong to the adapter.")
    return trained


def _inject(decoder: nn.Module, config: LoraConfig, modules: tuple[str, ...], seed: int) -> None:
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    # PEFT's annotation says int; it divides, so a float is as good.
    alpha = cast("int", config.alpha)
    peft_config = PeftConfig(
        r=config.rank, lora_alpha=alpha, lora_dropout=config.dropout, target_modules=list(modules), bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(flow.seed(seed, "init"))
        inject_adapter_in_model(peft_config, decoder, adapter_name=_NAME)


class Dropout(nn.Module):
    """Zeroes inputs with chance p while training, and scales the others by 1 / (1 - p).

    On the CPU torch draws one number per input, a tenth of a whole training step; sixteen bits of an integer are as
    good and four times as fast.  They are drawn on the CPU wherever gradient checkpointing would not restore the
    device's own generator for the recomputation, as on MPS.  There p is rounded to a multiple of 2^-16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type in ("cuda", "xpu"):
            return F.dropout(x, self.p, self.training)
        levels = 1 << 16
        dropped = round(self.p * levels)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - levels // 2
        return x * kept.to(x.device, x.dtype).mul_(levels / (levels - dropped))


def _adapted(decoder: nn.Module) -> Iterator[tuple[str, Linear]]:
    from peft.tuners.lora import Linear

    for name, module in decoder.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _factors(layer: Linear) -> tuple[nn.Linear, nn.Linear]:
    """A (down) and B (up)."""
    return cast("nn.Linear", layer.lora_A[_NAME]), cast("nn.Linear", layer.lora_B[_NAME])


def state(decoder: nn.Module) -> dict[str, Tensor]:
    """The adapter's file content: PEFT names plus one `.alpha` per module, equal to scaling * rank.

    ComfyUI multiplies by alpha / rank and takes 1 where alpha is missing, which halves a rank-64 alpha-128 adapter.
    PEFT ignores the extra tensors, so the same file opens there too.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in _adapted(decoder):
        down, up = _factors(layer)
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.weight.detach().clone()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.weight.detach().clone()
        tensors[f"base_model.model.{name}.alpha"] = torch.tensor(layer.scaling[_NAME] * layer.r[_NAME])
    return tensors


def load_state(decoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved adapter weights back, bit for bit.  AdapterError when they are not of this adapter."""
    for name, layer in _adapted(decoder):
        for part, module in zip(("lora_A", "lora_B"), _factors(layer), strict=True):
            saved = tensors.get(f"base_model.model.{name}.{part}.weight")
            if saved is None or saved.shape != module.weight.shape:
                found = "missing" if saved is None else f"of shape {tuple(saved.shape)}"
                raise AdapterError(f"{name}.{part} is {found} in the saved adapter; "
                                   f"this run needs {tuple(module.weight.shape)}. It belongs to another run.")
            with torch.no_grad():
                module.weight.copy_(saved)


def deltas(decoder: nn.Module, every: int = 1) -> Iterator[tuple[str, Tensor]]:
    """What the live adapter adds to the weight of every n-th module: (module name, float32 on the CPU).

    Multiplied on the CPU, because a GPU may round products to TF32, and then nothing saved would ever agree with it.
    """
    for name, layer in itertools.islice(_adapted(decoder), None, None, every):
        down, up = (factor.weight.detach().float().cpu() for factor in _factors(layer))
        yield name, layer.scaling[_NAME] * (up @ down)
