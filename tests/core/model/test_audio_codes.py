"""Audio codes and their latents match the official model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core import rng
from sidestep_core.errors import CheckpointError
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model import audio_codes as codes_file
from sidestep_core.model.audio_codes import LEVELS, AudioCodec, load_audio_codec
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.weights import Weights
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
GEOMETRY = Geometry()
SILENCE = torch.randn(5, 64, generator=rng.generator("silence"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    paths = write_tiny_models(tmp_path_factory.mktemp("codes"), GEOMETRY, dtype=torch.float32)
    return Weights.open([paths.model])


@pytest.fixture(scope="module")
def ours(weights: Weights) -> AudioCodec:
    return load_audio_codec(weights, CPU)


def tensors_of(weights: Weights) -> dict[str, Tensor]:
    return {name: weights.tensor(name, torch.float32, CPU).clone() for name in weights.names}


@pytest.fixture(scope="module")
def theirs(weights: Weights) -> tuple[nn.Module, nn.Module]:
    """Load diffusers' tokenizer and detokenizer, equal to the official ones."""
    from diffusers.pipelines.ace_step.modeling_ace_step import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer

    sizes = {"hidden_size": GEOMETRY.encoder_hidden, "intermediate_size": 3 * GEOMETRY.encoder_hidden,
             "num_attention_heads": GEOMETRY.encoder_heads, "num_key_value_heads": GEOMETRY.kv_heads,
             "head_dim": GEOMETRY.head_dim}
    tokenizer = AceStepAudioTokenizer(fsq_dim=GEOMETRY.encoder_hidden, **sizes).eval()
    detokenizer = AceStepAudioTokenDetokenizer(**sizes).eval()
    attention = {f".{part}_proj": f".to_{part}" for part in "qkv"} | {".q_norm": ".norm_q", ".k_norm": ".norm_k",
                                                                     ".o_proj": ".to_out.0"}
    for model, prefix in ((tokenizer, "tokenizer."), (detokenizer, "detokenizer.")):
        state = tensors_of(weights.under(prefix))
        for name, other in attention.items():
            state = {key.replace(f"self_attn{name}.", f"self_attn{other}."): value for key, value in state.items()}
        model.load_state_dict(state)
    return tokenizer, detokenizer


def song(frames: int) -> Tensor:
    return 2 * torch.randn(frames, 64, generator=rng.generator("codes", frames))


@pytest.mark.parametrize("frames", [5, 100, 101, 2999, 3004])
@torch.no_grad()
def test_codec_matches_official(ours: AudioCodec, theirs: tuple[nn.Module, nn.Module], frames: int) -> None:
    quantised, indices = theirs[0].tokenize(song(frames)[None], SILENCE[None])
    found = ours.encode(song(frames), SILENCE)
    assert torch.equal(found, indices[0, :, 0])
    assert len(found) == -(-frames // 5)
    expected = theirs[1](quantised)[0]
    assert deviation(ours.decode(found), expected) < FP32
    assert deviation(ours.decode(found) * (1 + PERTURBED), expected) > FP32


@torch.no_grad()
def test_code_vectors_match_official(ours: AudioCodec, theirs: tuple[nn.Module, nn.Module]) -> None:
    every = torch.arange(8 * 8 * 8 * 5 * 5 * 5).split(7000)[3]
    expected = theirs[1](theirs[0].quantizer.get_output_from_indices(every[None, :, None]))[0]
    assert deviation(ours.decode(every), expected) < FP32
    assert deviation(ours.decode(every + 1), expected) > PERTURBED


@torch.no_grad()
def test_second_tanh_changes_codes(ours: AudioCodec) -> None:
    """ComfyUI's quantiser does so; proves that the test above can fail."""
    whole = song(500).unflatten(0, (-1, 5))
    quantizer = ours.tokenizer.quantizer
    pooled = ours.tokenizer.attention_pooler(ours.tokenizer.audio_acoustic_proj(whole))
    reach = 1 + 1 / (torch.tensor(LEVELS) - 1)
    twice = ((quantizer.project_in(pooled) / reach).tanh() * reach).tanh()
    digits = ((torch.tensor(LEVELS) - 1) * (twice + 1) / 2 + 0.5).floor().long()
    assert (digits != quantizer.digits(pooled)).any(dim=1).float().mean() > 0.5


def test_codes_are_independent(ours: AudioCodec) -> None:
    changed = song(100).clone()
    changed[37] += 3
    assert (ours.encode(changed, SILENCE) != ours.encode(song(100), SILENCE)).nonzero().flatten().tolist() == [37 // 5]


def test_aligned_crop_has_same_codes(ours: AudioCodec) -> None:
    whole, window = ours.encode(song(100), SILENCE), ours.encode(song(100)[35:60], SILENCE)
    assert torch.equal(window, whole[7:12])
    assert not torch.equal(ours.encode(song(100)[36:61], SILENCE), whole[7:12])
    assert deviation(ours.decode(window), ours.decode(whole)[35:60]) < FP32


def test_last_code_is_padded(ours: AudioCodec) -> None:
    filled = torch.cat((song(101), SILENCE[:4]))
    assert torch.equal(ours.encode(song(101), SILENCE), ours.encode(filled, SILENCE))
    assert not torch.equal(ours.encode(song(101), SILENCE), ours.encode(song(101), SILENCE + 5))


def test_batch_size_changes_nothing(ours: AudioCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    together = ours.encode(song(200), SILENCE)
    latents = ours.decode(together)
    monkeypatch.setattr(codes_file, "CODES_PER_BATCH", 7)
    assert torch.equal(ours.encode(song(200), SILENCE), together)
    assert deviation(ours.decode(together), latents) < FP32


def without(checkpoint: Checkpoint, path: Path, start: str) -> Weights:
    tensors = {name: tensor for name, tensor in read_tensors(checkpoint.model[0]).items() if not name.startswith(start)}
    write_tensors(path, tensors)
    return Weights.open([path])


@pytest.mark.parametrize("part", ["tokenizer.", "detokenizer."])
def test_missing_tokenizer_is_named(checkpoint: Checkpoint, tmp_path: Path, part: str) -> None:
    with pytest.raises(CheckpointError, match=rf"slim\.safetensors has no weight '{part}.*without its audio tokenizer"):
        load_audio_codec(without(checkpoint, tmp_path / "slim.safetensors", part), CPU)


@pytest.mark.parametrize(("name", "shape", "message"), [
    ("detokenizer.special_tokens", (1, 4, 64), "has 4 frames, not 5"),
    ("tokenizer.quantizer.project_in.weight", (7, 64), "have 7 digits, not 6"),
])
def test_other_codes_are_refused(checkpoint: Checkpoint, tmp_path: Path, name: str, shape: tuple[int, ...],
                                 message: str) -> None:
    path = tmp_path / "other.safetensors"
    write_tensors(path, {**read_tensors(checkpoint.model[0]), name: torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=message):
        load_audio_codec(Weights.open([path]), CPU)
