"""Exactly the modules that were asked for, by names that the decoder has."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import nn

from sidestep_core.checkpoint import Checkpoint
from sidestep_core.config import PROJECTIONS, LoraConfig
from sidestep_core.decoder import load_decoder
from sidestep_core.targets import target_modules


@pytest.mark.parametrize(("layers", "count"), [(24, 192), (32, 256)])
def test_the_real_models_have_as_many_targets_as_the_documentation_says(layers: int, count: int) -> None:
    assert len(set(target_modules(LoraConfig(), layers))) == count


@pytest.mark.parametrize("attention", ["both", "self", "cross"])
@pytest.mark.parametrize("projections", [PROJECTIONS, ("q_proj",), ("k_proj", "o_proj")])
def test_targets_are_the_decoders_own_in_its_own_order(checkpoint: Checkpoint, attention: str,
                                                      projections: tuple[str, ...]) -> None:
    decoder = load_decoder(checkpoint.model_weights().under("decoder."), torch.float32, torch.device("cpu"))
    wanted = ("self_attn", "cross_attn") if attention == "both" else (f"{attention}_attn",)
    expected = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)
                and name.split(".")[-1] in projections and name.split(".")[-2] in wanted]
    assert list(target_modules(LoraConfig(attention=attention, projections=projections), 2)) == expected


def test_the_order_in_which_projections_are_named_means_nothing() -> None:
    orders = permutations(("q_proj", "k_proj", "v_proj"))
    assert len({target_modules(LoraConfig(projections=order), 2) for order in orders}) == 1
