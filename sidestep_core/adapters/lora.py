"""LoRA on a frozen decoder, through PEFT: attach, read out what was learned.  The only module that imports peft."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from .. import optional, rng
from ..errors import AdapterError
from .config import LoraConfig
from .dropout import Dropout
from .file import TrainedDelta, check_belongs

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

_NAME = "default"
PURPOSE = "LoRA training"


def require() -> None:
    """Import what attaching an adapter imports.  Raises MissingDependency."""
    with optional.imports("peft", PURPOSE):
        import peft.tuners.lora.model

        if peft.import_utils.is_bnb_available():
            import peft.tuners.lora.bnb  # noqa: F401


def attach(decoder: nn.Module, config: LoraConfig, modules: Mapping[str, int], seed: int) -> LiveLora:
    """Put an adapter on exactly `modules` (name -> rank), in float32 whatever the base is in; nothing else trains.

    A starts random by `seed`, B at zero, so the decoder still computes what it did.
    """
    with optional.imports("peft", PURPOSE):
        # PEFT imports packages that it works with here too, and raises about old versions of them.
        _inject(decoder, config, modules, seed)
    adapted = {name: layer.r[_NAME] for name, layer in _adapted(decoder)}
    if list(adapted.items()) != list(modules.items()):
        differing = sorted(name for name, _ in set(modules.items()) ^ set(adapted.items()))
        raise AdapterError(f"The adapter was to be put on {len(modules)} modules but sits on {len(adapted)}; "
                           f"differing: {', '.join(differing[:4])}.")
    for _, layer in _adapted(decoder):
        for factor in _factors(layer):
            factor.float()
        if config.dropout > 0:
            layer.lora_dropout[_NAME] = Dropout(config.dropout)
    trained = tuple(parameter for parameter in decoder.parameters() if parameter.requires_grad)
    if len(trained) != 2 * len(modules):
        raise AdapterError(f"{len(trained)} parameters would be trained; {2 * len(modules)} belong to the adapter.")
    return LiveLora(decoder=decoder, parameters=trained)


def _inject(decoder: nn.Module, config: LoraConfig, modules: Mapping[str, int], seed: int) -> None:
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    # PEFT reads the keys as patterns.
    own_ranks = {re.escape(name): rank for name, rank in modules.items() if rank != config.rank}
    # PEFT divides alpha by the rank or, with rsLoRA, by its root; see targets.scaling.
    own_alphas = {} if config.rslora else {name: config.alpha * rank / config.rank for name, rank in own_ranks.items()}
    # PEFT's annotation says int; it divides, so a float is as good.
    peft_config = PeftConfig(
        r=config.rank, lora_alpha=cast("int", config.alpha), lora_dropout=config.dropout, target_modules=list(modules),
        bias="none", use_rslora=config.rslora, rank_pattern=own_ranks, alpha_pattern=cast("dict[str, int]", own_alphas),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed(seed, "init"))
        inject_adapter_in_model(peft_config, decoder, adapter_name=_NAME)


def _adapted(decoder: nn.Module) -> Iterator[tuple[str, Linear]]:
    from peft.tuners.lora import Linear

    for name, module in decoder.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _factors(layer: Linear) -> tuple[nn.Linear, nn.Linear]:
    """A (down) and B (up)."""
    return cast("nn.Linear", layer.lora_A[_NAME]), cast("nn.Linear", layer.lora_B[_NAME])


@dataclass(frozen=True, kw_only=True)
class LiveLora:
    """A LoRA attached to a decoder; see adapter.LiveAdapter."""

    decoder: nn.Module
    parameters: tuple[nn.Parameter, ...]

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's file content: PEFT names plus one `.alpha` per module, equal to scaling * rank.

        ComfyUI multiplies by alpha / rank and takes 1 where alpha is missing, which halves a rank-64 alpha-128
        adapter.  PEFT ignores the extra tensors, so the same file opens there too.
        """
        tensors: dict[str, Tensor] = {}
        for name, layer in _adapted(self.decoder):
            down, up = _factors(layer)
            tensors[f"base_model.model.{name}.lora_A.weight"] = down.weight.detach().clone()
            tensors[f"base_model.model.{name}.lora_B.weight"] = up.weight.detach().clone()
            tensors[f"base_model.model.{name}.alpha"] = torch.tensor(layer.scaling[_NAME] * layer.r[_NAME])
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Put saved content back, bit for bit.  AdapterError, before anything changes, when it is not of this one.

        PEFT's own files, which have no alpha, are taken too: they are of this adapter if their config says so.
        """
        own = self.state_dict()
        check_belongs({**{name: tensor for name, tensor in own.items() if name.endswith(".alpha")}, **tensors}, own)
        with torch.no_grad():
            for name, layer in _adapted(self.decoder):
                for part, module in zip(("lora_A", "lora_B"), _factors(layer), strict=True):
                    module.weight.copy_(tensors[f"base_model.model.{name}.{part}.weight"])

    def deltas(self, every: int = 1) -> Iterator[TrainedDelta]:
        """What it adds to the weight of every n-th module.

        Multiplied on the CPU, because a GPU may round products to TF32, and then nothing saved would agree with it.
        """
        for name, layer in itertools.islice(_adapted(self.decoder), None, None, every):
            down, up = (factor.weight.detach().float().cpu() for factor in _factors(layer))
            delta = layer.scaling[_NAME] * (up @ down)
            yield TrainedDelta(module=name, weight=torch.zeros_like(delta), delta=delta)
