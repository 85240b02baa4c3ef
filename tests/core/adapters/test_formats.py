"""Reading adapters: names, scales and kinds of every origin; what is odd, partial or damaged is said by name."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters import formats
from sidestep_core.adapters.delta import FullDelta
from sidestep_core.adapters.file import METADATA_KEY, Adapter
from sidestep_core.adapters.formats import AdapterFile, read
from sidestep_core.adapters.keys import official
from sidestep_core.adapters.loha import HadamardDelta
from sidestep_core.adapters.lokr import KroneckerDelta
from sidestep_core.errors import AdapterError
from sidestep_core.io import atomic
from sidestep_core.io.tensors import write_tensors
from tests.tolerance import FP64, deviation

Tensors = dict[str, Tensor]
Q = "layers.0.self_attn.q_proj"
OUT, IN, RANK = 6, 4, 2


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora(module: str = f"base_model.model.{Q}", **extra: Tensor) -> Tensors:
    return {f"{module}.lora_A.weight": numbers(RANK, IN), f"{module}.lora_B.weight": numbers(OUT, RANK, seed=1),
            **{f"{module}.{name}": tensor for name, tensor in extra.items()}}


def written(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None, **config: Any) -> Path:
    write_tensors(folder / "theirs.safetensors", tensors, metadata)
    if config:
        atomic.write_json(folder / "adapter_config.json", config)
    return folder / "theirs.safetensors"


def scale(content: AdapterFile, module: str = Q) -> float:
    factors = content.modules[module].factors
    assert not isinstance(factors, FullDelta | None)
    return factors.scale


@pytest.mark.parametrize(("name", "expected"), [
    ("layers.0.self_attn.q_proj", "layers.0.self_attn.q_proj"),
    ("base_model.model.layers.12.cross_attn.o_proj", "layers.12.cross_attn.o_proj"),
    ("base_model.model.base_model.model.layers.0.mlp.up_proj", "layers.0.mlp.up_proj"),
    ("diffusion_model.decoder.time_embed_r.linear_2", "time_embed_r.linear_2"),
    ("lora_unet_decoder_layers_3_self_attn_k_proj", "layers.3.self_attn.k_proj"),
    ("lora_unet_layers_3_mlp_down_proj", "layers.3.mlp.down_proj"),
    ("lycoris_time_embed_linear_1", "time_embed.linear_1"),
    ("lycoris_time_embed_r_time_proj", "time_embed_r.time_proj"),
    ("lycoris_proj_in_1", "proj_in.1"),
    ("transformer.layers.1.self_attn.to_out.0", "layers.1.self_attn.o_proj"),
    ("transformer.layers.1.cross_attn.to_v", "layers.1.cross_attn.v_proj"),
    ("transformer.layers.1.cross_attn.norm_k", "layers.1.cross_attn.k_norm"),
    ("transformer.proj_out_conv", "proj_out.1"),
    ("_orig_mod.layers.1.cross_attn_norm", "layers.1.cross_attn_norm"),
    ("decoder.condition_embedder", "condition_embedder"),
    ("model.diffusion_model.decoder.layers.007.mlp_norm", "layers.7.mlp_norm"),
    ("base_model.model.encoder.lyric_encoder.layers.0.self_attn.q_proj", None),
    ("detokenizer.layers.0.self_attn.q_proj", None),
    ("layers.0.self_attn.qkv_proj", None),
    ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", None),
    ("transformer_blocks.0.attn.to_q", None),
    ("layers.0.self_attn", None),
    ("", None),
])
def test_official_module_names(name: str, expected: str | None) -> None:
    assert official(name) == expected


@pytest.mark.parametrize(("metadata", "config", "expected"), [
    ({}, {"peft_type": "LORA", "r": RANK, "lora_alpha": 6}, 3.0),
    ({}, {"r": RANK, "lora_alpha": 6, "use_rslora": True}, 6 / math.sqrt(2)),
    ({}, {"r": 64, "rank_pattern": {"q_proj": RANK}, "lora_alpha": 6, "alpha_pattern": {"self_attn.q_proj": 5}}, 2.5),
    ({}, {"r": RANK, "lora_alpha": 6, "alpha_pattern": {"proj": 5}}, 3.0),
    ({}, {"r": RANK, "alpha": 1}, 0.5),
    ({"ss_network_alpha": "1.0", "ss_network_dim": "2"}, {}, 0.5),
    ({"ss_network_alpha": "1.0", "ss_network_dim": "Dynamic"}, {}, 0.5),
    ({"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 3})}, {}, 1.5),
    ({"ss_network_alpha": "9", "ss_network_dim": "2"}, {"r": RANK, "lora_alpha": 6}, 3.0),
])
def test_alpha_from_settings(tmp_path: Path, metadata: dict[str, str], config: dict[str, Any], expected: float) -> None:
    assert scale(read(written(tmp_path, lora(), metadata, **config))) == pytest.approx(expected, rel=1e-12)


def test_file_alpha_counts_first(tmp_path: Path) -> None:
    path = written(tmp_path, lora(alpha=torch.tensor(10)), r=RANK, lora_alpha=6)
    assert scale(read(path)) == 5.0


@pytest.mark.parametrize("alpha", [6.0, 6 * math.sqrt(2)])
def test_rslora_with_either_alpha(tmp_path: Path, alpha: float) -> None:
    path = written(tmp_path, lora(alpha=torch.tensor(alpha)), r=RANK, lora_alpha=6, use_rslora=True)
    assert scale(read(path)) == pytest.approx(6 / math.sqrt(2), rel=1e-6)


def test_host_names_have_scale_one(tmp_path: Path) -> None:
    path = written(tmp_path, lora(f"diffusion_model.decoder.{Q}"))
    assert scale(read(path)) == 1.0
    assert scale(read(path, alpha=8.0)) == 4.0


@pytest.mark.parametrize(("config", "message"), [
    ({}, r"theirs\.safetensors does not say its alpha.*no adapter_config\.json in its folder.*twice the rank: 4 for"),
    ({"r": 16, "lora_alpha": 32}, r"adapter_config\.json is of another adapter \(it says rank 16, and .* has rank 2\)"),
    ({"r": 2, "lora_alpha": 2, "init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*Convert it"),
    ({"r": 2, "lora_alpha": "much"}, r"adapter_config\.json is damaged \(could not convert"),
    ({"r": 2, "lora_alpha": 2, "alpha_pattern": {"(": 1}}, "is damaged"),
])
def test_unknown_alpha_is_asked_for(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        read(written(tmp_path, lora(), None, **config))


BAD_NUMBERS = [
    ({"lora_alpha": "inf"}, "lora_alpha is 'inf', which is not a finite number"),
    ({"lora_alpha": "nan"}, "lora_alpha is 'nan'"),
    ({"lora_alpha": "1e999"}, "lora_alpha is '1e999'"),
    ({"lora_alpha": True}, "could not convert lora_alpha True"),
    ({"lora_alpha": 0}, f"{Q} cannot be applied: with its alpha of 0, its scale is 0"),
    ({"lora_alpha": 1e300}, f"{Q} cannot be applied: with its alpha of 1e.300"),
    ({"lora_alpha": 1e-300}, f"{Q} cannot be applied: with its alpha of 1e-300"),
    ({"alpha_pattern": {"self_attn.q_proj": "-inf"}}, "the alpha of self_attn.q_proj is '-inf'"),
    ({"alpha_pattern": {"q_proj": 0}}, f"{Q} cannot be applied: with its alpha of 0"),
    ({"r": 0}, "r is 0; a rank is a whole number above 0"),
    ({"r": -RANK}, "r is -2; a rank"),
    ({"r": 2.5}, "r is 2.5; a rank"),
    ({"r": "inf"}, "r is 'inf', which is not a finite number"),
    ({"rank_pattern": {"q_proj": 0}}, "the rank of q_proj is 0; a rank"),
    ({"rank_pattern": {"q_proj": -2}}, "the rank of q_proj is -2; a rank"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD_NUMBERS)
def test_impossible_settings_are_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    """Settings in the folder of a file, and as diffusers has them in its header."""
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6} | wrong
    with pytest.raises(AdapterError, match=message):
        read(written(tmp_path / "beside", lora(), **settings))
    header = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in settings.items()})}
    with pytest.raises(AdapterError, match=message):
        read(written(tmp_path / "inside", lora(), header))
    with pytest.raises(AdapterError, match=message):
        formats.as_own_state(tmp_path / "inside" / "theirs.safetensors")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_nonfinite_settings_are_named(tmp_path: Path, number: str) -> None:
    config = f'{{"r": {RANK}, "lora_alpha": 2, "alpha_pattern": {{"q_proj": {number}}}}}'
    path = written(tmp_path, lora())
    (tmp_path / "adapter_config.json").write_text(config, encoding="utf-8")
    with pytest.raises(AdapterError, match=rf"q_proj: {number} is not a finite number"):
        read(path)


@pytest.mark.parametrize(("metadata", "message"), [
    ({"ss_network_alpha": "inf", "ss_network_dim": "2"}, "ss_network_alpha is 'inf'"),
    ({"network_alpha": "nan"}, "network_alpha is 'nan'"),
    ({"ss_network_alpha": "4", "ss_network_dim": "-2"}, "ss_network_dim is -2.0; a rank"),
    ({"ss_network_alpha": "4", "r": "inf"}, "r is 'inf'"),
    ({"lora_config": '{"alpha": "inf"}'}, "alpha is 'inf'"),
    ({"lora_config": '{"alpha": Infinity}'}, "lora_config: alpha: Infinity is not a finite number"),
])
def test_impossible_metadata_is_named(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        read(written(tmp_path, lora(), metadata))
    torch.save({"state_dict": lora(), **metadata}, tmp_path / "old.pt")
    with pytest.raises(AdapterError, match=message):
        read(tmp_path / "old.pt")


@pytest.mark.parametrize(("tensors", "metadata", "config", "expected"), [
    (lora(alpha=torch.tensor(-6.0)), {}, {}, -3.0),
    (lora(), {}, {"r": RANK, "lora_alpha": -6}, -3.0),
    (lora(), {}, {"r": RANK, "lora_alpha": 6, "alpha_pattern": {"q_proj": -2}}, -1.0),
    (lora(), {}, {"r": RANK, "lora_alpha": 0, "alpha_pattern": {"q_proj": 2}}, 1.0),
    (lora(), {"ss_network_alpha": "-4"}, {}, -2.0),
    (lora(alpha=torch.tensor(2.0)), {"ss_network_alpha": "0", "ss_network_dim": "0"}, {}, 1.0),
    (lora(alpha=torch.tensor(2.0)), {"ss_network_alpha": "None", "ss_network_dim": "None"}, {}, 1.0),
])
def test_unusual_alphas_are_accepted(tmp_path: Path, tensors: Tensors, metadata: dict[str, str], config: dict[str, Any],
                                     expected: float) -> None:
    """A negative alpha is applied as it is by PEFT and ComfyUI; kohya writes 0 where alpha is the rank."""
    assert scale(read(written(tmp_path, tensors, metadata, **config))) == expected


def test_foreign_settings_are_not_damage(tmp_path: Path) -> None:
    """AdaLoRA keeps lists where LoRA has ranks."""
    settings = {"peft_type": "ADALORA", "r": RANK, "lora_alpha": 6, "rank_pattern": {f"{Q}.lora_E": [True, False]}}
    content = read(written(tmp_path, lora(lora_E=numbers(RANK, 1)), **settings))
    assert content.host_only.keys() == {Q}
    content = read(written(tmp_path, lora(alpha=torch.tensor(2.0)), **settings))
    assert "it says ADALORA" in content.notice


@pytest.mark.parametrize(("key", "wrong", "message"), [
    (f"{Q}.alpha", torch.tensor(0.0), rf"{Q}.alpha is 0\.0, and must be one number"),
    (f"{Q}.alpha", torch.ones(2), r"alpha is \[1\.0, 1\.0\]"),
    (f"{Q}.alpha", torch.tensor(math.inf), r"alpha \(torch.float32, \(\) inf\) holds"),
    ("encoder.a.alpha", torch.tensor(0.0), r"encoder\.a\.alpha is 0"),
    ("encoder.a.alpha", torch.tensor(math.nan), r"encoder\.a\.alpha \(torch.float32, \(\) nan\) holds"),
    ("encoder.a.a1.weight", torch.full((2, 2), math.nan), r"encoder\.a\.a1.* holds something else"),
])
def test_host_kinds_must_be_finite(tmp_path: Path, key: str, wrong: Tensor, message: str) -> None:
    """Alphas of foreign kinds are checked like those of our own."""
    tensors = {f"diffusion_model.{place}.{part}": numbers(2, 2) for place in (f"decoder.{Q}", "encoder.a")
               for part in ("a1.weight", "a2.weight", "b1.weight", "b2.weight")}
    read(written(tmp_path, tensors))
    key = f"diffusion_model.{'' if key.startswith('encoder') else 'decoder.'}{key}"
    with pytest.raises(AdapterError, match=message):
        read(written(tmp_path, tensors | {key: wrong}))


def test_unbounded_rotation_has_alpha_zero(tmp_path: Path) -> None:
    parts = {f"{LYCORIS}.oft_blocks": numbers(2, 2, 2), f"{LYCORIS}.alpha": torch.tensor(0.0)}
    assert read(written(tmp_path, parts)).host_only[Q]["alpha"] == 0


def test_given_alpha_is_last_resort(tmp_path: Path) -> None:
    content = read(written(tmp_path, lora(), r=16, lora_alpha=32), alpha=4.0)
    assert scale(content) == 2.0
    formats.require_use(4.0, [content])


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf, 4.0])
def test_unused_alpha_is_an_error(tmp_path: Path, alpha: float) -> None:
    content = read(written(tmp_path, lora(alpha=torch.tensor(2.0))), 4.0)
    with pytest.raises(AdapterError, match="alpha"):
        formats.require_use(alpha, [content])
    formats.require_use(0.0, [content])


def test_whole_lokr_takes_outside_rank(tmp_path: Path) -> None:
    parts = {f"lycoris_layers_0_self_attn_q_proj.{name}": tensor for name, tensor in {
        "lokr_w1": numbers(3, 2), "lokr_w2": numbers(2, 2), "alpha": torch.tensor(8.0)}.items()}
    assert scale(read(written(tmp_path, parts))) == 1.0
    assert scale(read(written(tmp_path, parts, {"lokr_config": '{"linear_dim": 4, "linear_alpha": 99}'}))) == 2.0
    [w1] = [tensor for key, tensor in formats.host_tensors(read(tmp_path / "theirs.safetensors").modules).items()
            if key.endswith("lokr_w1")]
    assert w1.equal(2 * numbers(3, 2))


def test_every_kind_is_read() -> None:
    hada = {f"hada_w{number}_{side}": numbers(*((OUT, RANK) if side == "a" else (RANK, IN)), seed=number)
            for number in (1, 2) for side in "ab"}
    loha = HadamardDelta(first=(hada["hada_w1_a"], hada["hada_w1_b"]), second=(hada["hada_w2_a"], hada["hada_w2_b"]),
                    scale=0.5)
    expected = 0.5 * (hada["hada_w1_a"] @ hada["hada_w1_b"]) * (hada["hada_w2_a"] @ hada["hada_w2_b"])
    assert torch.allclose(loha.delta(torch.float32), expected)
    assert {name: tensor for name, tensor in loha.host().items() if name != "alpha"}.keys() == hada.keys()
    lokr = KroneckerDelta(w1=(numbers(2, 2),), w2=(numbers(3, 1), numbers(1, 2)), scale=3.0)
    assert lokr.shape == (6, 4) == tuple(lokr.delta(torch.float32).shape)


DAMAGE: dict[str, tuple[Callable[[], Tensors], str]] = {
    "no partner": (lambda: without(lora(), "lora_B"), r"q_proj is incomplete: it has down, but no up"),
    "ranks differ": (lambda: lora() | {f"base_model.model.{Q}.lora_B.weight": numbers(OUT, 5)},
                     r"factors are \(6, 5\) and \(2, 4\)"),
    "no matrix": (lambda: lora() | {f"base_model.model.{Q}.lora_B.weight": numbers(OUT)}, "is not a matrix"),
    "nan": (lambda: lora() | {f"base_model.model.{Q}.lora_B.weight": torch.full((OUT, RANK), math.nan)},
            r"lora_B\.weight .*something else than finite numbers"),
    "infinite alpha": (lambda: lora(alpha=torch.tensor(math.inf)), "finite"),
    "alpha of zero": (lambda: lora(alpha=torch.tensor(0.0)), "alpha is 0.0"),
    "many alphas": (lambda: lora(alpha=torch.ones(3)), "must be one number"),
    "whole numbers": (lambda: lora() | {f"base_model.model.{Q}.lora_B.weight": torch.ones(OUT, RANK).to(torch.int8)},
                      "int8"),
    "empty": (lambda: lora() | {f"base_model.model.{Q}.lora_B.weight": torch.ones(0, RANK)}, "finite numbers"),
    "rank 0": (lambda: {f"{Q}.lora_A.weight": torch.ones(0, IN), f"{Q}.lora_B.weight": torch.ones(OUT, 0)}, "finite"),
    "twice": (lambda: lora() | lora(f"diffusion_model.decoder.{Q}"), "holds layers.0.self_attn.q_proj twice, as"),
    "two kinds": (lambda: lora(lokr_w1=numbers(2, 2), lokr_w2=numbers(3, 2)), "do not belong together"),
    "two adapters": (lambda: {f"{Q}.lora_A.{name}.weight": numbers(RANK, IN) for name in ("default", "b")}, "twice"),
    "magnitude of what": (lambda: lora(dora_scale=numbers(OUT, IN)), r"magnitude of shape \(6, 4\)"),
    "magnitude alone": (lambda: {f"{Q}.dora_scale": numbers(OUT, 1)}, "incomplete"),
    "half a LoHA": (lambda: {f"{Q}.hada_w1_a": numbers(OUT, 2), f"{Q}.hada_w1_b": numbers(2, IN)}, "no hada_w2_a"),
    "half a LoKR": (lambda: {f"{Q}.lokr_w1": numbers(2, 2), f"{Q}.lokr_w2_a": numbers(3, 2)}, "no lokr_w2_b"),
    "LoKR twice": (lambda: {f"{Q}.lokr_w1": numbers(2, 2), f"{Q}.lokr_w1_a": numbers(3, 2)}, "and also lokr_w1_a"),
}


def without(tensors: Tensors, part: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    tensors, message = DAMAGE[damage]
    with pytest.raises(AdapterError, match=message):
        read(written(tmp_path, tensors(), r=RANK, lora_alpha=4))


def test_other_models_match_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, lora("lora_unet_double_blocks_0_img_attn_qkv") | {"logit_scale": torch.ones(1)})
    content = read(path)
    assert not content.modules
    assert content.total == 2
    with pytest.raises(AdapterError, match=r"0 of 2 modules matched\. It has logit_scale, lora_unet_double_bl"):
        content.matched(lambda name: (OUT, IN))


def test_partial_match_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path, lora(alpha=torch.tensor(2.0)) | {"encoder.lora_A.weight": torch.ones(2, 2)})
    content = read(path)
    matched = content.matched(lambda name: (OUT, IN) if name.endswith("weight") else None)
    assert content.left_out(matched) == "1 not used: encoder.lora_A.weight"
    with pytest.raises(AdapterError, match="another size: layers.0.self_attn.q_proj is 6 x 4 there and 8 x 4 in the m"):
        content.matched(lambda name: (8, IN))


def test_both_sizes_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, {f"{Q}.lora_A.weight": torch.ones(1, 2048), f"{Q}.lora_B.weight": torch.ones(2048, 1)},
                   r=1, lora_alpha=1)
    with pytest.raises(AdapterError, match=r"another size \(2B, and this one is XL\): .* 2048 x 2048 .* 4096 x 2560"):
        read(path).matched(lambda name: (4096, 2560))


def test_full_delta_needs_weight_shape(tmp_path: Path) -> None:
    """The host would leave it out in silence."""
    content = read(written(tmp_path, {"proj_in.1.diff": numbers(OUT, IN)}))
    with pytest.raises(AdapterError, match="proj_in.1 is 6 x 4 there and 6 x 2 x 2 in the model"):
        content.matched(lambda name: (OUT, 2, 2))
    assert content.matched(lambda name: (OUT, IN)).keys() == {"proj_in.1"}


def test_missing_bias_is_reported(tmp_path: Path) -> None:
    content = read(written(tmp_path, lora(alpha=torch.tensor(2.0), **{"lora_B.bias": torch.ones(OUT)})))
    assert content.modules[Q].bias is not None
    matched = content.matched(lambda name: (OUT, IN) if name.endswith("weight") else None)
    assert content.left_out(matched) == f"1 not used: {Q}.bias"
    assert content.left_out(content.matched(lambda name: (OUT, IN) if name.endswith("weight") else (OUT,))) == ""


def test_bias_needs_model_width(tmp_path: Path) -> None:
    """A transposed convolution has its outputs second."""
    shapes = {"proj_out.1.weight": (IN, OUT), "proj_out.1.bias": (OUT,)}
    path = written(tmp_path, {"proj_out.1.diff": numbers(IN, OUT), "proj_out.1.diff_b": numbers(OUT)})
    assert read(path).matched(shapes.get).keys() == {"proj_out.1"}
    with pytest.raises(AdapterError, match="proj_out.1.bias is 6 there and 4 in the model"):
        read(path).matched((shapes | {"proj_out.1.bias": (IN,)}).get)


def test_magnitude_width_is_checked(tmp_path: Path) -> None:
    """A change of one dimension where the model has a matrix."""
    content = read(written(tmp_path, {f"{Q}.w_norm": numbers(OUT)}))
    with pytest.raises(AdapterError, match="q_proj is 6 there and 6 x 4 in the model"):
        content.matched(lambda name: (OUT, IN) if name.endswith("weight") else None)


def test_bias_alone_is_applied(tmp_path: Path) -> None:
    content = read(written(tmp_path, {f"{Q}.diff_b": numbers(OUT), "proj_in.1.diff_b": numbers(OUT)}))
    matched = content.matched(lambda name: None if name == f"{Q}.bias" else (OUT, IN)[:2 - name.endswith("bias")])
    assert matched.keys() == {"proj_in.1"}
    assert content.left_out(matched) == f"1 not used: {Q}"


class Evil:
    """Contents of a hostile pickle."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (Path("evil"),)


def test_pickle_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": lora(), "evil": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "text.ckpt").write_text("no adapter", encoding="utf-8")
    for name in ("evil.pt", "evil.bin", "text.ckpt"):
        with pytest.raises(AdapterError, match=rf"{name} .*(run code|is not a file).*Convert it to safetensors"):
            read(tmp_path / name)
    assert not (tmp_path / "evil").exists()


def test_oversized_pickle_is_refused(tmp_path: Path) -> None:
    endless = {name: tensor[:1].expand(1 << 40, tensor.shape[1]) for name, tensor in lora().items()}
    torch.save(endless, tmp_path / "endless.pt")
    with pytest.raises(AdapterError, match=r"endless\.pt is damaged: .* claims to be larger than the file"):
        read(tmp_path / "endless.pt")


@pytest.mark.parametrize("wrap", [lambda tensors: tensors, lambda tensors: {"a": 1, "lora": {"state_dict": tensors}}])
def test_pickle_tensors_are_read(tmp_path: Path, wrap: Callable[[Tensors], Any]) -> None:
    torch.save(wrap(lora(alpha=torch.tensor(3.0))), tmp_path / "old.pt")
    assert scale(read(tmp_path / "old.pt")) == 1.5
    assert formats.open_file(tmp_path / "old.pt") == Adapter(path=tmp_path / "old.pt")
    state: dict[str, Any] = {"epoch": 3, "optimizer_state_dict": {"state": torch.ones(3)}}
    state["itself"] = state
    torch.save(state, tmp_path / "training_state.pt")
    with pytest.raises(AdapterError, match=r"training_state\.pt holds no adapter"):
        read(tmp_path / "training_state.pt")


def test_adapter_folders(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"holds no adapter: none of adapter_model\.safetensors"):
        read(tmp_path)
    written(tmp_path, lora(alpha=torch.tensor(2.0))).rename(tmp_path / "lokr_weights.safetensors")
    assert read(tmp_path).path == formats.open_file(tmp_path).path == tmp_path / "lokr_weights.safetensors"
    with pytest.raises(AdapterError, match="no adapter file"):
        read(tmp_path / "gone.safetensors")
    (tmp_path / "a.gguf").touch()
    with pytest.raises(AdapterError, match=r"a\.gguf is not an adapter file"):
        read(tmp_path / "a.gguf")


def test_training_starts_from_any_lora(tmp_path: Path) -> None:
    tensors = lora(f"lora_unet_decoder_{Q.replace('.', '_')}", alpha=torch.tensor(3.0))
    state = formats.as_own_state(written(tmp_path, tensors))
    assert state.keys() == {f"base_model.model.{Q}.{part}" for part in ("lora_A.weight", "lora_B.weight", "alpha")}
    assert state[f"base_model.model.{Q}.alpha"] == 3.0
    assert torch.equal(state[f"base_model.model.{Q}.lora_B.weight"], numbers(OUT, RANK, seed=1))
    lokr = {f"lycoris_{Q.replace('.', '_')}.{name}": tensor for name, tensor in {
        "lokr_w1": numbers(3, 2), "lokr_w2_a": numbers(2, 1), "lokr_w2_b": numbers(1, 2), "alpha": torch.tensor(4.0),
        "dora_scale": numbers(1, IN)}.items()}
    again = formats.as_own_state(written(tmp_path, lokr))
    assert again.keys() == lokr.keys()
    assert all(again[name].equal(tensor) for name, tensor in lokr.items())


@pytest.mark.parametrize(("tensors", "message"), [
    ({f"{Q}.diff": numbers(OUT, IN)}, "cannot be trained further.*a full change"),
    (lora(alpha=torch.tensor(1.0), dora_scale=numbers(OUT, 1)), "DoRA by rows"),
    (lora(alpha=torch.tensor(1.0)) | {"diffusion_model.encoder.a.diff": numbers(2)},
     r"also changes parts outside the decoder \(1 tensors: diffusion_model\.encoder\.a\.diff\)"),
    ({"other.lora_A.weight": numbers(2, 2)}, "has nothing for ACE-Step 1.5's decoder: other.lora_A.weight"),
])
def test_untrainable_kinds_are_refused(tmp_path: Path, tensors: Tensors, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        formats.as_own_state(written(tmp_path, tensors))


LYCORIS = "lycoris_" + Q.replace(".", "_")


def test_deltas_follow_the_definitions(tmp_path: Path) -> None:
    """The formulas, element by element, as the formats' inventors wrote them down."""
    random = torch.Generator().manual_seed(1)
    weight, down, up = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((6, 4), (2, 4), (6, 2)))
    small, large = torch.randn(2, 2, generator=random).double(), torch.randn(3, 2, generator=random).double()
    kron = torch.stack([torch.stack([small[i // 3, j // 2] * large[i % 3, j % 2] for j in range(4)]) for i in range(6)])
    lengths = torch.rand(1, 4, generator=random, dtype=torch.float64)
    merged = weight + 3 / 2 * up @ down
    cases: list[tuple[Tensors, Tensor]] = [
        ({"lora_up.weight": up, "lora_down.weight": down}, 3 / 2 * up @ down),
        ({"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": 2 * up, "hada_w2_b": 1 * down}, 3 * (up @ down).square()),
        ({"lokr_w1": small, "lokr_w2": large}, kron),
        ({"lokr_w1": small, "lokr_w2_a": large, "lokr_w2_b": torch.eye(2).double()}, 3 / 2 * kron),
        ({"lokr_w1_a": small, "lokr_w1_b": torch.eye(2).double(), "lokr_w2": large}, 3 / 2 * kron),
        ({"lora_up.weight": up, "lora_down.weight": down, "dora_scale": lengths},
         torch.stack([merged[:, j] * lengths[0, j] / merged[:, j].norm() for j in range(4)], dim=1) - weight),
    ]
    for content, expected in cases:
        content = {f"{LYCORIS}.{name}": tensor for name, tensor in content.items()}
        add = formats.delta_fn(written(tmp_path, {**content, f"{LYCORIS}.alpha": torch.tensor(3.0)}))
        found = add(Q, weight)
        assert found is not None
        assert deviation(found, expected) <= FP64
        assert deviation(found * (1 + 10 * FP64), expected) > FP64
        assert add(Q.replace("0", "1"), weight) is None


def test_own_files_ignore_settings(tmp_path: Path) -> None:
    """Settings of another adapter in the same folder would make a LoKR of two whole blocks four times as strong."""
    tensors = {f"{LYCORIS}.{name}": tensor for name, tensor in {
        "lokr_w1": numbers(3, 2), "lokr_w2": numbers(2, 2), "alpha": torch.tensor(64.0)}.items()}
    stray = {"r": 16, "lora_alpha": 32}
    assert scale(read(written(tmp_path, tensors, {METADATA_KEY: "{}"}, **stray))) == 1
    assert scale(read(written(tmp_path, tensors, **stray))) == 1


@pytest.mark.parametrize(("config", "why"), [
    ({"r": 7, "peft_type": "LORA"}, "says rank 7"), ({"r": RANK, "peft_type": "LOKR"}, "is a LORA"),
    ({"r": RANK, "target_modules": ["v_proj"]}, "not among its target_modules"),
    ({"r": RANK, "target_modules": ["q_proj", "v_proj"]}, "says v_proj"),
])
def test_settings_of_another_adapter_are_named(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    path = written(tmp_path, lora(alpha=torch.tensor(2.0)), lora_alpha=2, use_rslora=True, **config)
    content = read(path)
    assert scale(content) == 1.0
    assert why in content.notice


@pytest.mark.parametrize("setting", ["kasa_config", "use_qalora", "alora_invocation_tokens"])
def test_other_arithmetic_is_named(tmp_path: Path, setting: str) -> None:
    path = written(tmp_path, lora(), r=RANK, lora_alpha=2, **{setting: [1]})
    with pytest.raises(AdapterError, match="a kind that is not read"):
        read(path)


def test_delta_fn_multiplies_factors(tmp_path: Path) -> None:
    add = formats.delta_fn(written(tmp_path, lora(alpha=torch.tensor(3.0))))
    found = add(Q, torch.zeros(OUT, IN))
    assert found is not None
    assert torch.equal(found, 1.5 * (numbers(OUT, RANK, seed=1) @ numbers(RANK, IN)))
    assert add("layers.1.self_attn.q_proj", torch.zeros(OUT, IN)) is None
