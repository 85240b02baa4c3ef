"""Memory that a training would keep on a CUDA card, counted without one.

torch's FakeTensorMode runs the dispatch of CUDA on tensors that have a device and a size but no storage, so autograd
keeps exactly what it would keep on a card.  Attention is dispatched to the kernels that a card of Ampere or newer
chooses: flash without a mask, memory-efficient with one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sidestep_core.adapters import dropout, registry
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model.decoder import Decoder, DecoderGeometry
from sidestep_core.model.frozen import FrozenLinear, FrozenWeight
from sidestep_core.model.packed import PackedWeight, to_int8
from sidestep_core.training.memory import Batch

CARD = torch.device("cuda")
LAYERS = 4
"""Layers of the counted decoder; every other one slides."""


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Attention as CUDA dispatches it under autocast."""
    q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    if attn_mask is None:
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)[0]  # noqa: SLF001
        return out
    mask = attn_mask.to(torch.bfloat16)
    mask = mask if mask.dim() == 4 else mask[None, None]
    mask = mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    out = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, 0.0, False)[0]  # noqa: SLF001
    return out


@contextlib.contextmanager
def card() -> Iterator[None]:
    """Run the block as on a CUDA card with bfloat16; no tensor in it has a storage."""
    import torch.cuda.amp.common

    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        for target, name, value in (
                (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
                (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
                (F, "scaled_dot_product_attention", _attention),
                (dropout, "draw_mask", lambda _, p, *__: dropout.RedrawnMask(parts=(), p=p)),
                (dropout, "generator", lambda *_: None)):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def adapted(size: DecoderGeometry, config: AdapterConfig, *, int8: bool = False) -> Decoder:
    """Make a frozen decoder of LAYERS layers of this size, in bfloat16 or with int8 projections, and an adapter on it
    in float32.
    """
    geometry = replace(size, layers=LAYERS)
    with CARD:
        decoder = Decoder(geometry)
        # A fake parameter cannot change its dtype in place.
        for module in decoder.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False))
        if int8:
            _hold_in_int8(decoder)
        # Nor its device; all are where they belong, and trained ones are made in float32.
        with mock.patch.object(nn.Module, "to", _itself), mock.patch.object(nn.Module, "float", _itself):
            live = registry.attach(decoder, config, target_modules(config, LAYERS), 0)
    assert all(parameter.dtype == torch.float32 for parameter in live.parameters)
    return decoder.train()


def _hold_in_int8(decoder: Decoder) -> None:
    for name, module in [*decoder.layers.named_modules(prefix="layers")]:
        if isinstance(module, nn.Linear):
            packed = to_int8(module.weight)
            decoder.set_submodule(name, FrozenLinear(FrozenWeight(
                packed=functools.partial(_the_same, packed), original=functools.partial(packed.unpack, torch.bfloat16),
                shape=packed.shape, dtype=torch.bfloat16, device=CARD)))


def _the_same(packed: PackedWeight) -> PackedWeight:
    return packed


def weight_bytes(decoder: Decoder) -> int:
    """Bytes of the decoder's frozen weights as they are held."""
    held = (module.held.packed().tensors for module in decoder.modules() if isinstance(module, FrozenLinear))
    plain = sum(parameter.nbytes for parameter in decoder.parameters() if not parameter.requires_grad)
    return plain + sum(tensor.nbytes for tensors in held for tensor in tensors)


def _itself(module: nn.Module, *_: object, **__: object) -> nn.Module:
    return module


def _identity(tensor: Tensor) -> int:
    """Number of the storage, which has no address."""
    return tensor.untyped_storage()._cdata  # noqa: SLF001


def kept_bytes(decoder: Decoder, batch: Batch, condition_width: int) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, without parameters; call it inside `card`."""
    decoder.attention = "varlen" if batch.flash else "sdpa"
    own = {_identity(parameter) for parameter in decoder.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _identity(tensor) not in own:
            kept[_identity(tensor)] = tensor
        return tensor

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.bfloat16, device=CARD)

    inputs = (random(batch.samples, batch.frames, 64), torch.rand(batch.samples, device=CARD),
              random(batch.samples, batch.tokens, condition_width), random(batch.samples, batch.frames, 128))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cuda", torch.bfloat16):
        decoder(*inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
