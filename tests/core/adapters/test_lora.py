"""LoRA: PEFT's initial values, a file in which strength 1.0 is the trained one, and that PEFT opens.

See test_registry.py and test_low_rank.py.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sidestep_core import rng
from sidestep_core.adapters import registry
from sidestep_core.adapters.config import PROJECTIONS
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.errors import AdapterError
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import Decoder, DecoderGeometry
from tests.adapters import LORAS, attached, fresh, taught, velocity
from tests.tolerance import FP32, PERTURBED, deviation

TALL = DecoderGeometry(width=32, layers=12, heads=2, kv_heads=1, head_width=16, mlp=16, condition_width=8,
                       in_channels=192, out_channels=64, patch=2)  # fmt: skip


@pytest.mark.parametrize("projections", [PROJECTIONS, ("v_proj", "q_proj"), ("o_proj",)])
@pytest.mark.parametrize("ranks", [(), ("layers.1.*=7", "layers.11.*=3")])
def test_target_names_are_exact(projections: tuple[str, ...], ranks: tuple[str, ...]) -> None:
    config = LoraConfig(rank=2, target_modules=projections, module_ranks=ranks)
    decoder = Decoder(TALL)
    before = {name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    modules = target_modules(config, TALL.layers)
    live = registry.attach(decoder, config, modules, seed=0)
    shapes = {name: parameter.shape for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert {name.removesuffix(".lora_A"): shape[0] for name, shape in shapes.items()
            if name.endswith(".lora_A")} == modules
    assert {name.removesuffix(".lora_B"): shape[1] for name, shape in shapes.items()
            if name.endswith(".lora_B")} == modules
    assert set(modules) <= before
    assert len(live.parameters) == len(shapes) == 2 * len(modules)


def test_missing_modules_are_an_error() -> None:
    modules = {"layers.0.self_attn.q_proj": 2, "layers.99.self_attn.q_proj": 2}
    with pytest.raises(AdapterError, match=r"layers\.99\.self_attn\.q_proj, which this decoder does not have"):
        registry.attach(Decoder(TALL), LoraConfig(rank=2), modules, seed=0)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 6.0), (8, 4.0), (1, 128.0)])
@pytest.mark.parametrize("rslora", [True, False])
@pytest.mark.parametrize("ranks", [(), ("layers.0.*=3",)])
def test_file_holds_trained_scale(checkpoint: Checkpoint, rank: int, alpha: float, rslora: bool,
                                  ranks: tuple[str, ...]) -> None:
    config = LoraConfig(rank=rank, alpha=alpha, attention_type="cross", target_modules=("q_proj", "v_proj"),
                        rslora=rslora, module_ranks=ranks)
    _, live = taught(checkpoint, config)
    state = live.state_dict()
    modules = target_modules(config, 2)
    parts = ("lora_A.weight", "lora_B.weight", "alpha")
    assert set(state) == {f"base_model.model.{module}.{part}" for module in modules for part in parts}
    added = {change.module: change.delta for change in live.deltas()}
    assert tuple(added) == tuple(modules)
    for module, own in modules.items():
        down, up, said = (state[f"base_model.model.{module}.{part}"] for part in parts)
        scale = alpha / math.sqrt(own) if rslora else alpha / rank
        assert said.shape == ()
        assert float(said) == pytest.approx(scale * own, rel=1e-7)
        assert down.shape[0] == up.shape[1] == own
        assert deviation(added[module], scale * up @ down) <= FP32
        assert deviation(added[module], (1 + PERTURBED) * scale * up @ down) > FP32


@pytest.mark.parametrize("config", LORAS.values(), ids=LORAS)
def test_peft_loads_equal_model(checkpoint: Checkpoint, config: LoraConfig, tmp_path: Path) -> None:
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model, set_peft_model_state_dict

    decoder, live = taught(checkpoint, config)
    write_tensors(tmp_path / "a.safetensors", live.state_dict())
    modules = target_modules(config, 2)
    theirs = get_peft_model(fresh(checkpoint), PeftConfig(
        r=4, lora_alpha=6, use_rslora=config.rslora, target_modules=list(modules), rank_pattern=modules,
        alpha_pattern={} if config.rslora else {module: 1.5 * rank for module, rank in modules.items()})).eval()
    result = set_peft_model_state_dict(theirs, read_tensors(tmp_path / "a.safetensors"))
    assert not [name for name in result.missing_keys if "lora" in name]
    found, expected = velocity(theirs.base_model.model), velocity(decoder.eval())
    # Not bit for bit: our layer adds its product within the matrix kernel.
    assert deviation(found, expected) <= FP32
    assert deviation(velocity(fresh(checkpoint).eval()), expected) > PERTURBED


def test_peft_file_without_alpha_loads(checkpoint: Checkpoint) -> None:
    config = LORAS["lora"]
    decoder, live = taught(checkpoint, config)
    bare = {name: tensor for name, tensor in live.state_dict().items() if not name.endswith(".alpha")}
    other_decoder, other = attached(checkpoint, config, seed=5)
    other.load_state_dict(bare)
    assert torch.equal(velocity(other_decoder.eval()), velocity(decoder.eval()))
    _, wider = attached(checkpoint, replace(config, rank=8))
    with pytest.raises(AdapterError, match=r"lora_A\.weight is of shape \(4, 64\).*this run needs \(8, 64\)"):
        wider.load_state_dict(bare)


def injected(checkpoint: Checkpoint, config: LoraConfig, seed: int, dtype: torch.dtype) -> nn.Module:
    """Decoder with the LoRA as PEFT makes it."""
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    modules = target_modules(config, 2)
    own = {re.escape(name): rank for name, rank in modules.items() if rank != config.rank}
    alphas = {} if config.rslora else {name: config.alpha * rank / config.rank for name, rank in own.items()}
    settings = PeftConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(modules),
                          use_rslora=config.rslora, rank_pattern=own, alpha_pattern=alphas)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed(seed, "init"))
        return inject_adapter_in_model(settings, fresh(checkpoint, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", LORAS.values(), ids=LORAS)
def test_start_is_that_of_peft(checkpoint: Checkpoint, config: LoraConfig, dtype: torch.dtype) -> None:
    """Bit for bit, at its scale."""
    from peft.tuners.lora import Linear

    _, live = attached(checkpoint, config, seed=3, dtype=dtype)
    theirs = {name: module for name, module in injected(checkpoint, config, 3, dtype).named_modules()
              if isinstance(module, Linear)}
    other = dict(injected(checkpoint, config, 4, dtype).named_modules())
    state = live.state_dict()
    assert len(state) == 3 * len(theirs)
    for name, linear in theirs.items():
        down, up, alpha = (state[f"base_model.model.{name}.{part}"] for part in ("lora_A.weight", "lora_B.weight",
                                                                                 "alpha"))
        assert torch.equal(down, linear.lora_A["default"].weight.float())
        assert torch.equal(up, linear.lora_B["default"].weight.float())
        assert torch.equal(alpha, torch.tensor(linear.scaling["default"] * linear.r["default"]))
        assert not torch.equal(down, other[name].lora_A["default"].weight.float())
