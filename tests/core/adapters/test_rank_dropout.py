"""Dropout of ranks and rows: LyCORIS's own, of each sample, with the mean of the delta kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sidestep_core import rng
from sidestep_core.adapters import registry
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.dropout import Switch, draw_columns, mask_scale
from sidestep_core.adapters.layer import LiveLayers
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.low_rank import LoraWeights, linears
from tests.tolerance import FP32, PERTURBED, deviation

P, RANK = 0.4, 6
ROWS = {
    "lokr": LokrConfig(linear_dim=3, alpha=6.0, dropout=0.0, rank_dropout=P, factor=4),
    "lokr-full": LokrConfig(dropout=0.0, rank_dropout=P),
    "loha": LohaConfig(rank=4, alpha=6.0, dropout=0.0, rank_dropout=P),
}


def random(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=rng.generator(name, *shape))


def dropping(monkeypatch: pytest.MonkeyPatch, kept: Tensor) -> None:
    """Let LyCORIS, which keeps what it draws above P, draw this mask."""
    monkeypatch.setattr(torch, "rand", lambda *size, **named: kept.flatten())


def test_lora_drops_as_lycoris_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from lycoris.modules.locon import LoConModule

    reference = LoConModule("x", nn.Linear(48, 40, bias=False), lora_dim=RANK, alpha=3.0, rank_dropout=P)
    down, up, x = random(RANK, 48, name="down"), random(40, RANK, name="up"), random(3, 9, 48)
    with torch.no_grad():
        reference.lora_down.weight.copy_(down)
        reference.lora_up.weight.copy_(up)
    trained = [down.requires_grad_(), up.requires_grad_(), x.requires_grad_()]
    kept = draw_columns(x, RANK, P, Switch(), "x")
    assert 0 < float(kept.sum()) < RANK
    ours, = linears(x, [LoraWeights(torch.zeros(40, 48), down, up, 0.5 * mask_scale(P))], ranks=kept)
    dropping(monkeypatch, kept)
    theirs = reference.train().bypass_forward_diff(x) / (1 - P)
    assert deviation(ours, theirs) <= 2 * FP32
    gradient = random(*ours.shape, name="gradient")
    found = torch.autograd.grad((ours * gradient).sum(), trained)
    expected = torch.autograd.grad((theirs * gradient).sum(), [
        reference.lora_down.weight, reference.lora_up.weight, x])
    assert all(deviation(one, other) <= 2 * FP32 for one, other in zip(found, expected, strict=True))
    everything, = linears(x, [LoraWeights(torch.zeros(40, 48), down, up, 0.5)])
    assert deviation(ours, everything) > PERTURBED


@pytest.mark.parametrize("config", ROWS.values(), ids=ROWS)
def test_rows_drop_as_lycoris_does(monkeypatch: pytest.MonkeyPatch, config: LokrConfig | LohaConfig) -> None:
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    base = nn.Linear(64, 48, bias=False)
    if isinstance(config, LokrConfig):
        reference: nn.Module = LokrModule("x", base, lora_dim=config.linear_dim, alpha=config.alpha,
                                          factor=config.factor, rank_dropout=P)
    else:
        reference = LohaModule("x", base, lora_dim=config.rank, alpha=config.alpha, rank_dropout=P)
    live = registry.attach(nn.ModuleDict({"x": base}), config, {"x": config.base_rank}, seed=0)
    assert isinstance(live, LiveLayers)
    layer = live.layers["x"].train()
    with torch.no_grad():
        for number, parameter in enumerate(live.parameters):
            parameter.add_(random(*parameter.shape, name=f"taught {number}"), alpha=0.1)
    reference.load_state_dict(layer.saved())
    x = random(5, 9, 64).requires_grad_()
    live.switch.seeds = (7,) * 5
    kept = draw_columns(x, 48, P, live.switch, "x")[0]
    ours = layer(x) - base(x)
    dropping(monkeypatch, kept)
    theirs = nn.functional.linear(x, reference.train().get_weight(base.weight.shape)) / (1 - P)
    assert deviation(ours, theirs) <= 4 * FP32
    found, = torch.autograd.grad((ours * random(*ours.shape)).sum(), x)
    expected, = torch.autograd.grad((theirs * random(*ours.shape)).sum(), x)
    assert deviation(found, expected) <= 4 * FP32
    assert deviation(layer.eval()(x) - base(x), theirs) > PERTURBED


@pytest.mark.parametrize("config", [*ROWS.values(), LoraConfig(rank=RANK, alpha=6.0, dropout=0.0, rank_dropout=P)],
                         ids=[*ROWS, "lora"])
def test_mean_over_samples_is_the_delta(config: AdapterConfig) -> None:
    decoder = nn.ModuleDict({"x": nn.Linear(64, 48, bias=False)})
    live = registry.attach(decoder, config, {"x": config.base_rank}, seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(live.parameters):
            parameter.add_(random(*parameter.shape, name=f"taught {number}"), alpha=0.1)
    x = random(1, 2, 64).expand(4000, 2, 64)
    live.switch.seeds = tuple(range(4000))
    with torch.no_grad():
        drawn = decoder.train()["x"](x)
        whole = decoder.eval()["x"](x[0])
    assert deviation(drawn.mean(0), whole) < 0.03
    assert deviation(drawn[0], whole) > 0.03


def test_masks_belong_to_samples() -> None:
    """The mask of a sample is that of the sample alone, in a row of the batch and in a run of tokens."""
    x, tokens = torch.ones(3, 7, 48), (4, 9, 2)
    together = Switch(seeds=(11, 12, 13), tokens=tokens)
    rows = draw_columns(x, 32, P, together, "a")
    runs = draw_columns(torch.ones(1, 15, 48), 32, P, together, "a").split(tokens, dim=1)
    for sample, seed in enumerate(together.seeds):
        alone = draw_columns(x[:1], 32, P, Switch(seeds=(seed,), tokens=(tokens[sample],)), "a")
        assert torch.equal(rows[sample], alone[0])
        assert torch.equal(runs[sample], alone.expand(1, tokens[sample], 32))
        assert not torch.equal(alone, draw_columns(x[:1], 32, P, Switch(seeds=(seed,)), "b"))
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_share_is_dropped(p: float) -> None:
    kept = draw_columns(torch.ones(500, 1, 8), 400, p, Switch(seeds=tuple(range(500))), "a")
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert abs(float(kept.mean()) - (1 - p)) < 0.005
