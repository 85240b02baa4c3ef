"""Small adapters of every kind on a tiny decoder, untrained or with random values in place of trained ones."""

from __future__ import annotations

import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.adapters import registry
from sidestep_core.adapters.algorithm import LiveAdapter
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import Decoder, load_decoder

CPU = torch.device("cpu")

LORAS: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=4, alpha=6.0, dropout=0.5),
    "rslora": LoraConfig(rank=4, alpha=6.0, dropout=0.5, rslora=True),
    "lora-ranks": LoraConfig(rank=4, alpha=6.0, dropout=0.5, target_mlp=True,
                             module_ranks=("*.mlp.*=2", "layers.1.self_attn.q_proj=7", "*.k_proj=0")),
    "rslora-ranks": LoraConfig(rank=4, alpha=6.0, dropout=0.5, rslora=True, module_ranks=("layers.1.*=9",)),
}
"""LoRAs, with PEFT's parameters."""

LYCORIS: dict[str, AdapterConfig] = {
    "dora": LoraConfig(rank=4, alpha=6.0, dropout=0.5, dora=True),
    "dora-rslora-ranks": LoraConfig(rank=4, alpha=6.0, dropout=0.5, dora=True, rslora=True, target_mlp=True,
                                    module_ranks=("layers.0.*=2",)),
    "lokr": LokrConfig(linear_dim=3, alpha=6.0, dropout=0.5, factor=4),
    "lokr-full": LokrConfig(dropout=0.5),
    "lokr-both": LokrConfig(linear_dim=3, alpha=6.0, dropout=0.5, factor=8, decompose_both=True, target_mlp=True,
                            module_ranks=("*.o_proj=2",)),
    "lokr-scalar": LokrConfig(linear_dim=3, alpha=6.0, dropout=0.5, factor=4, use_scalar=True),
    "lokr-full-scalar": LokrConfig(dropout=0.5, use_scalar=True),
    "lokr-both-scalar": LokrConfig(linear_dim=3, alpha=6.1, dropout=0.5, factor=8, use_scalar=True,
                                   decompose_both=True),
    "lokr-dora": LokrConfig(linear_dim=3, alpha=6.0, dropout=0.5, factor=4, weight_decompose=True),
    "lokr-full-dora-scalar": LokrConfig(dropout=0.5, weight_decompose=True, use_scalar=True),
    "loha": LohaConfig(rank=4, alpha=6.0, dropout=0.5, target_mlp=True, module_ranks=("*.mlp.*=2",)),
    "loha-scalar": LohaConfig(rank=4, alpha=6.0, dropout=0.5, use_scalar=True, attention_type="cross"),
    "loha-dora": LohaConfig(rank=4, alpha=6.0, dropout=0.5, weight_decompose=True, attention_type="self"),
}
"""Adapters with LyCORIS's parameters, and DoRA."""

KINDS = LORAS | LYCORIS


def fresh(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Decoder:
    """Load the decoder without an adapter."""
    return load_decoder(checkpoint.model_weights().under("decoder."), dtype, CPU)


def attached(checkpoint: Checkpoint, config: AdapterConfig, seed: int = 0,
             dtype: torch.dtype = torch.float32) -> tuple[Decoder, LiveAdapter]:
    """Load the decoder with an untrained adapter."""
    decoder = fresh(checkpoint, dtype)
    modules = target_modules(config, decoder.geometry.layers)
    return decoder, registry.attach(decoder, config, modules, seed)


def taught(checkpoint: Checkpoint, config: AdapterConfig, dtype: torch.dtype = torch.float32,
           size: float = 0.1) -> tuple[Decoder, LiveAdapter]:
    """Load the decoder with an adapter whose every parameter was changed."""
    decoder, live = attached(checkpoint, config, dtype=dtype)
    random = rng.generator("taught")
    with torch.no_grad():
        for parameter in live.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=size)
    return decoder, live


def velocity(decoder: Decoder) -> Tensor:
    """Predict the velocity of a fixed input."""
    random = rng.generator("input")
    dtype = decoder.proj_in[1].weight.dtype
    x_BTC, source_BTC = (torch.randn(1, 20, 64, generator=random).to(dtype) for _ in range(2))
    condition_BSD = torch.randn(1, 5, 64, generator=random).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        context = flow_matching.context_latents(source_BTC)
        predicted: Tensor = decoder(x_BTC, torch.tensor([0.5]), condition_BSD, context)
    return predicted
