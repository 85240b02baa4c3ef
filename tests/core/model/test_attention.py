"""Attention, its windows and its batches match the definition in float64, whichever kernel computes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from sidestep_core.errors import ConfigError
from sidestep_core.model import attention
from sidestep_core.model.attention import (
    DENSE_BELOW,
    WINDOW,
    BlockMask,
    Kernel,
    Ragged,
    additive_mask,
    attend,
    sliding_window,
)
from tests.attention import HEAD_WIDTH, HEADS, KV_HEADS, by_definition, queries_keys_values
from tests.tolerance import FP32, PERTURBED, deviation

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TOKENS = (3, 9, 3)
EDGES = [1, 2, 128, 129, 256, 383, 384, 385, 511, 512, 513, 640]
"""Lengths on both sides of every change of the implementation."""


@pytest.mark.parametrize("length", EDGES)
def test_sliding_window_matches_dense_mask(length: int) -> None:
    query, key, value = queries_keys_values(length)
    found = attend(query, key, value, sliding_window(length, query))
    assert deviation(found, by_definition(query, key, value, WINDOW)) < FP32


@pytest.mark.parametrize("length", [383, 385, 640])
@pytest.mark.parametrize("window", [WINDOW - 1, WINDOW + 1])
def test_other_window_size_differs(length: int, window: int) -> None:
    query, key, value = queries_keys_values(length)
    found = attend(query, key, value, sliding_window(length, query))
    assert deviation(found, by_definition(query, key, value, window)) > PERTURBED


@pytest.mark.parametrize("length", [1, 7, 130])
def test_grouped_queries_match_definition(length: int) -> None:
    query, key, value = queries_keys_values(length)
    found = attend(query, key, value)
    assert deviation(found, by_definition(query, key, value)) < FP32
    assert deviation(found, by_definition(query, key.flip(2), value.flip(2))) > PERTURBED


def test_cross_attention_lengths_may_differ() -> None:
    query, _, _ = queries_keys_values(5)
    _, key, value = queries_keys_values(9)
    assert deviation(attend(query, key, value), by_definition(query, key, value)) < FP32


@pytest.mark.parametrize("length", EDGES)
def test_long_sequences_use_blocks(length: int) -> None:
    assert isinstance(sliding_window(length, torch.zeros(1)), BlockMask) == (length > DENSE_BELOW)


def test_block_gradients_match_dense() -> None:
    length = 400
    gradients = []
    for reference in (False, True):
        inputs = [x.double().requires_grad_() for x in queries_keys_values(length, batch=1)]
        out = by_definition(*inputs, WINDOW) if reference else attend(*inputs, sliding_window(length, inputs[0]))
        out.square().sum().backward()
        gradients.append(torch.cat([x.grad.flatten() for x in inputs if x.grad is not None]))
    assert len(gradients[0]) == length * HEAD_WIDTH * (HEADS + 2 * KV_HEADS)
    assert deviation(*gradients) < FP32


def test_mask_hides_invisible_positions() -> None:
    visible = torch.tensor([[True, False], [True, True]])
    mask = additive_mask(visible, torch.zeros(1).bfloat16())
    assert mask.dtype == torch.bfloat16
    assert torch.equal(mask == 0, visible)
    assert torch.equal(mask == -torch.inf, ~visible)


def by_song() -> tuple[Tensor, ...]:
    """Queries of three songs, and their keys and values end to end."""
    query, _, _ = queries_keys_values(7, batch=3)
    _, key, value = queries_keys_values(sum(TOKENS), batch=1)
    return query, key, value


def test_each_song_attends_to_its_own_tokens() -> None:
    query, key, value = by_song()
    found = attend(query, key, value, Ragged(TOKENS))
    keys, values = key.split(TOKENS, dim=1), value.split(TOKENS, dim=1)
    for song in range(len(TOKENS)):
        alone = attend(query[song:song + 1], keys[song], values[song])
        assert torch.equal(found[song:song + 1], alone)
        assert deviation(alone, by_definition(query[song:song + 1], keys[song], values[song])) < FP32
    assert deviation(attend(query, key, value, Ragged(TOKENS[::-1])), found) < FP32
    assert deviation(attend(query, key, value, Ragged((4, 8, 3))), found) > PERTURBED


def plain_kernel(wrong: int = 0) -> object:
    """Compute what torch documents of varlen_attn, by the definition; `wrong` widens the window."""

    def varlen_attn(q: Tensor, k: Tensor, v: Tensor, query_ends: Tensor, key_ends: Tensor, longest_query: int,
                    longest_key: int, *, window_size: tuple[int, int] = (-1, -1)) -> Tensor:
        queries, keys = query_ends.diff().tolist(), key_ends.diff().tolist()
        assert (longest_query, longest_key) == (max(queries), max(keys))
        assert query_ends.dtype == key_ends.dtype == torch.int32
        window = None if window_size == (-1, -1) else window_size[0] + wrong
        samples = zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
        return torch.cat([by_definition(*(x[None] for x in sample), window)[0] for sample in samples]).to(v.dtype)

    return varlen_attn


def test_packed_sequences_match_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", plain_kernel())
    assert attention.deviation("varlen", CPU, torch.float32) < FP32
    monkeypatch.setattr(varlen, "varlen_attn", plain_kernel(wrong=1))
    assert attention.deviation("varlen", CPU, torch.float32) > PERTURBED


def test_kernels_of_this_machine_match() -> None:
    """Wherever a flash kernel runs, it equals the dense form in output and gradients."""
    assert attention.deviation("sdpa", CPU, torch.float32) == 0
    for kernel in attention.FLASH if torch.cuda.is_available() else ():
        if not attention.trouble(kernel, CUDA, torch.bfloat16).startswith(("This attention needs", "torch ")):
            assert attention.deviation(kernel, CUDA, torch.bfloat16) <= attention.PARITY


def test_wrong_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "deviation", lambda *_: float("nan"))
    assert "deviates by nan" in attention.trouble("varlen", CUDA, torch.bfloat16)
    monkeypatch.setattr(attention, "deviation", lambda *_: attention.PARITY / 2)
    assert attention.trouble("varlen", CUDA, torch.bfloat16) == ""
    assert "needs bf16 or fp16, not float32" in attention.trouble("varlen", CUDA, torch.float32)
    assert "needs a CUDA device, not cpu" in attention.trouble("varlen", CPU, torch.bfloat16)
    assert "pip install --upgrade flash_attn" in attention.trouble("flash_attn", CUDA, torch.bfloat16)


@pytest.mark.parametrize(("broken", "choice", "expected"), [
    ((), "auto", "varlen"), (("varlen",), "auto", "flash_attn"), (("varlen", "flash_attn"), "auto", "sdpa"),
    ((), "flash_attn", "flash_attn"), (("varlen", "flash_attn"), "sdpa", "sdpa"),
])  # fmt: skip
def test_first_kernel_that_runs_is_chosen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
                                          broken: tuple[Kernel, ...], choice: attention.Choice,
                                          expected: Kernel) -> None:
    monkeypatch.setattr(attention, "trouble", lambda kernel, *_: "broken" * (kernel in broken))
    with caplog.at_level("INFO"):
        assert attention.choose(choice, CUDA, torch.bfloat16) == expected
    assert f"Attention by {expected} on cuda" in caplog.text


def test_named_kernel_must_run() -> None:
    assert attention.choose("auto", CPU, torch.float32) == "sdpa"
    with pytest.raises(ConfigError, match=r"varlen: needs a CUDA device, not cpu\. Use auto"):
        attention.choose("varlen", CPU, torch.float32)
