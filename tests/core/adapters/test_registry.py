"""Every kind of adapter: exactly the listed modules, an unchanged start, saved bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters import file as adapter_file
from sidestep_core.adapters import formats
from sidestep_core.adapters.algorithm import LiveAdapter
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.proof import prove
from sidestep_core.adapters.registry import SIZES, capacity
from sidestep_core.adapters.targets import target_modules
from sidestep_core.errors import AdapterError
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from tests.adapters import KINDS, LYCORIS, attached, fresh, taught, velocity
from tests.tolerance import FP32, PERTURBED, deviation

every_kind = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
SOME = {name: replace(KINDS[name], target_mlp=False, module_ranks=())
        for name in ("lora", "dora", "lokr", "loha", "lokr-dora")}


def learned(checkpoint: Checkpoint, config: AdapterConfig) -> tuple[dict[str, Tensor], Tensor]:
    """Saved tensors of a taught adapter, and its decoder's prediction."""
    decoder, live = taught(checkpoint, config)
    return live.state_dict(), velocity(decoder.eval())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) and tensor.dtype == other[name].dtype for name, tensor in one.items())


@pytest.mark.parametrize("attention", ["both", "self", "cross"])
@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("ranks", [(), ("*=3", "layers.1.*.q_proj=0")], ids=["one rank", "ranks"])
@pytest.mark.parametrize("name", SOME)
def test_adapter_sits_on_listed_modules(checkpoint: Checkpoint, name: str, attention: str, mlp: bool,
                                        ranks: tuple[str, ...]) -> None:
    config = replace(SOME[name], attention_type=attention, target_mlp=mlp, module_ranks=ranks)
    decoder, live = attached(checkpoint, config)
    training = [name for name, parameter in decoder.named_parameters() if parameter.requires_grad]
    assert len(training) == len(live.parameters)
    holders = list(dict.fromkeys(name.split("_proj")[0] + "_proj" for name in training))
    assert holders == list(target_modules(config, 2))
    assert sum(parameter.numel() for parameter in live.parameters) == capacity(config, decoder.geometry).total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_kind
def test_start_changes_no_bit(checkpoint: Checkpoint, config: AdapterConfig, dtype: torch.dtype) -> None:
    decoder, _ = attached(checkpoint, config, dtype=dtype)
    expected = velocity(fresh(checkpoint, dtype))
    for mode in (True, False):
        assert torch.equal(velocity(decoder.train(mode)), expected)
    assert not torch.equal(velocity(taught(checkpoint, config, dtype)[0]), expected)


@every_kind
def test_parameters_are_float32(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    decoder, _ = attached(checkpoint, config, dtype=torch.bfloat16)
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in decoder.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


@every_kind
def test_gradients_reach_adapter_only(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    decoder, live = taught(checkpoint, config, torch.bfloat16)
    before = {name: parameter.clone() for name, parameter in decoder.named_parameters()}
    velocity(decoder.train()).square().mean().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in live.parameters)
    torch.optim.AdamW(live.parameters, lr=0.1).step()
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@every_kind
def test_base_weights_are_untouched(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    decoder, live = taught(checkpoint, config)
    own = {id(parameter) for parameter in live.parameters}
    kept = {name.replace(".base_layer", ""): parameter for name, parameter in decoder.named_parameters()
            if id(parameter) not in own}
    before = dict(fresh(checkpoint).named_parameters())
    assert kept.keys() == before.keys()
    assert all(torch.equal(kept[name], before[name]) for name in before)


@every_kind
def test_start_depends_on_seed_only(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    def starts(seed: int) -> list[Tensor]:
        return list(attached(checkpoint, config, seed)[1].parameters)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = starts(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again, other = starts(1), starts(2)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert any(not torch.equal(one, two) for one, two in zip(first, other, strict=True))


@every_kind
def test_modules_start_differently(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    matrices = [parameter for parameter in attached(checkpoint, config)[1].parameters
                if parameter.ndim == 2 and parameter.shape[0] > 1 and parameter.any()]
    pairs = [(one, two) for index, one in enumerate(matrices) for two in matrices[:index] if one.shape == two.shape]
    assert pairs
    assert not any(torch.equal(one, two) for one, two in pairs)


@every_kind
def test_merged_delta_equals_live_output(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    decoder, live = taught(checkpoint, config)
    merged, wrong = fresh(checkpoint), fresh(checkpoint)
    for change in live.deltas():
        for model, strength in ((merged, 1.0), (wrong, 1.0 + 1000 * PERTURBED)):
            weight = model.get_submodule(change.module).weight
            weight.data = (weight.double() + strength * change.delta.double()).float()
    with torch.no_grad():
        expected = velocity(decoder.eval())
        assert deviation(velocity(merged), expected) <= FP32
        assert deviation(velocity(wrong), expected) > FP32


@every_kind
def test_recomputation_changes_no_bit(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    gradients = []
    for recomputing in (True, False):
        decoder, live = taught(checkpoint, config)
        decoder.gradient_checkpointing = recomputing
        torch.manual_seed(3)
        velocity(decoder.train()).square().mean().backward()
        gradients.append([parameter.grad for parameter in live.parameters])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@every_kind
def test_dropout_acts_in_training_only(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    decoder, _ = taught(checkpoint, config)
    with torch.no_grad():
        assert torch.equal(velocity(decoder.eval()), velocity(decoder))
        assert not torch.equal(velocity(decoder.train()), velocity(decoder))
        without, _ = taught(checkpoint, replace(config, dropout=0.0))
        assert torch.equal(velocity(without.train()), velocity(without.eval()))


@every_kind
def test_save_load_is_bit_identical(checkpoint: Checkpoint, config: AdapterConfig, tmp_path: Path) -> None:
    _, live = taught(checkpoint, config)
    state = live.state_dict()
    adapter_file.write(tmp_path / "a.safetensors", state, {})
    decoder, other = attached(checkpoint, config, seed=5)
    other.load_state_dict(read_tensors(tmp_path / "a.safetensors"))
    assert same(other.state_dict(), state)
    assert all(torch.equal(one, two) for one, two in zip(other.parameters, live.parameters, strict=True))
    assert torch.equal(velocity(decoder.eval()), learned(checkpoint, config)[1])


@every_kind
def test_untrained_round_trip_is_bit_identical(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    _, live = attached(checkpoint, config)
    _, other = attached(checkpoint, config, seed=5)
    other.load_state_dict(live.state_dict())
    assert all(torch.equal(one, two) for one, two in zip(other.parameters, live.parameters, strict=True))


@every_kind
def test_state_dict_is_a_copy(checkpoint: Checkpoint, config: AdapterConfig) -> None:
    _, live = taught(checkpoint, config)
    state = live.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    for parameter in live.parameters:
        parameter.data.zero_()
    assert same(state, before)


def others(name: str) -> dict[str, AdapterConfig]:
    """Adapters that are not of the kind called `name`, or otherwise made."""
    config = SOME[name]
    rank = {"linear_dim": 2} if isinstance(config, LokrConfig) else {"rank": 2}
    kinds = {f"kind {other}": kind for other, kind in SOME.items() if other != name}
    return kinds | {"rank": replace(config, **rank), "alpha": replace(config, alpha=7.0),
                    "fewer": replace(config, attention_type="self"), "more": replace(config, target_mlp=True),
                    "ranks": replace(config, module_ranks=("layers.1.cross_attn.o_proj=2",))}


@pytest.mark.parametrize(("name", "other"), [(name, other) for name in SOME for other in others(name)])
def test_foreign_state_changes_nothing(checkpoint: Checkpoint, name: str, other: str) -> None:
    decoder, live = taught(checkpoint, SOME[name])
    before = [parameter.clone() for parameter in live.parameters]
    with pytest.raises(AdapterError, match=r"layers.*in the saved adapter.*It belongs to another run"):
        live.load_state_dict(learned(checkpoint, others(name)[other])[0])
    assert all(torch.equal(one, two) for one, two in zip(live.parameters, before, strict=True))


def written(live: LiveAdapter, folder: Path, change: str = "") -> Path:
    """Its file; `change` names tensors that are written a hundredth too large."""
    path = folder / "a.safetensors"
    tensors = {name: tensor * 1.01 if change and change in name else tensor
               for name, tensor in live.state_dict().items()}
    adapter_file.write(path, tensors, {})
    return path


@every_kind
def test_own_loader_proves_every_kind(checkpoint: Checkpoint, config: AdapterConfig, tmp_path: Path) -> None:
    _, live = taught(checkpoint, config, size=1e-3 if config in LYCORIS.values() else 0.1)
    path = written(live, tmp_path)
    proof = prove(path, live.deltas(), formats.delta_fn)
    assert proof.matched == proof.total == len(target_modules(config, 2))
    assert proof.error <= FP32
    assert prove(path, live.deltas(every=3), formats.delta_fn).total == -(-proof.total // 3)


@pytest.mark.parametrize(("name", "part"), [("lora", "lora_B"), ("dora", "lora_up"), ("dora", "dora_scale"),
                                            ("lokr", "lokr_w2_b"), ("lokr-dora", "dora_scale"), ("loha", "hada_w1_b"),
                                            ("lora", "alpha"), ("lokr", "alpha"), ("loha", "alpha")])
def test_altered_file_fails_the_proof(checkpoint: Checkpoint, name: str, part: str, tmp_path: Path) -> None:
    _, live = taught(checkpoint, KINDS[name])
    path = written(live, tmp_path, change=part)
    with pytest.raises(AdapterError, match="not usable"):
        prove(path, live.deltas(), formats.delta_fn)


@every_kind
def test_equal_adapters_give_equal_files(checkpoint: Checkpoint, config: AdapterConfig, tmp_path: Path) -> None:
    contents = set()
    for _ in range(3):
        contents.add(written(taught(checkpoint, config)[1], tmp_path).read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(("config", "size", "modules", "total"), [
    (LoraConfig(), "2B", 192, 44_040_192),
    (LoraConfig(attention_type="self"), "2B", 96, 22_020_096),
    (LoraConfig(dora=True), "2B", 192, 44_040_192 + 192 * 2048),
    (LoraConfig(), "XL", 256, 64 * 64 * (2 * (2560 + 4096) + 2 * (2560 + 1024))),
    (LokrConfig(), "2B", 192, 786_432),
    (LokrConfig(factor=8), "2B", 192, 5_517_312),
    (LohaConfig(rank=32), "2B", 192, 44_040_192),
])  # fmt: skip
def test_capacity_on_real_models(config: AdapterConfig, size: str, modules: int, total: int) -> None:
    found = capacity(config, SIZES[size])
    assert len(found.parameters) == modules
    assert found.total == total


def test_lokr_capacity_follows_factor() -> None:
    """The larger block is full by default: rank and alpha have no effect, and there is little capacity."""
    default = capacity(LokrConfig(), SIZES["2B"])
    assert len(default.full) == 192
    assert capacity(LokrConfig(linear_dim=128), SIZES["2B"]) == default
    assert capacity(LokrConfig(factor=4), SIZES["2B"]).total > 10 * default.total
    assert capacity(LokrConfig(factor=4), SIZES["2B"]).full == ()
