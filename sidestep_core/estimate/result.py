"""How much each module of the decoder has to learn from a dataset: the scores, their file, and what two of them share.

The file is versioned JSON.  Bare lists of Side-Step 0.8 and of ace-lora-trainer are read too.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..adapters.config import MLP_PROJECTIONS, PROJECTIONS
from ..adapters.keys import official
from ..errors import ConfigError
from ..io import atomic, strict_json

log = logging.getLogger(__name__)

FORMAT = 1
MOST_CHARACTERS = 2_000_000
Score = Literal["signal", "gain", "gradient_norm", "gradient_norm_per_size", "fisher"]
TEXTURE_BELOW, STRUCTURE_ABOVE = 0.4, 0.6
IMPORTED = "imported"
"""In place of the kind of score, where a file of another program does not say it."""

_PARTS = {"self_attn": PROJECTIONS, "cross_attn": PROJECTIONS, "mlp": MLP_PROJECTIONS}
_MODULE = re.compile(r"layers\.\d+\.(?:(?:self|cross)_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)")
_WHOLE_PART = re.compile(r"layers\.\d+\.(self_attn|cross_attn|mlp)")


@dataclass(frozen=True, kw_only=True)
class ModuleScore:
    """One module's score; only ratios to others mean something.  An unbiased score may lie below zero by chance."""

    module: str
    """Official name, such as `layers.3.self_attn.q_proj`."""
    mean: float
    error: float = 0.0
    """Standard error of the mean."""
    bins: tuple[float, ...] = ()
    """The same score at low times (fine texture), middle and high ones (overall structure) alone; 0 where too few
    samples fell there."""
    shape: tuple[int, int] = (0, 0)
    """Of its weight: (out, in); zeros where an imported file does not say."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Scores of every candidate module, and what they were made with; a handle without tensors."""

    scores: tuple[ModuleScore, ...]
    score: str
    """Kind of score."""
    checkpoint: str = ""
    """Fingerprint of the checkpoint; empty for an imported list."""
    dataset: str = ""
    """Fingerprint of the dataset; empty for an imported list."""
    batches: int = 0
    """Samples that were measured."""
    agreement: float = 0.0
    """Rank correlation between two halves of the songs, or of the samples where these are below four; 1 is a ranking
    that more samples will not change."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def ranked(self) -> tuple[ModuleScore, ...]:
        """The scores, highest first; equal ones by name."""
        return tuple(sorted(self.scores, key=lambda score: (-score.mean, score.module)))

    def mismatches(self, checkpoint: str, dataset: str) -> tuple[str, ...]:
        """What it was made with that is not this checkpoint or dataset, in words."""
        pairs = (("checkpoint", self.checkpoint, checkpoint), ("dataset", self.dataset, dataset))
        return tuple(f"The estimate was made with another {what} than this one. Estimate the gradients again."
                     for what, made, now in pairs if made and made != now)

    def to_json(self) -> dict[str, Any]:
        """A dict that json.dumps accepts and `read` turns back into an equal estimate."""
        return {"format": FORMAT, **asdict(self)}


def write(path: Path, estimate: Estimate) -> None:
    """The estimate's file, whole or absent."""
    atomic.write_json(path, estimate.to_json())


def read(text: str | bytes, label: str) -> Estimate:
    """The estimate in a JSON text: ours, or a list of module and sensitivity (Side-Step) or score (ace-lora-trainer).

    ConfigError, naming `label` and what is wrong, for anything else.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{label} has {len(text)} characters, an estimate at most {MOST_CHARACTERS}. Is it the right "
                          "file?")
    try:
        values = strict_json.loads(text, "it")
    except strict_json.BadJson as error:
        raise ConfigError(f"{label} is not the JSON of an estimate: {error}") from error
    if isinstance(values, list):
        return _imported(values, label)
    if not isinstance(values, dict) or "format" not in values:
        raise ConfigError(f"{label} is no estimate. Choose the file of a saved estimate, or a list of modules.")
    if values["format"] != FORMAT or isinstance(values["format"], bool):
        raise ConfigError(f"{label} has format {values['format']!r}; this version reads {FORMAT}. Estimate the "
                          "gradients again, or update Side-Step.")
    return _own(values, label)


def _own(values: dict[str, Any], label: str) -> Estimate:
    _expect(_keys(values) == {"format", *_names(Estimate)}, label, "the settings", sorted(values))
    entries = values["scores"]
    _expect(isinstance(entries, list), label, "scores", entries)
    scores = tuple(_module_score(entry, label) for entry in entries)
    for name in ("score", "checkpoint", "dataset"):
        _expect(isinstance(values[name], str), label, name, values[name])
    batches, agreement, settings = values["batches"], values["agreement"], values["settings"]
    _expect(type(batches) is int and batches >= 0, label, "batches", batches)
    _expect(_is_number(agreement) and abs(agreement) <= 1 + 1e-9, label, "agreement", agreement)
    _expect(isinstance(settings, dict), label, "settings", settings)
    return _checked(Estimate(scores=scores, score=values["score"], checkpoint=values["checkpoint"],
                             dataset=values["dataset"], batches=batches, agreement=agreement, settings=settings), label)


def _module_score(entry: Any, label: str) -> ModuleScore:
    _expect(_keys(entry) == _names(ModuleScore), label, "a module", entry)
    module, bins, shape = entry["module"], entry["bins"], entry["shape"]
    # Only names of modules: in an adapter's settings anything else would be a pattern.
    _expect(isinstance(module, str) and _MODULE.fullmatch(module) is not None, label, "a module", module)
    for name in ("mean", "error"):
        _expect(_is_number(entry[name]), label, f"{name} of {module}", entry[name])
    _expect(isinstance(bins, list) and all(map(_is_number, bins)), label, f"bins of {module}", bins)
    _expect(isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size >= 0 for size in shape),
            label, f"shape of {module}", shape)
    return ModuleScore(module=module, mean=entry["mean"], error=entry["error"], bins=tuple(bins),
                       shape=(shape[0], shape[1]))


def _imported(entries: Sequence[Any], label: str) -> Estimate:
    scores, elsewhere = [], []
    for entry in entries:
        _expect(isinstance(entry, dict) and isinstance(entry.get("module"), str), label, "a module", entry)
        value = entry.get("sensitivity", entry.get("score"))
        _expect(_is_number(value), label, f"score of {entry['module']}", value)
        modules = _modules(entry["module"])
        scores += [ModuleScore(module=module, mean=float(value)) for module in modules]
        if not modules:
            elsewhere.append(entry["module"])
    if elsewhere and scores:
        log.warning("%s has %d module(s) on which no adapter is put, such as %s; they are left out.", label,
                    len(elsewhere), elsewhere[0])
    if elsewhere and not scores:
        raise ConfigError(f"{label} has no module of the decoder's attentions and MLPs, only such as {elsewhere[0]!r}. "
                          "Estimate the gradients again.")
    return _checked(Estimate(scores=tuple(scores), score=IMPORTED), label)


def _modules(name: str) -> list[str]:
    """Official names: one of a projection, all of a whole attention or MLP (granularity layer), else none."""
    found = official(name)
    if found is not None:
        return [found] if _MODULE.fullmatch(found) else []
    short = name.removeprefix("decoder.")
    match = _WHOLE_PART.fullmatch(short)
    return [f"{short}.{projection}" for projection in _PARTS[match[1]]] if match else []


def _checked(estimate: Estimate, label: str) -> Estimate:
    if not estimate.scores:
        raise ConfigError(f"{label} has no modules. Estimate the gradients again.")
    twice = [name for name, count in Counter(score.module for score in estimate.scores).items() if count > 1]
    if twice:
        raise ConfigError(f"{label} has {twice[0]} twice. Estimate the gradients again.")
    return estimate


def _names(kind: type[ModuleScore] | type[Estimate]) -> set[str]:
    return {field.name for field in fields(kind)}


def _keys(value: object) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _expect(condition: bool, label: str, what: str, found: object) -> None:
    if not condition:
        raise ConfigError(f"{label} is no estimate that can be used: {what} cannot be {str(found)[:80]}. Choose "
                          "another file, or estimate the gradients again.")


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation of two lists of equal length, -1 to 1; equal values share the mean of their ranks.

    0 where one list has no order at all.
    """
    one, other = _ranks(first), _ranks(second)
    mean = (len(one) - 1) / 2
    product = sum((a - mean) * (b - mean) for a, b in zip(one, other, strict=True))
    spread = sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in other)
    return product / spread**0.5 if spread > 0 else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for index in order[start:stop]:
            ranks[index] = (start + stop - 1) / 2
        start = stop
    return ranks


def jaccard(first: Iterable[str], second: Iterable[str]) -> float:
    """Share of the modules in either selection that is in both, 0 to 1; 1 where both are empty."""
    one, other = set(first), set(second)
    return len(one & other) / len(one | other) if one | other else 1.0


def agreement(first: Estimate, second: Estimate) -> float:
    """Rank correlation of the scores of the modules that both have; ConfigError where they share fewer than two."""
    other = {score.module: score.mean for score in second.scores}
    shared = [(score.mean, other[score.module]) for score in first.scores if score.module in other]
    if len(shared) < 2:
        raise ConfigError(f"The estimates share {len(shared)} module(s), too few to compare. Were they made for "
                          "models of one size?")
    return spearman(*zip(*shared, strict=True))
