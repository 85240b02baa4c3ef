"""LoRA through PEFT: on what was asked and nothing else, changing nothing at first, and a file that PEFT opens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sidestep_core import flow, lora, storage
from sidestep_core.checkpoint import Checkpoint
from sidestep_core.config import PROJECTIONS, LoraConfig
from sidestep_core.decoder import Decoder, DecoderGeometry, load_decoder
from sidestep_core.errors import AdapterError, MissingDependency
from sidestep_core.targets import target_modules
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
CONFIG = LoraConfig(rank=4, alpha=6.0, dropout=0.5)
TALL = DecoderGeometry(width=32, layers=12, heads=2, kv_heads=1, head_width=16, mlp=16, condition_width=8,
                       in_channels=192, out_channels=64, patch=2)  # fmt: skip


def fresh(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Decoder:
    return load_decoder(checkpoint.model_weights().under("decoder."), dtype, CPU)


def adapted(checkpoint: Checkpoint, config: LoraConfig = CONFIG, seed: int = 0,
            dtype: torch.dtype = torch.float32) -> Decoder:
    decoder = fresh(checkpoint, dtype)
    lora.attach(decoder, config, target_modules(config, 2), seed)
    return decoder


def trained(checkpoint: Checkpoint, config: LoraConfig = CONFIG) -> Decoder:
    """An adapter that learned something: random output matrices."""
    decoder = adapted(checkpoint, config)
    random = flow.generator("trained")
    for name, parameter in decoder.named_parameters():
        if ".lora_B." in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=random)
    return decoder


def velocity(decoder: Decoder) -> Tensor:
    """What the decoder predicts for a fixed input."""
    random = flow.generator("input")
    dtype = decoder.proj_in[1].weight.dtype
    x_BTC, source_BTC = (torch.randn(1, 20, 64, generator=random).to(dtype) for _ in range(2))
    condition_BSD = torch.randn(1, 5, 64, generator=random).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        predicted: Tensor = decoder(x_BTC, torch.tensor([0.5]), condition_BSD, flow.context_latents(source_BTC))
    return predicted


@pytest.mark.parametrize("attention", ["both", "self", "cross"])
@pytest.mark.parametrize("projections", [PROJECTIONS, ("q_proj", "v_proj"), ("v_proj", "q_proj"), ("o_proj",)])
def test_the_adapter_sits_on_exactly_what_was_asked(attention: str, projections: tuple[str, ...]) -> None:
    config = LoraConfig(rank=2, attention=attention, projections=projections)
    decoder = Decoder(TALL)
    before = {name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    modules = target_modules(config, TALL.layers)
    parameters = lora.attach(decoder, config, modules, seed=0)
    names = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert names == {f"{module}.lora_{side}.default.weight" for module in modules for side in "AB"}
    assert set(modules) <= before
    assert len(parameters) == len(names) == 2 * len(modules)


def test_modules_that_are_not_there_are_an_error() -> None:
    with pytest.raises(AdapterError, match=r"2 modules but sits on 1; differing: layers\.99\.self_attn\.q_proj"):
        lora.attach(Decoder(TALL), CONFIG, ("layers.0.self_attn.q_proj", "layers.99.self_attn.q_proj"), seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_first_no_bit_changes(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    with_adapter = adapted(checkpoint, dtype=dtype)
    for mode in (True, False):
        assert torch.equal(velocity(with_adapter.train(mode)), velocity(fresh(checkpoint, dtype).train(mode)))
    assert not torch.equal(velocity(trained(checkpoint)), velocity(fresh(checkpoint)))


def test_the_adapter_is_float32_over_a_bfloat16_base(checkpoint: Checkpoint) -> None:
    decoder = adapted(checkpoint, dtype=torch.bfloat16)
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in decoder.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_the_base_is_left_as_it_is(checkpoint: Checkpoint) -> None:
    before, after = fresh(checkpoint).state_dict(), adapted(checkpoint).state_dict()
    kept = {name.replace(".base_layer", ""): tensor for name, tensor in after.items() if ".lora_" not in name}
    assert kept.keys() == before.keys()
    assert all(torch.equal(kept[name], before[name]) for name in before)


def test_the_start_is_a_pure_function_of_the_seed(checkpoint: Checkpoint) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = lora.state(adapted(checkpoint, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again, other = lora.state(adapted(checkpoint, seed=1)), lora.state(adapted(checkpoint, seed=2))
    downs = [name for name in first if ".lora_A." in name]
    assert len(downs) == 16
    for name in downs:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_every_module_starts_differently(checkpoint: Checkpoint) -> None:
    state = lora.state(adapted(checkpoint))
    downs = [tensor for name, tensor in state.items() if ".lora_A." in name and tensor.shape[1] == 64]
    assert not any(torch.equal(one, other) for index, one in enumerate(downs) for other in downs[:index])


@pytest.mark.parametrize(("rank", "alpha"), [(4, 6.0), (8, 4.0), (1, 128.0)])
def test_the_file_says_what_strength_one_means(checkpoint: Checkpoint, rank: int, alpha: float) -> None:
    config = LoraConfig(rank=rank, alpha=alpha, attention="cross", projections=("q_proj", "v_proj"))
    decoder = trained(checkpoint, config)
    state = lora.state(decoder)
    modules = target_modules(config, 2)
    parts = ("lora_A.weight", "lora_B.weight", "alpha")
    assert set(state) == {f"base_model.model.{module}.{part}" for module in modules for part in parts}
    added = dict(lora.deltas(decoder))
    assert tuple(added) == modules
    for module in modules:
        down, up, said = (state[f"base_model.model.{module}.{part}"] for part in parts)
        assert said.shape == ()
        assert float(said) == alpha
        assert down.shape[0] == up.shape[1] == rank
        assert deviation(added[module], alpha / rank * up @ down) < FP32
        assert deviation(added[module], (1 + PERTURBED) * alpha / rank * up @ down) > FP32


def test_what_is_added_is_what_the_decoder_computes_with(checkpoint: Checkpoint) -> None:
    decoder, merged = trained(checkpoint).eval(), fresh(checkpoint)
    for module, added in lora.deltas(decoder):
        merged.get_submodule(module).weight.data = merged.get_submodule(module).weight + added
    assert deviation(velocity(merged), velocity(decoder)) < FP32
    assert deviation(velocity(fresh(checkpoint)), velocity(decoder)) > PERTURBED


def test_peft_opens_the_file_to_the_same_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model, set_peft_model_state_dict

    decoder = trained(checkpoint).eval()
    storage.write_tensors(tmp_path / "a.safetensors", lora.state(decoder))
    config = PeftConfig(r=4, lora_alpha=6, target_modules=list(target_modules(CONFIG, 2)))
    theirs = get_peft_model(fresh(checkpoint), config).eval()
    result = set_peft_model_state_dict(theirs, storage.read_tensors(tmp_path / "a.safetensors"))
    assert not [name for name in result.missing_keys if "lora" in name]
    assert torch.equal(velocity(theirs.base_model.model), velocity(decoder))


def test_saved_weights_are_put_back_bit_for_bit(checkpoint: Checkpoint) -> None:
    decoder, other = trained(checkpoint).eval(), adapted(checkpoint, seed=5).eval()
    lora.load_state(other, lora.state(decoder))
    assert torch.equal(velocity(other), velocity(decoder))
    before, after = lora.state(decoder), lora.state(other)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_state_is_a_copy(checkpoint: Checkpoint) -> None:
    decoder = trained(checkpoint)
    state = lora.state(decoder)
    before = {name: tensor.clone() for name, tensor in state.items()}
    for parameter in decoder.parameters():
        parameter.data.zero_()
    assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize("other", [LoraConfig(rank=8), LoraConfig(rank=4, attention="self")])
def test_weights_of_another_adapter_are_refused(checkpoint: Checkpoint, other: LoraConfig) -> None:
    with pytest.raises(AdapterError, match=r"layers\.0\.\w+\.\w+\.lora_A is .* It belongs to another run"):
        lora.load_state(adapted(checkpoint), lora.state(adapted(checkpoint, other)))


def test_without_peft_it_is_said_what_to_install(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependency, match="pip install -U peft"):
        trained(checkpoint)
