"""One training step of a mid-size decoder: against dense-mask attention, and against its bare matrix products.

`vs_dense` is our step over the same step with every sliding layer masked densely, `vs_roofline` over the sum of the
products and attentions that the step cannot do without, each alone, and `default_vs_off` is a step with the layers that
default settings recompute over one that recomputes none.  A table has other lengths and kinds, each over the products
of a LoRA of its length.  CPU seconds, in turn, the least of each: whatever else the machine does only ever adds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core.adapters import registry
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.device import free_memory
from sidestep_core.model import attention
from sidestep_core.model.attention import WINDOW, Mask
from sidestep_core.model.decoder import Decoder, load_decoder
from sidestep_core.model.weights import Weights
from sidestep_core.training import memory
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.optim import optimizers

CPU = torch.device("cpu")
CONDITION_TOKENS = 150
GEOMETRY = Geometry(layers=12, hidden=512, heads=4, kv_heads=2, head_dim=128, mlp=1536, encoder_hidden=64,
                    lyric_layers=1, timbre_layers=1, pooler_layers=1, text_layers=1)
TABLE_LAYERS = 4
LORA = LoraConfig()
ROUNDS, TABLE_ROUNDS = 6, 3
VS_DENSE_TARGET, VS_ROOFLINE_TARGET, DEFAULT_TARGET = 0.85, 1.15, 1.05

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A step to measure."""

    adapter: AdapterConfig = LORA
    frames: int = 3000
    samples: int = 1

    @property
    def tokens(self) -> int:
        return self.frames // 2


MAIN = Case()
TABLE: Mapping[str, Case] = {
    "LoRA, 500 frames": Case(frames=500), "LoRA, 1500 frames": Case(frames=1500), "LoRA, 3000 frames": Case(),
    "LoRA, 6000 frames": Case(frames=6000), "LoRA, batch 4 of 500": Case(frames=500, samples=4),
    "LoRA, 500, no dropout": Case(LoraConfig(dropout=0.0), 500), "DoRA, 500": Case(LoraConfig(dora=True), 500),
    "DoRA, 500, no dropout": Case(LoraConfig(dora=True, dropout=0.0), 500), "LoKR, 500": Case(LokrConfig(), 500),
    "LoHA, 500": Case(LohaConfig(), 500), "LoHA, 500, no dropout": Case(LohaConfig(dropout=0.0), 500),
}  # fmt: skip


def dense_window(length: int, like: Tensor) -> Mask:
    """Sliding window as one [L, L] mask."""
    position = torch.arange(length, device=like.device)
    return attention.additive_mask((position[:, None] - position[None, :]).abs() <= WINDOW, like)


def training_step(decoder: Decoder, case: Case) -> Work:
    """Forward, backward, clip and optimizer step on one batch."""
    config = TrainConfig()
    modules = target_modules(case.adapter, decoder.geometry.layers)
    parameters = registry.attach(decoder.train(), case.adapter, modules, seed=0).parameters
    optimizer = optimizers.build(config, parameters)
    x, context = torch.randn(case.samples, case.frames, 64), torch.randn(case.samples, case.frames, 128)
    condition = torch.randn(case.samples, CONDITION_TOKENS, GEOMETRY.encoder_hidden)

    def step() -> None:
        loss = (decoder(x, torch.full((case.samples,), 0.5), condition, context) - x).square().mean()
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


def needed_work(case: Case, layers: int) -> Iterator[Work]:
    """Everything of a LoRA's step that is a matrix product or an attention."""
    g = GEOMETRY
    inner, kv_inner = g.heads * g.head_dim, g.kv_heads * g.head_dim
    rows, conditions = case.samples * case.tokens, case.samples * CONDITION_TOKENS
    for layer in range(layers):
        for outputs in (inner, kv_inner, kv_inner):
            yield from linear(rows, g.hidden, outputs, input_gradient=layer > 0, adapted=True)
        if layer % 2:
            yield attended(case.samples, case.tokens, case.tokens, masked=False)
        elif case.tokens > attention.DENSE_BELOW:
            yield attended(case.samples * -(-case.tokens // WINDOW), WINDOW, 3 * WINDOW, masked=True)
        else:
            yield attended(case.samples, case.tokens, case.tokens, masked=True)
        yield from linear(rows, inner, g.hidden, input_gradient=True, adapted=True)
        yield from linear(rows, g.hidden, inner, input_gradient=True, adapted=True)
        for _ in ("k_proj", "v_proj"):
            yield from linear(conditions, g.hidden, kv_inner, input_gradient=False, adapted=True)
        yield attended(case.samples, case.tokens, CONDITION_TOKENS, masked=False)
        yield from linear(rows, inner, g.hidden, input_gradient=True, adapted=True)
        for inputs, outputs in ((g.hidden, g.mlp), (g.hidden, g.mlp), (g.mlp, g.hidden)):
            yield from linear(rows, inputs, outputs, input_gradient=True, adapted=False)
    yield from linear(rows, 2 * 192, g.hidden, input_gradient=False, adapted=False)
    yield from linear(rows, g.hidden, 2 * 64, input_gradient=True, adapted=False)


def seconds(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def least(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each, measured in turn after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: min(values[1:]) for name, values in times.items()}


def default_recomputed(decoder: Decoder, case: Case) -> int:
    """Number of layers that default settings recompute with the memory that is free now."""
    modules = target_modules(case.adapter, decoder.geometry.layers)
    batch = memory.Batch(samples=case.samples, frames=case.frames, tokens=CONDITION_TOKENS, bytes=4,
                         dropout=case.adapter.dropout > 0, gpu=False)
    layer = memory.layer_bytes(decoder.geometry, modules, batch)
    need = memory.Need(weights=0, adapter=0, trained=0, layer=layer, layer_input=0, layers=decoder.geometry.layers,
                       recomputed=decoder.geometry.layers)
    free = free_memory(CPU)
    return need.recomputed if free is None else memory.fit(need, free).recomputed


def measure(weights: Weights) -> dict[str, float]:
    """Measure the main case in all its forms."""
    decoders = {name: load_decoder(weights, torch.float32, CPU) for name in ("ours", "dense", "default")}
    decoders["default"].recomputed_layers = default_recomputed(decoders["default"], MAIN)
    works = {name: training_step(decoder, MAIN) for name, decoder in decoders.items()}
    masked = works["dense"]
    bare = list(needed_work(MAIN, GEOMETRY.layers))

    def dense() -> None:
        with mock.patch.object(attention, "sliding_window", dense_window):
            masked()

    best = least({**works, "dense": dense, "bare": lambda: [work() for work in bare]}, ROUNDS)
    return {**{f"{name}_seconds": round(value, 3) for name, value in best.items()},
            "vs_dense": round(best["ours"] / best["dense"], 3),
            "vs_roofline": round(best["ours"] / best["bare"], 3),
            "default_vs_off": round(best["default"] / best["ours"], 3)}


def table(weights: Weights) -> Iterator[tuple[str, float]]:
    """Step of each row over the bare products of a LoRA's step of its length."""
    for name, case in TABLE.items():
        bare = list(needed_work(case, TABLE_LAYERS))
        step = training_step(load_decoder(weights, torch.float32, CPU), case)
        best = least({"step": step, "bare": lambda bare=bare: [work() for work in bare]}, TABLE_ROUNDS)
        yield name, best["step"] / best["bare"]


def with_weights(layers: int, use: Callable[[Weights], object]) -> object:
    with TemporaryDirectory() as folder:
        paths = write_tiny_models(Path(folder), replace(GEOMETRY, layers=layers), dtype=torch.float32)
        return use(Weights.open([paths.model]).under("decoder."))


def main() -> int:
    """Print the table and the JSON line; return 1 if a target is missed."""
    rows = with_weights(TABLE_LAYERS, lambda weights: list(table(weights)))
    assert isinstance(rows, list)
    print(f"Steps of {TABLE_LAYERS} layers over the bare products of a LoRA's step of that length")
    for name, ratio in rows:
        print(f"{name:24} {ratio:6.2f}")
    found = with_weights(GEOMETRY.layers, measure)
    assert isinstance(found, dict)
    print(f"{MAIN.tokens} tokens, width {GEOMETRY.hidden}, {GEOMETRY.layers} layers, LoRA rank {LORA.rank}, float32, "
          f"{torch.get_num_threads()} threads, least CPU seconds of {ROUNDS}")
    for name in ("vs_dense", "vs_roofline", "default_vs_off"):
        print(f"{name:14} {found[name]:.3f}")
    print(json.dumps({**found, "table": {name: round(ratio, 3) for name, ratio in rows}}))
    return int(found["vs_dense"] > VS_DENSE_TARGET or found["vs_roofline"] > VS_ROOFLINE_TARGET
               or found["default_vs_off"] > DEFAULT_TARGET)


if __name__ == "__main__":
    sys.exit(main())
