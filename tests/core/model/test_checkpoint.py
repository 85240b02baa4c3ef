"""Every layout opens to the same model; anything else is refused with its name and the right choice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from demo.synthetic_model import (
    XL_LIKE,
    Geometry,
    TinyPaths,
    diffusers_vae,
    write_tiny_all_in_one,
    write_tiny_models,
    write_tiny_official,
)  # fmt: skip
from sidestep_core.errors import CheckpointError
from sidestep_core.io import strict_json
from sidestep_core.io.atomic import write_json
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint, _size, open_checkpoint
from sidestep_core.model.weights import Weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> TinyPaths:
    """Files that tests must not change."""
    return write_tiny_models(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> TinyPaths:
    """Files that tests must not change."""
    return write_tiny_official(tmp_path_factory.mktemp("official"))


def open_split(paths: TinyPaths) -> Checkpoint:
    return open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)


def same_tensors(first: Weights, second: Weights) -> bool:
    return first.names == second.names and all(
        torch.equal(first.tensor(name, torch.float32, CPU), second.tensor(name, torch.float32, CPU))
        for name in first.names
    )


def rewrite(path: Path, target: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Copy a safetensors file with other tensors."""
    write_tensors(target, change(read_tensors(path)))
    return target


def test_layouts_have_equal_weights(tmp_path: Path, split: TinyPaths, official: TinyPaths) -> None:
    expected = open_split(split)
    sharded = write_tiny_official(tmp_path / "sharded", sharded=True)
    shard = sharded.model / "model-00001-of-00002.safetensors"
    layouts = [
        open_checkpoint(write_tiny_all_in_one(tmp_path).model),
        open_checkpoint(official.model),
        open_checkpoint(official.model / "model.safetensors"),
        open_checkpoint(sharded.model),
        open_checkpoint(shard),
        open_checkpoint(official.model, text_encoder=split.text_encoder, vae=split.vae),
        open_checkpoint(split.model, text_encoder=official.text_encoder, vae=official.vae),
    ]
    for checkpoint in layouts:
        assert same_tensors(checkpoint.model_weights(), expected.model_weights())
        assert same_tensors(checkpoint.text_encoder_weights(), expected.text_encoder_weights())
        assert checkpoint.variant == "turbo"
        assert checkpoint.size == "64x2"
    assert "embed_tokens.weight" in expected.text_encoder_weights().names
    assert "null_condition_emb" in expected.model_weights().names


def test_known_prefixes_are_found(tmp_path: Path, split: TinyPaths) -> None:
    expected = open_split(split).model_weights()
    for prefix in ("model.", "net.", "diffusion_model."):
        path = tmp_path / f"{prefix}turbo.safetensors"
        rewrite(split.model, path, lambda tensors, prefix=prefix: {prefix + name: x for name, x in tensors.items()})
        checkpoint = open_split(replace(split, model=path))
        assert checkpoint.model_prefix == prefix
        assert same_tensors(checkpoint.model_weights(), expected)


def test_official_folder(tmp_path: Path, official: TinyPaths) -> None:
    paths = write_tiny_official(tmp_path, name="acestep-v15-base", is_turbo=False)
    config = strict_json.read(paths.model / "config.json") | {"timestep_mu": 0.25, "timestep_sigma": 2}
    write_json(paths.model / "config.json", config)
    checkpoint = open_checkpoint(paths.model)
    assert checkpoint.name == "acestep-v15-base"
    assert checkpoint.variant == "base"
    assert (checkpoint.timestep_mu, checkpoint.timestep_sigma) == (0.25, 2.0)
    assert checkpoint.silence_latent == paths.model / "silence_latent.pt"
    assert checkpoint.vae == paths.vae / "diffusion_pytorch_model.safetensors"


def test_split_model(split: TinyPaths) -> None:
    checkpoint = open_split(split)
    assert checkpoint.name == "acestep_v1.5_tiny_turbo"
    assert (checkpoint.timestep_mu, checkpoint.timestep_sigma) == (-0.4, 1.0)
    assert checkpoint.silence_latent is None


def test_sibling_silence_latent_is_found(tmp_path: Path) -> None:
    paths = write_tiny_official(tmp_path)
    (paths.model / "silence_latent.pt").rename(tmp_path / "silence_latent.pt")
    assert open_checkpoint(paths.model).silence_latent == tmp_path / "silence_latent.pt"


@pytest.mark.parametrize("value", ["-0.4", True, None])
def test_bad_timestep_is_refused(tmp_path: Path, value: object) -> None:
    paths = write_tiny_official(tmp_path)
    write_json(paths.model / "config.json", strict_json.read(paths.model / "config.json") | {"timestep_mu": value})
    with pytest.raises(CheckpointError, match="timestep_mu in config.json must be a number"):
        open_checkpoint(paths.model)


VARIANTS: list[tuple[str, dict[str, Any], str | None, str]] = [
    # file or folder name, config.json, chosen -> variant
    ("acestep_v1.5_turbo", {}, None, "turbo"),
    ("acestep_v1.5_xl_sft_bf16", {}, None, "sft"),
    ("acestep-v15-base", {}, None, "base"),
    ("acestep-v15-turbo-shift3", {}, None, "turbo"),
    ("my tune", {}, "sft", "sft"),
    ("my-turbo-tune", {}, "base", "base"),
    ("my tune", {"is_turbo": True}, None, "turbo"),
    ("acestep-v15-base", {"is_turbo": True}, None, "turbo"),
    ("acestep-v15-sft", {"is_turbo": False}, None, "sft"),
    ("my tune", {"is_turbo": False, "model_version": "base"}, None, "base"),
    ("my tune", {"model_version": "xl_sft"}, None, "sft"),
    ("my tune", {"is_turbo": False}, "sft", "sft"),
    ("my tune", {"is_turbo": True}, "turbo", "turbo"),
]


def folder_named(tmp_path: Path, official: TinyPaths, name: str, config: dict[str, Any]) -> Path:
    """Copy the official model under another name, with another config.json."""
    folder = tmp_path / name
    shutil.copytree(official.model, folder)
    write_json(folder / "config.json", config)
    return folder


@pytest.mark.parametrize(("name", "config", "chosen", "expected"), VARIANTS)
def test_variant(
    tmp_path: Path, official: TinyPaths, name: str, config: dict[str, Any], chosen: Any, expected: str
) -> None:
    folder = folder_named(tmp_path, official, name, config)
    checkpoint = open_checkpoint(folder, text_encoder=official.text_encoder, vae=official.vae, variant=chosen)
    assert checkpoint.variant == expected


@pytest.mark.parametrize(
    ("name", "config", "chosen", "message"),
    [
        ("my tune", {}, None, "does not say whether it is turbo, base or sft"),
        ("turbonized_basement", {}, None, "does not say"),
        ("turbo_base_merge", {}, None, "does not say"),
        ("acestep-turbo", {"is_turbo": False}, None, "does not say"),
        ("my tune", {"is_turbo": True}, "base", "is turbo by its config.json, but 'base' was chosen"),
        ("my tune", {"is_turbo": False}, "turbo", "is base or sft by its config.json, but 'turbo'"),
        ("my tune", {"is_turbo": False, "model_version": "sft"}, "base", "is sft by its config.json"),
        ("my tune", {}, "large", "'large' was chosen"),
    ],
)
def test_variant_is_never_guessed(
    tmp_path: Path, official: TinyPaths, name: str, config: dict[str, Any], chosen: Any, message: str
) -> None:
    folder = folder_named(tmp_path, official, name, config)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder, text_encoder=official.text_encoder, vae=official.vae, variant=chosen)


@pytest.mark.parametrize(("width", "layers", "size"), [(2048, 24, "2B"), (2560, 32, "XL"), (2048, 32, "2048x32")])
def test_size(tmp_path: Path, width: int, layers: int, size: str) -> None:
    tensors = {f"decoder.layers.{i}.self_attn_norm.weight": torch.ones(width) for i in range(layers)}
    write_tensors(tmp_path / "model.safetensors", tensors)
    assert _size(Weights.open([tmp_path / "model.safetensors"])) == size


def test_encoder_may_be_narrower(tmp_path: Path) -> None:
    checkpoint = open_split(write_tiny_models(tmp_path, XL_LIKE))
    assert checkpoint.size == "96x3"
    assert checkpoint.model_weights().shape("decoder.condition_embedder.weight") == (96, 64)


def test_fingerprint_ignores_paths(tmp_path: Path, split: TinyPaths) -> None:
    copies = TinyPaths(
        model=shutil.copyfile(split.model, tmp_path / "other turbo.safetensors"),
        text_encoder=shutil.copyfile(split.text_encoder, tmp_path / "b.safetensors"),
        vae=shutil.copyfile(split.vae, tmp_path / "c.safetensors"),
    )
    assert open_split(copies).fingerprint == open_split(split).fingerprint
    all_in_one = open_checkpoint(write_tiny_all_in_one(tmp_path).model)
    assert all_in_one.fingerprint == open_split(split).fingerprint


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("model", "decoder.layers.0.self_attn.q_proj.weight"),
        ("model", "decoder.layers.1.self_attn.q_proj.weight"),
        ("model", "encoder.lyric_encoder.layers.1.self_attn.q_proj.weight"),
        ("model", "null_condition_emb"),
        ("text_encoder", "model.layers.1.self_attn.q_proj.weight"),
        ("text_encoder", "model.embed_tokens.weight"),
        ("vae", "decoder.layers.0.weight_v"),
    ],
)
def test_fingerprint_covers_every_component(tmp_path: Path, split: TinyPaths, part: str, name: str) -> None:
    before = getattr(split, part)
    after = rewrite(before, tmp_path / before.name, lambda tensors: tensors | {name: -tensors[name]})
    assert open_split(replace(split, **{part: after})).fingerprint != open_split(split).fingerprint


def test_fingerprint_covers_dtype_and_shape(tmp_path: Path, split: TinyPaths) -> None:
    half = write_tiny_models(tmp_path / "half", dtype=torch.float16)
    deeper = write_tiny_models(tmp_path / "deeper", Geometry(layers=3))
    assert len({open_split(paths).fingerprint for paths in (split, half, deeper)}) == 3


def renamed(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: torch.zeros(2, 2) for name in names}


STRANGERS = {
    "a LoRA adapter": renamed("base_model.model.layers.0.self_attn.q_proj.lora_A.weight"),
    "a LoKR adapter": renamed("lycoris_layers_0_self_attn_q_proj.lokr_w1"),
    "an ACE-Step 1.5 decoder without its condition encoder": lambda tensors: {
        name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")
    },
    "a Stable Diffusion model": renamed("model.diffusion_model.input_blocks.0.0.weight"),
    "an ACE-Step 1.0 model": renamed("genre_embedder.weight", "speaker_embedder.weight"),
    "no part of ACE-Step 1.5": renamed("x"),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_wrong_model_is_named(tmp_path: Path, split: TinyPaths, what: str) -> None:
    path = rewrite(split.model, tmp_path / "wrong.safetensors", STRANGERS[what])
    with pytest.raises(CheckpointError, match=f"wrong.safetensors is {what}, not an ACE-Step 1.5 model. Choose"):
        open_split(replace(split, model=path))


def test_swapped_components_are_named(split: TinyPaths, official: TinyPaths) -> None:
    for paths, message in (
        (replace(split, model=split.vae), "is an audio VAE, not an ACE-Step 1.5 model"),
        (replace(split, model=split.text_encoder), "is a Qwen3 language model or text encoder, not an ACE"),
        (replace(split, model=official.vae), "vae is an audio VAE, not an ACE-Step 1.5 model"),
        (replace(split, text_encoder=split.vae), "is an audio VAE, not the text encoder. Choose qwen_0.6b"),
        (replace(split, text_encoder=split.model), "is an ACE-Step 1.5 model, not the text encoder"),
        (replace(split, vae=split.model), "is an ACE-Step 1.5 model, not the VAE. Choose ace_1.5_vae"),
        (replace(split, vae=official.text_encoder), "is a Qwen3 language model or text encoder, not the VAE"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_split(paths)


def test_non_weight_files_are_named(tmp_path: Path, split: TinyPaths) -> None:
    gguf = tmp_path / "acestep-turbo.gguf"
    gguf.write_bytes(b"GGUF" + bytes(100))
    text = tmp_path / "notes.txt"
    text.write_text("a song about safetensors", encoding="utf-8")
    cut = tmp_path / "cut_turbo.safetensors"
    cut.write_bytes(split.model.read_bytes()[:-100])
    for path, message in (
        (gguf, "acestep-turbo.gguf is a GGUF file"),
        (text, "notes.txt is not a safetensors file"),
        (cut, "cut_turbo.safetensors is damaged or was cut off"),
        (tmp_path, "holds no model.safetensors"),
        (tmp_path / "gone", "gone does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_split(replace(split, model=path))


def test_missing_components_are_named(tmp_path: Path, split: TinyPaths, official: TinyPaths) -> None:
    with pytest.raises(CheckpointError, match="does not contain the text encoder. Choose qwen_0.6b_ace15.safetensors"):
        open_checkpoint(split.model, vae=split.vae)
    with pytest.raises(CheckpointError, match="does not contain the VAE. Choose ace_1.5_vae.safetensors"):
        open_checkpoint(split.model, text_encoder=split.text_encoder)
    alone = tmp_path / "acestep-v15-turbo"
    shutil.copytree(official.model, alone)
    with pytest.raises(CheckpointError, match="the text encoder and .*Qwen3-Embedding-0.6B does not exist"):
        open_checkpoint(alone)


def test_language_model_is_refused(tmp_path: Path, split: TinyPaths) -> None:
    def with_audio_codes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | {"model.embed_tokens.weight": torch.zeros(217204, 2, dtype=torch.bfloat16)}

    path = rewrite(split.text_encoder, tmp_path / "qwen_1.7b_ace15.safetensors", with_audio_codes)
    with pytest.raises(CheckpointError, match="qwen_1.7b_ace15.safetensors is a language model with 217204 tokens"):
        open_split(replace(split, text_encoder=path))


def test_wrong_text_encoder_width_is_refused(tmp_path: Path, split: TinyPaths) -> None:
    other = write_tiny_models(tmp_path, Geometry(text_hidden=16))
    with pytest.raises(CheckpointError, match="is 16 wide, but .* wants a text encoder 32 wide"):
        open_split(replace(split, text_encoder=other.text_encoder))


@pytest.mark.parametrize("names", ["stable-audio-tools", "diffusers"])
def test_stable_audio_vae_is_refused(tmp_path: Path, split: TinyPaths, names: str) -> None:
    def with_its_strides(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = tensors | {"decoder.layers.2.layers.1.weight_v": torch.zeros(16, 8, 16)}
        return diffusers_vae(tensors) if names == "diffusers" else tensors

    path = rewrite(split.vae, tmp_path / "stable_audio.safetensors", with_its_strides)
    with pytest.raises(CheckpointError, match="stable_audio.safetensors is the VAE of another audio model"):
        open_split(replace(split, vae=path))


def test_bad_config_is_refused(tmp_path: Path) -> None:
    paths = write_tiny_official(tmp_path)
    (paths.model / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="config.json line 1 is not valid JSON"):
        open_checkpoint(paths.model)
