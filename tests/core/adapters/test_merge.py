"""Merging: what adapters change is changed, every other byte is the same, and no file is ever half or overwritten."""

from __future__ import annotations

import json
import math
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor

from demo.synthetic_model import TinyPaths, write_tiny_all_in_one, write_tiny_models, write_tiny_official
from sidestep_core.adapters import merge
from sidestep_core.adapters.merge import Patch
from sidestep_core.errors import AdapterError, CheckpointError, ConfigError
from sidestep_core.io.tensors import TensorFile, read_metadata, read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.progress import Cancelled, Progress
from tests.quantised import STYLES, quantise

CPU = torch.device("cpu")
CHANGED = ("decoder.layers.0.self_attn.q_proj.weight", "decoder.layers.1.cross_attn.o_proj.weight",
           "encoder.lyric_encoder.embed_tokens.weight")
FACTS = {"model": "tiny", "adapters": [{"file": "a.safetensors", "strength": 0.5}]}


def grown(parameter: str, weight: Tensor) -> Tensor:
    assert weight.dtype == torch.float32
    return weight + len(parameter)


PATCH = Patch(parameters=frozenset(CHANGED), apply=grown)


def opened(paths: TinyPaths) -> Checkpoint:
    return open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)


def raw(path: Path) -> dict[str, bytes]:
    file = TensorFile(path)
    return {name: b"".join(file.chunks(name, 1000)) for name in file.stored}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> TinyPaths:
    """Read only."""
    return write_tiny_models(tmp_path_factory.mktemp("split"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_only_changed_weights_differ(tmp_path: Path, dtype: torch.dtype) -> None:
    paths = write_tiny_models(tmp_path, dtype=dtype)
    before = read_tensors(paths.model)
    write_tensors(paths.model, before, {"author": "me"})
    found = merge.merge(opened(paths), PATCH, tmp_path / "out" / "new_turbo.safetensors", FACTS)
    after = read_tensors(found)
    assert list(TensorFile(found).stored) == list(TensorFile(paths.model).stored)
    copied = raw(paths.model)
    for name, content in raw(found).items():
        assert (content == copied[name]) == (name not in CHANGED)
    for name in CHANGED:
        assert after[name].equal(grown(name, before[name].float()).to(dtype))
    metadata = read_metadata(found)
    assert metadata == {"author": "me", "sidestep_merged": json.dumps([FACTS])}


def test_merged_model_opens(tmp_path: Path, split: TinyPaths) -> None:
    source = opened(split)
    found = merge.merge(source, PATCH, tmp_path / "mine_turbo.safetensors", FACTS)
    again = open_checkpoint(found, text_encoder=split.text_encoder, vae=split.vae)
    assert (again.variant, again.size) == (source.variant, source.size)
    assert again.fingerprint != source.fingerprint
    twice = merge.merge(again, PATCH, tmp_path / "twice_turbo.safetensors", {"more": 1})
    assert merge.merged_facts(twice) == [FACTS, {"more": 1}]


def test_all_in_one_stays_one_file(tmp_path: Path) -> None:
    paths = write_tiny_all_in_one(tmp_path)
    found = merge.merge(open_checkpoint(paths.model), PATCH, tmp_path / "new_turbo.safetensors", FACTS)
    before, after = raw(paths.model), raw(found)
    assert {name for name in before if before[name] != after[name]} == {
        f"model.diffusion_model.{name}" for name in CHANGED}
    assert open_checkpoint(found).variant == "turbo"


@pytest.mark.parametrize("sharded", [False, True])
def test_official_folder_becomes_one_file(tmp_path: Path, sharded: bool) -> None:
    paths = write_tiny_official(tmp_path / "official", sharded=sharded)
    source = open_checkpoint(paths.model)
    found = merge.merge(source, PATCH, tmp_path / "mine_turbo.safetensors", FACTS)
    merged = open_checkpoint(found, text_encoder=paths.text_encoder, vae=paths.vae)
    before, after = source.model_weights(), merged.model_weights()
    assert before.names == after.names
    assert all(before.stored_dtype(name) == after.stored_dtype(name) for name in before.names)
    different = {name for name in before.names
                 if not torch.equal(before.tensor(name, torch.float32, CPU), after.tensor(name, torch.float32, CPU))}
    assert different == set(CHANGED)


@pytest.mark.parametrize("style", STYLES)
def test_quantised_model_is_written_bfloat16(tmp_path: Path, style: str) -> None:
    paths = write_tiny_all_in_one(tmp_path)
    prefix = "model.diffusion_model."
    quantise(paths.model, style, prefix)
    source = open_checkpoint(paths.model)
    assert merge.quantised(source)
    found = merge.merge(source, PATCH, tmp_path / "new_turbo.safetensors", FACTS)
    merged = open_checkpoint(found)
    assert not merge.quantised(merged)
    before, after = source.model_weights(), merged.model_weights()
    assert before.names == after.names
    for name in before.names:
        weight = before.tensor(name, torch.float32, CPU)
        expected = grown(name, weight) if name in CHANGED else weight
        assert torch.equal(after.tensor(name, torch.float32, CPU), expected.to(torch.bfloat16).float())
    stored = TensorFile(found).stored
    assert not [name for name in stored if name.startswith(prefix) and name.endswith(("scale", "quant", "fp8"))]
    assert raw(found)["text.layer.weight"] == raw(paths.model)["text.layer.weight"]
    if style == "declared":
        assert json.loads(read_metadata(found)["_quantization_metadata"])["layers"].keys() == {"text.layer"}


def test_whole_model_is_not_quantised(split: TinyPaths) -> None:
    assert not merge.quantised(opened(split))


def test_cancel_leaves_no_file(tmp_path: Path, split: TinyPaths) -> None:
    reports = []

    def stop(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) == 20:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        merge.merge(opened(split), PATCH, tmp_path / "out" / "new_turbo.safetensors", FACTS, report=stop)
    assert list((tmp_path / "out").iterdir()) == []
    assert all(report.stage == "save" and report.step <= report.total for report in reports)


def test_merge_never_overwrites(tmp_path: Path, split: TinyPaths) -> None:
    source, target = opened(split), tmp_path / "mine_turbo.safetensors"
    target.write_text("something else", encoding="utf-8")
    place, done = merge.free_path(source, target, FACTS)
    assert (place.name, done) == ("mine_turbo-2.safetensors", False)
    merge.merge(source, PATCH, place, FACTS)
    assert merge.free_path(source, target, FACTS) == (place, True)
    assert merge.free_path(source, target, {"other": 1}) == (tmp_path / "mine_turbo-3.safetensors", False)
    assert target.read_text(encoding="utf-8") == "something else"


@pytest.mark.parametrize(("name", "expected"), [
    ("mine", "mine_turbo"), ("mine turbo 2", "mine turbo 2"), ("Turbo-mix", "Turbo-mix"), ("turbocharged",
                                                                                        "turbocharged_turbo")])
def test_name_holds_the_variant(name: str, expected: str) -> None:
    assert merge.stem(name, "turbo") == expected


@pytest.mark.parametrize("name", ["base mix", "turbo_base", "sft"])
def test_name_of_other_variant_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"means (base|sft), but the model is turbo"):
        merge.stem(name, "turbo")


@pytest.mark.parametrize(("patch", "message"), [
    (Patch(frozenset(), grown), "every strength is 0"),
    (Patch(frozenset({"encoder.layers.9.q_proj.weight"}), grown), "has no encoder.layers.9.q_proj.weight"),
    (Patch(frozenset(CHANGED), lambda name, weight: weight * math.nan), "is not finite"),
    (Patch(frozenset(CHANGED), lambda name, weight: weight + 1e38), "is too large for F16"),
])
def test_failed_merge_leaves_no_file(tmp_path: Path, patch: Patch, message: str) -> None:
    paths = write_tiny_models(tmp_path / "model", dtype=torch.float16)
    with pytest.raises(AdapterError, match=message):
        merge.merge(opened(paths), patch, tmp_path / "out" / "new_turbo.safetensors", FACTS)
    assert not list((tmp_path / "out").glob("*"))


def test_full_disk_is_checked_first(tmp_path: Path, split: TinyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 (as shutil has it)
    monkeypatch.setattr(merge.shutil, "disk_usage", lambda folder: usage(100, 99, 1))
    with pytest.raises(CheckpointError, match=r"needs \d+\.\d GB and .* has 0\.0 GB free"):
        merge.merge(opened(split), PATCH, tmp_path / "out" / "new_turbo.safetensors", FACTS)
    assert list(tmp_path.iterdir()) == []


def test_damaged_facts_are_named(tmp_path: Path) -> None:
    write_tensors(tmp_path / "odd.safetensors", {"x": torch.ones(1)}, {"sidestep_merged": "{"})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors has damaged metadata"):
        merge.merged_facts(tmp_path / "odd.safetensors")
