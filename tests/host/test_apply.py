"""ApplyAdapter in the real host: partial is said, nothing and wrong widths are refused, several add up."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import effect
from benchmarks._layouts import ROWS, Row
from benchmarks._writers import Made, lycoris, peft
from sidestep_core.io.tensors import read_tensors, write_tensors
from tests.host.pack import pack_module
from tests.tolerance import FP32


@pytest.fixture(scope="module")
def model(comfy: ModuleType) -> Any:
    return effect.host_model("2B")


@pytest.fixture(scope="module")
def base(model: Any) -> dict[str, Tensor]:
    return effect.decoder_weights(model)


@pytest.fixture(scope="module")
def made(base: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return peft(tmp_path_factory.mktemp("peft"), base)


def patch(model: Any, path: Path, strength: float = 1.0, alpha: float = 0.0) -> tuple[Any, int, int]:
    found: tuple[Any, int, int] = pack_module("nodes.host.models").patch(model, path, strength, alpha)
    return found


def refused(message: str) -> Any:
    return pytest.raises(pack_module("sidestep_core.errors").AdapterError, match=message)


def changed(made: Made, folder: Path, change: Any) -> Path:
    """A folder with the same settings and other tensors."""
    write_tensors(folder / made.path.name, dict(change(read_tensors(made.path))))
    (folder / "adapter_config.json").write_bytes((made.path.parent / "adapter_config.json").read_bytes())
    return folder / made.path.name


def test_base_model_stays_unchanged(model: Any, base: dict[str, Tensor], made: Made) -> None:
    patched, *_ = patch(model, made.path)
    assert effect.applied(patched).keys() == base.keys()
    assert all(tensor.equal(base[name]) for name, tensor in effect.applied(model).items())
    assert model.patches == {}


def test_unused_modules_are_reported(model: Any, base: dict[str, Tensor], made: Made, tmp_path: Path,
                                     caplog: pytest.LogCaptureFixture) -> None:
    def change(tensors: dict[str, Tensor]) -> Any:
        for name, tensor in tensors.items():
            yield name.replace("layers.1.", "layers.7."), tensor
        yield "base_model.model.encoder.lyric_encoder.layers.0.self_attn.q_proj.lora_A.weight", torch.ones(4, 64)

    path = changed(made, tmp_path, change)
    with caplog.at_level(logging.WARNING):
        patched, matched, total = patch(model, path)
    assert (matched, total) == (8, 17)
    assert "8 of 17 modules matched. 9 not used: layers.7." in caplog.text
    after = effect.applied(patched)
    assert after["layers.1.self_attn.q_proj"].equal(base["layers.1.self_attn.q_proj"])
    assert not after["layers.0.self_attn.q_proj"].equal(base["layers.0.self_attn.q_proj"])


def test_whole_adapter_gives_no_warning(model: Any, made: Made, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        patch(model, made.path)
    assert caplog.text == ""


def test_no_match_is_an_error(model: Any, made: Made, tmp_path: Path) -> None:
    path = changed(made, tmp_path, lambda tensors: ((name.replace("layers.", "blocks."), tensor)
                                                    for name, tensor in tensors.items()))
    with refused(r"0 of 16 modules matched\. It has base_model\.model\.blocks\.0"):
        patch(model, path)


@pytest.mark.parametrize("row", ["A  PEFT folder", "R  DoRA, PEFT", "T  LoKR, w2 in factors", "-- LoHA",
                                 "S  DoRA, baked"])
@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_other_width_is_an_error(model: Any, row: str, strength: float, tmp_path: Path) -> None:
    other = ROWS[row](tmp_path, effect.decoder_weights(effect.host_model("XL")))
    with refused(r"another size: layers\.\d\.\w+_attn\.[qkvo]_proj is \d+ x \d+ there and \d+ x \d+ in the model"):
        patch(model, other.path, strength)


def test_one_wrong_width_fails(model: Any, made: Made, tmp_path: Path) -> None:
    """Half an adapter would be another sound."""
    def change(tensors: dict[str, Tensor]) -> Any:
        for name, tensor in tensors.items():
            yield name, tensor.repeat(1, 2) if "layers.1.cross_attn.o_proj.lora_A" in name else tensor

    with refused(r"layers\.1\.cross_attn\.o_proj is 64 x 128 there and 64 x 64 in the model. 15 of 16"):
        patch(model, changed(made, tmp_path, change))


def test_stacked_adapters_add_up(model: Any, base: dict[str, Tensor], tmp_path: Path) -> None:
    """In any order, also with a DoRA, which is made for the weight as it was, and with the host's own node."""
    import comfy.sd

    dora = ROWS["R  DoRA, PEFT"](tmp_path / "dora", base)
    lora = ROWS["C  Side-Step native"](tmp_path / "lora", base)
    lokr = ROWS["T  LoKR, w2 in factors"](tmp_path / "lokr", base)
    first, *_ = patch(model, lora.path, 0.5)
    first, _ = comfy.sd.load_lora_for_models(first, None, read_tensors(lora.path), 0.25, 0.0)
    second, *_ = patch(first, dora.path, 0.8)
    third, *_ = patch(second, lokr.path, -1.5)
    after = effect.applied(third)
    for module, weight in base.items():
        if module in dora.truth:
            wanted = 0.75 * lora.truth[module] + 0.8 * dora.truth[module] - 1.5 * lokr.truth[module]
            found = after[module].double() - weight.double()
            assert (found - wanted).abs().max() <= FP32 * wanted.abs().max()
    assert effect.compare(effect.applied(first), base, lora, 0.75)[0] <= FP32


def test_strength_zero_equals_base(model: Any, base: dict[str, Tensor], made: Made) -> None:
    patched, matched, total = patch(model, made.path, 0.0)
    assert matched == total == 16
    assert patched.patches == {}


@pytest.mark.parametrize("strength", [-3.0, 1e-3, 40.0])
def test_finite_strengths_are_applied(model: Any, base: dict[str, Tensor], made: Made, strength: float) -> None:
    patched, *_ = patch(model, made.path, strength)
    assert effect.compare(effect.applied(patched), base, made, strength)[0] <= max(FP32, 1e-7 / abs(strength))


@pytest.mark.parametrize("strength", [math.nan, math.inf])
def test_other_strengths_are_refused(model: Any, made: Made, strength: float) -> None:
    with refused(r"strength is (nan|inf)"):
        patch(model, made.path, strength)


def test_missing_alpha_comes_from_input(model: Any, base: dict[str, Tensor], made: Made, tmp_path: Path) -> None:
    write_tensors(tmp_path / "theirs.safetensors", read_tensors(made.path))
    with refused(r"theirs\.safetensors does not say its alpha.*adapter_config\.json.*apply the adapter"):
        patch(model, tmp_path / "theirs.safetensors")
    patched, *_ = patch(model, tmp_path / "theirs.safetensors", alpha=8.0)
    assert effect.compare(effect.applied(patched), base, made, 1.0)[0] <= FP32
    with refused(r"already has its own alpha, so alpha 8 has no use"):
        patch(model, made.path, alpha=8.0)


NEGATIVE: dict[str, Row] = {
    "peft": lambda folder, base: peft(folder, base, lora_alpha=-8),
    "peft-rslora-pattern": lambda folder, base: peft(folder, base, use_rslora=True, alpha_pattern={"q_proj": -3.0}),
    "lora": lambda folder, base: lycoris(folder, base, "lora", alpha=-8.0),
    "lokr": lambda folder, base: lycoris(folder, base, "lokr", alpha=-8.0, factor=4),
    "loha": lambda folder, base: lycoris(folder, base, "loha", alpha=-8.0),
    "glora": lambda folder, base: lycoris(folder, base, "glora", alpha=-8.0),
}


@pytest.mark.parametrize("row", NEGATIVE)
def test_negative_alpha_works_as_written(model: Any, base: dict[str, Tensor], row: str, tmp_path: Path) -> None:
    made = NEGATIVE[row](tmp_path, base)
    patched, matched, total = patch(model, made.path)
    assert matched == total == 16
    assert effect.compare(effect.applied(patched), base, made, 1.0)[0] <= FP32


@pytest.mark.parametrize("alpha", [0.0, math.inf, math.nan])
def test_invalid_alpha_is_refused(model: Any, made: Made, tmp_path: Path, alpha: float) -> None:
    def change(tensors: dict[str, Tensor]) -> Any:
        yield from tensors.items()
        yield "base_model.model.layers.1.self_attn.q_proj.alpha", torch.tensor(alpha)

    with refused(r"layers\.1\.self_attn\.q_proj.*alpha.*(0\.0|inf|nan)"):
        patch(model, changed(made, tmp_path, change))


def test_metadata_reaches_the_model(model: Any, base: dict[str, Tensor], tmp_path: Path) -> None:
    made = ROWS["Z' LoKR, rsLoRA, both whole"](tmp_path, base)
    patched, *_ = patch(model, made.path)
    assert patched.get_attachment("lora_metadata")["format"] == "lycoris"


def test_lists_include_peft_folders(comfy: ModuleType, made: Made, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    folders = pack_module("nodes.host.folders")
    for place in ("mine", "deep/theirs"):
        (tmp_path / place).mkdir(parents=True)
        changed(made, tmp_path / place, lambda tensors: tensors.items())
    write_tensors(tmp_path / "plain.safetensors", read_tensors(made.path))
    monkeypatch.setitem(folders.folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    assert set(folders.adapter_choices()) == {
        "plain.safetensors", "mine/adapter_model.safetensors", "deep/theirs/adapter_model.safetensors", "mine/",
        "deep/theirs/"}
    assert folders.adapter_path("deep/theirs/") == tmp_path / "deep/theirs/adapter_model.safetensors"
    for gone in ("../", "nothing/", "nothing.safetensors"):
        with refused("is not in ComfyUI's LoRA folders"):
            folders.adapter_path(gone)
