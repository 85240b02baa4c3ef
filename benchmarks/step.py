"""One training step of a mid-size decoder: against dense-mask attention, and against its bare matrix products.

`vs_dense` is our step time over the same step with every sliding layer masked densely; `vs_roofline` is our step time
over the sum of the products and attentions that the step cannot do without, each timed alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core.adapters import registry
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model import attention
from sidestep_core.model.attention import WINDOW, Mask
from sidestep_core.model.decoder import Decoder, load_decoder
from sidestep_core.model.weights import Weights
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.optim import optimizers

TOKENS = 1500
CONDITION_TOKENS = 150
GEOMETRY = Geometry(layers=12, hidden=512, heads=4, kv_heads=2, head_dim=128, mlp=1536, encoder_hidden=64,
                    lyric_layers=1, timbre_layers=1, pooler_layers=1, text_layers=1)
LORA = LoraConfig()
ROUNDS = 6
VS_DENSE_TARGET, VS_ROOFLINE_TARGET = 0.9, 1.35

Work = Callable[[], object]


def dense_window(length: int, like: Tensor) -> Mask:
    """Sliding window as one [L, L] mask."""
    position = torch.arange(length, device=like.device)
    return attention.additive_mask((position[:, None] - position[None, :]).abs() <= WINDOW, like)


def training_step(decoder: Decoder) -> Work:
    """Forward, backward, clip and optimizer step on one song of 120 seconds."""
    config = TrainConfig()
    parameters = registry.attach(decoder.train(), LORA, target_modules(LORA, GEOMETRY.layers), seed=0).parameters
    optimizer = optimizers.build(config, parameters)
    frames = 2 * TOKENS
    x, context = torch.randn(1, frames, 64), torch.randn(1, frames, 128)
    condition = torch.randn(1, CONDITION_TOKENS, GEOMETRY.encoder_hidden)

    def step() -> None:
        loss = (decoder(x, torch.tensor([0.5]), condition, context) - x).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def product(rows: int, inputs: int, outputs: int) -> Work:
    """[rows, inputs] @ [inputs, outputs], laid out as a linear layer has them."""
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    return lambda: F.linear(x, weight)


def linear(rows: int, inputs: int, outputs: int, *, input_gradient: bool, adapted: bool) -> Iterator[Work]:
    """The products of a frozen layer: forward, and the gradient of its input where something below is trained.

    With a LoRA of rank r also two thin products forward, and backward the gradients of B, of the hidden, of A.
    """
    yield product(rows, inputs, outputs)
    if input_gradient:
        yield product(rows, outputs, inputs)
    if adapted:
        rank = LORA.rank
        yield product(rows, inputs, rank)
        yield product(rows, rank, outputs)
        yield product(outputs, rows, rank)
        yield product(rows, outputs, rank)
        yield product(rank, rows, inputs)
        if input_gradient:
            yield product(rows, rank, inputs)


def attended(batch: int, queries: int, keys: int, *, masked: bool) -> Work:
    """Attention forward and backward, query heads of one key head laid end to end."""
    kv_heads, width = GEOMETRY.kv_heads, GEOMETRY.head_dim
    groups = GEOMETRY.heads // kv_heads
    q = torch.randn(batch, kv_heads, groups * queries, width, requires_grad=True)
    k, v = (torch.randn(batch, kv_heads, keys, width, requires_grad=True) for _ in range(2))
    mask = torch.zeros(batch, 1, groups * queries, keys) if masked else None
    gradient = torch.randn_like(q)
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask).backward(gradient)


def needed_work() -> Iterator[Work]:
    """Everything of a step that is a matrix product or an attention."""
    g = GEOMETRY
    inner, kv_inner = g.heads * g.head_dim, g.kv_heads * g.head_dim
    for layer in range(g.layers):
        above = layer > 0
        for outputs in (inner, kv_inner, kv_inner):
            yield from linear(TOKENS, g.hidden, outputs, input_gradient=above, adapted=True)
        blocks = -(-TOKENS // WINDOW)
        if layer % 2 == 0:
            yield attended(blocks, WINDOW, 3 * WINDOW, masked=True)
        else:
            yield attended(1, TOKENS, TOKENS, masked=False)
        yield from linear(TOKENS, inner, g.hidden, input_gradient=True, adapted=True)
        yield from linear(TOKENS, g.hidden, inner, input_gradient=True, adapted=True)
        for _ in ("k_proj", "v_proj"):
            yield from linear(CONDITION_TOKENS, g.hidden, kv_inner, input_gradient=False, adapted=True)
        yield attended(1, TOKENS, CONDITION_TOKENS, masked=False)
        yield from linear(TOKENS, inner, g.hidden, input_gradient=True, adapted=True)
        for inputs, outputs in ((g.hidden, g.mlp), (g.hidden, g.mlp), (g.mlp, g.hidden)):
            yield from linear(TOKENS, inputs, outputs, input_gradient=True, adapted=False)
    yield from linear(TOKENS, 2 * 192, g.hidden, input_gradient=False, adapted=False)
    yield from linear(TOKENS, g.hidden, 2 * 64, input_gradient=True, adapted=False)


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure() -> dict[str, float]:
    """The best time of each of the three, measured in turn: whatever else the machine does only ever adds."""
    with TemporaryDirectory() as folder:
        paths = write_tiny_models(Path(folder), GEOMETRY, dtype=torch.float32)
        weights = Weights.open([paths.model]).under("decoder.")
        ours = training_step(load_decoder(weights, torch.float32, torch.device("cpu")))
        dense = training_step(load_decoder(weights, torch.float32, torch.device("cpu")))
        bare = list(needed_work())
        blocks = attention.sliding_window
        times: dict[str, list[float]] = {"ours": [], "dense": [], "bare": []}
        for counted in range(-1, ROUNDS):
            row = {"ours": seconds(ours), "bare": sum(seconds(work) for work in bare)}
            attention.sliding_window = dense_window
            row["dense"] = seconds(dense)
            attention.sliding_window = blocks
            if counted >= 0:
                for name, value in row.items():
                    times[name].append(value)
    best = {name: min(values) for name, values in times.items()}
    return {**{f"{name}_seconds": round(value, 3) for name, value in best.items()},
            "vs_dense": round(best["ours"] / best["dense"], 3),
            "vs_roofline": round(best["ours"] / best["bare"], 3)}


def main() -> int:
    found = measure()
    print(f"{TOKENS} tokens, width {GEOMETRY.hidden}, {GEOMETRY.layers} layers, LoRA rank {LORA.rank}, float32, "
          f"{torch.get_num_threads()} threads, best of {ROUNDS}")
    for name in ("ours", "dense", "bare"):
        print(f"{name:>6}  {found[f'{name}_seconds']:7.3f} s")
    print(f"vs_dense    {found['vs_dense']:.3f}  (target <= {VS_DENSE_TARGET})")
    print(f"vs_roofline {found['vs_roofline']:.3f}  (target <= {VS_ROOFLINE_TARGET})")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
