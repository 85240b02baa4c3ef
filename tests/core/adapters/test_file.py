"""Adapter files: strength 1.0 is what was trained, or there is no file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters.algorithm import TrainedDelta, check_belongs
from sidestep_core.adapters.file import Adapter, content_fingerprint, holds_facts, open_adapter, publish, write
from sidestep_core.adapters.formats import delta_fn
from sidestep_core.adapters.proof import DeltaFn, Proof, prove
from sidestep_core.errors import AdapterError
from sidestep_core.io import atomic, strict_json
from sidestep_core.io.tensors import read_metadata, write_tensors
from tests.tolerance import EFFECT

RANK, ALPHA = 3, 6.0
MODULES = ("layers.0.self_attn.q_proj", "layers.1.cross_attn.o_proj")
FACTS = {"checkpoint": "abc", "variant": "turbo", "trigger_word": "zxq", "steps": 7, "train": {"seed": 42}}

Tensors = dict[str, Tensor]


def tensors() -> Tensors:
    random = torch.Generator().manual_seed(0)
    content: Tensors = {}
    for module in MODULES:
        content[f"base_model.model.{module}.lora_A.weight"] = torch.randn(RANK, 5, generator=random)
        content[f"base_model.model.{module}.lora_B.weight"] = torch.randn(4, RANK, generator=random)
        content[f"base_model.model.{module}.alpha"] = torch.tensor(ALPHA)
    return content


def live(size: float = 1.0) -> list[TrainedDelta]:
    """Deltas of the trained adapter, computed by hand."""
    content = tensors()
    return [TrainedDelta(module=module, weight=torch.zeros(4, 5), delta=size * ALPHA / RANK
                   * content[f"base_model.model.{module}.lora_B.weight"]
                   @ content[f"base_model.model.{module}.lora_A.weight"]) for module in MODULES]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "a.safetensors", tensors(), FACTS)
    return tmp_path / "a.safetensors"


def test_written_file_is_proven(path: Path) -> None:
    proof = prove(path, live(), delta_fn)
    assert (proof.matched, proof.total) == (2, 2)
    assert abs(proof.effect - 1) < EFFECT
    assert proof.error < EFFECT


def test_facts_are_in_the_file(path: Path) -> None:
    assert open_adapter(path) == Adapter(path=path, checkpoint="abc", variant="turbo", trigger_word="zxq", steps=7)
    metadata = read_metadata(path)
    assert json.loads(metadata["sidestep"]) == FACTS


def test_old_trigger_word_is_read(tmp_path: Path) -> None:
    write(tmp_path / "old.safetensors", tensors(), {"tag": "zxq"})
    assert open_adapter(tmp_path / "old.safetensors").trigger_word == "zxq"


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda content: {name: tensor for name, tensor in content.items() if part not in name}


def scaled(factor: float) -> Callable[[Tensors], Tensors]:
    return lambda content: {name: tensor * factor if "lora_B" in name else tensor for name, tensor in content.items()}


def one_weight_off(content: Tensors) -> Tensors:
    content[f"base_model.model.{MODULES[1]}.lora_B.weight"][2, 1] *= 1.01
    return content


def one_weight_lost(content: Tensors) -> Tensors:
    content[f"base_model.model.{MODULES[1]}.lora_B.weight"][2, 1] = float("nan")
    return content


@pytest.mark.parametrize(("change", "message"), [
    (without(".alpha"), r"does not say its alpha"),
    (without(f"{MODULES[0]}.alpha"), r"does not say its alpha"),
    (without("lora_A"), r"is incomplete"),
    (without(MODULES[1]), r"found 1 of 2 modules"),
    (scaled(0.5), r"gives 0\.500 of the trained effect"),
    (scaled(-1.0), r"gives -1\.000 of the trained effect"),
    (scaled(1.002), r"gives 1\.002 of the trained effect"),
    (one_weight_off, r"largest deviation \d\.\de-0[1-4]"),
    (one_weight_lost, r"is damaged"),
], ids=["no alpha", "one alpha lost", "no A", "one module lost", "half", "negative", "louder", "one weight", "nan"])
def test_altered_file_fails_the_proof(path: Path, change: Callable[[Tensors], Tensors], message: str) -> None:
    write_tensors(path, change(tensors()))
    with pytest.raises(AdapterError, match=message):
        prove(path, live(), delta_fn)


def test_loader_without_alpha_fails(path: Path) -> None:
    """Scale 1, as every program takes for files without alpha."""
    def load(file: Path) -> DeltaFn:
        found_by = delta_fn(file)

        def ignoring_alpha(module: str, weight: Tensor) -> Tensor | None:
            found = found_by(module, weight)
            return None if found is None else found / (ALPHA / RANK)

        return ignoring_alpha

    with pytest.raises(AdapterError, match=r"gives 0\.500 of the trained effect"):
        prove(path, live(), load)


def test_untrained_module_adds_nothing(path: Path) -> None:
    silent = live()
    silent[1] = TrainedDelta(module=MODULES[1], weight=silent[1].weight, delta=torch.zeros(4, 5))
    with pytest.raises(AdapterError, match="not usable"):
        prove(path, silent, delta_fn)
    content = tensors()
    content[f"base_model.model.{MODULES[1]}.lora_B.weight"].zero_()
    write_tensors(path, content)
    assert prove(path, silent, delta_fn).error < EFFECT


def test_nan_is_not_proven(path: Path) -> None:
    with pytest.raises(AdapterError, match="not usable"):
        prove(path, live(size=float("nan")), delta_fn)


def test_zero_delta_is_not_proven(path: Path) -> None:
    write_tensors(path, scaled(0.0)(tensors()))
    with pytest.raises(AdapterError, match=r"changes nothing.*adds to its 2 modules is zero.*Train for more"):
        prove(path, live(size=0.0), delta_fn)


@pytest.mark.parametrize(("part", "change"), [
    ("lora_A.weight", lambda tensor: tensor[:2]), ("alpha", lambda tensor: 2 * tensor),
    ("lora_B.weight", None), ("alpha", None)])
def test_foreign_tensors_are_named(part: str, change: Callable[[Tensor], Tensor] | None) -> None:
    name = f"base_model.model.{MODULES[1]}.{part}"
    other = tensors()
    tensor = other.pop(name)
    if change is not None:
        other[name] = change(tensor)
    check_belongs(tensors(), tensors())
    with pytest.raises(AdapterError, match=f"{re.escape(name)} is .* this run needs"):
        check_belongs(other, tensors())
    with pytest.raises(AdapterError, match="lora_C.*this run has nothing of that name"):
        check_belongs({**tensors(), "layers.0.lora_C": tensor}, tensors())


def test_publishing_never_overwrites(tmp_path: Path) -> None:
    target = tmp_path / "loras" / "my song.v2.safetensors"
    contents = [b"first", b"second", b"third"]
    places = []
    for content in contents:
        (tmp_path / "source").write_bytes(content)
        places.append(publish(tmp_path / "source", target))
    assert [place.name for place in places] == [
        "my song.v2.safetensors", "my song.v2-2.safetensors", "my song.v2-3.safetensors"]
    assert [place.read_bytes() for place in places] == contents
    places[0].unlink()
    (tmp_path / "source").write_bytes(b"fourth")
    assert publish(tmp_path / "source", target) == places[0]
    assert [place.read_bytes() for place in places] == [b"fourth", b"second", b"third"]


def test_equal_adapters_give_equal_files(tmp_path: Path) -> None:
    for number in range(8):
        write(tmp_path / f"{number}.safetensors", tensors(), {"steps": 3, "trigger_word": "x"})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_equal_content_is_published_once(path: Path, tmp_path: Path) -> None:
    """A run that is stopped twice after the same step leaves one adapter of it."""
    target = tmp_path / "loras" / "a.safetensors"
    assert publish(path, target) == publish(path, target) == target
    assert [file.name for file in target.parent.iterdir()] == ["a.safetensors"]


def test_foreign_handle_has_only_path(tmp_path: Path) -> None:
    write_tensors(tmp_path / "theirs.safetensors", tensors(), {"ss_network_dim": "16"})
    assert open_adapter(tmp_path / "theirs.safetensors") == Adapter(path=tmp_path / "theirs.safetensors")


@pytest.mark.parametrize("content", [b"", b"a text file", b"PK\x03\x04" + bytes(100), b"\x80\x02pickle", bytes(50)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "wrong.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match=r"wrong\.safetensors is damaged or not a safetensors file"):
        open_adapter(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("missing", [1, 60, 400])
def test_truncated_file_is_refused(path: Path, missing: int) -> None:
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(AdapterError, match=r"a\.safetensors is damaged"):
        open_adapter(path)


@pytest.mark.parametrize("facts", ["{", "[1]", "null"])
def test_damaged_metadata_is_named(path: Path, facts: str) -> None:
    write_tensors(path, tensors(), {"sidestep": facts})
    with pytest.raises(AdapterError, match=r"a\.safetensors is damaged"):
        open_adapter(path)


@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.bin", "a.txt"])
def test_executable_formats_are_refused(tmp_path: Path, name: str) -> None:
    torch.save(tensors(), tmp_path / name)
    with pytest.raises(AdapterError, match=rf"{name} is not a safetensors file.*convert it"):
        open_adapter(tmp_path / name)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"There is no adapter file .*gone\.safetensors"):
        open_adapter(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("proof", [None, Proof(matched=2, total=2, effect=1.0, error=1e-7)])
def test_handle_json_round_trip(proof: Proof | None, tmp_path: Path) -> None:
    adapter = Adapter(path=tmp_path / "a.safetensors", checkpoint="abc", variant="sft", trigger_word="zxq", steps=7,
                      heldout_first=1.5, heldout_last=1.25, measured_on="trained", proof=proof)
    atomic.write_json(tmp_path / "handle.json", adapter.to_json())
    assert Adapter.from_json(strict_json.read(tmp_path / "handle.json")) == adapter


def test_fingerprint_covers_every_byte(path: Path) -> None:
    before = content_fingerprint(path)
    assert content_fingerprint(path) == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert content_fingerprint(path) != before


def test_file_with_facts_is_known(tmp_path: Path) -> None:
    write(tmp_path / "ours.safetensors", tensors(), FACTS)
    write_tensors(tmp_path / "foreign.safetensors", tensors(), {"ss_tag": "sidestep"})
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 20)
    (tmp_path / "empty.safetensors").touch()
    known = [path.name for path in sorted(tmp_path.iterdir()) if holds_facts(path)]
    assert known == ["ours.safetensors"]
    assert not holds_facts(tmp_path / "gone.safetensors")
