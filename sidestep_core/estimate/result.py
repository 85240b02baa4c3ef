"""Estimate: a score for every module of the decoder, and its file.

The file is versioned JSON.  Bare lists of Side-Step 0.8 and of ace-lora-trainer are read too.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ..adapters.config import MLP_PROJECTIONS, PROJECTIONS
from ..adapters.keys import official
from ..errors import ConfigError
from ..io import atomic, strict_json
from ..io.record import Between, Matching, Record

log = logging.getLogger(__name__)

FORMAT = 1
MAX_CHARACTERS = 2_000_000
Score = Literal["signal", "gain", "gradient_norm", "gradient_norm_per_size", "fisher"]
STABLE = 0.95
"""Agreement at which the ranking is stable: simulated, 88 to 93 % of the true top is found then, before that less."""
TEXTURE_BELOW, STRUCTURE_ABOVE = 0.4, 0.6
IMPORTED = "imported"
"""Kind of score of a file of another program, which does not state it."""

_PROJECTIONS = {"self_attn": PROJECTIONS, "cross_attn": PROJECTIONS, "mlp": MLP_PROJECTIONS}
_MODULE = re.compile(r"layers\.\d+\.(?:(?:self|cross)_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)")
_BLOCK = re.compile(r"layers\.\d+\.(self_attn|cross_attn|mlp)")

_Module = Annotated[str, Matching(_MODULE, "the name of a module")]
"""Names only: in an adapter's settings anything else would be a pattern."""
_Size = Annotated[int, Between(0)]


@dataclass(frozen=True, kw_only=True)
class ModuleScore(Record):
    """Score of one module; only ratios to others are meaningful.  An unbiased score may be below zero by chance."""

    module: _Module
    """Official name, such as `layers.3.self_attn.q_proj`."""
    mean: float
    error: float = 0.0
    """Standard error of the mean."""
    bins: tuple[float, ...] = ()
    """Score at low times (fine texture), middle and high ones (overall structure); 0 with too few samples there."""
    shape: tuple[_Size, _Size] = (0, 0)
    """Shape of its weight: (out, in); zeros if an imported file does not state it."""

    @property
    def certain(self) -> float:
        """Part of the score that is hardly chance: the mean less its standard error."""
        return self.mean - self.error


@dataclass(frozen=True, kw_only=True)
class Estimate(Record):
    """Scores of every candidate module, and their origin; a handle without tensors."""

    scores: tuple[ModuleScore, ...]
    score: str
    """Kind of score."""
    checkpoint: str = ""
    """Fingerprint of the checkpoint; empty for an imported list."""
    dataset: str = ""
    """Fingerprint of the dataset; empty for an imported list."""
    batches: Annotated[int, Between(0)] = 0
    """Number of samples measured."""
    agreement: Annotated[float, Between(-1 - 1e-9, 1 + 1e-9)] = 0.0
    """Rank correlation between two halves of the songs, or of the samples for fewer than four songs; at 1 more samples
    would not change the ranking."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def doubt(self) -> str:
        """Sentence on a ranking that was not stable when measuring ended; empty for a stable or an imported one."""
        if not self.batches or self.agreement >= STABLE:
            return ""
        return (f"The ranking is not stable: two halves of the samples agree by {self.agreement:.2f}, and {STABLE:g} "
                "is wanted, so some of the best modules are missed. Raise estimate_batches, or add songs.")

    def ranked(self) -> tuple[ModuleScore, ...]:
        """Return the scores, highest first; equal ones by name."""
        return tuple(sorted(self.scores, key=lambda score: (-score.mean, score.module)))

    def mismatches(self, checkpoint: str, dataset: str) -> tuple[str, ...]:
        """Name the inputs that differ from this checkpoint and dataset, in sentences."""
        pairs = (("checkpoint", self.checkpoint, checkpoint), ("dataset", self.dataset, dataset))
        return tuple(f"The estimate was made with another {what} than this one. Estimate the gradients again."
                     for what, made, now in pairs if made and made != now)

    def to_json(self) -> dict[str, Any]:
        """Return a dict that json.dumps accepts and `read` turns back into an equal estimate."""
        return {"format": FORMAT, **super().to_json()}


@dataclass(frozen=True, kw_only=True)
class _ListedScore(Record):
    """Entry of another program's list."""

    module: str
    sensitivity: float | None = None
    score: float | None = None


def write(path: Path, estimate: Estimate) -> None:
    """Write the estimate's file atomically."""
    atomic.write_json(path, estimate.to_json())


def read(text: str | bytes, label: str) -> Estimate:
    """Read an estimate from JSON: ours, or a list of module and sensitivity (Side-Step) or score (ace-lora-trainer).

    ConfigError, with `label` and the problem, for anything else.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{label} has {len(text)} characters, an estimate at most {MAX_CHARACTERS}. Is it the right "
                          "file?")
    try:
        values = strict_json.loads(text, "it")
    except strict_json.BadJson as error:
        raise ConfigError(f"{label} is not the JSON of an estimate: {error}") from error
    try:
        estimate = _from_list(values, label) if isinstance(values, list) else _from_object(values, label)
    except strict_json.BadJson as error:
        raise ConfigError(f"{label} is not a usable estimate: {error} Choose another file, or estimate the gradients "
                          "again.") from error
    if not estimate.scores:
        raise ConfigError(f"{label} has no modules. Estimate the gradients again.")
    twice = [name for name, count in Counter(score.module for score in estimate.scores).items() if count > 1]
    if twice:
        raise ConfigError(f"{label} has {twice[0]} twice. Estimate the gradients again.")
    return estimate


def _from_object(values: strict_json.Json, label: str) -> Estimate:
    if not isinstance(values, dict) or "format" not in values:
        raise ConfigError(f"{label} is not an estimate. Choose a file of an estimate, or a list of modules.")
    version = values.pop("format")
    if version != FORMAT or isinstance(version, bool):
        raise ConfigError(f"{label} has format {version!r}; this version reads {FORMAT}. Estimate the gradients again, "
                          "or update Side-Step.")
    return Estimate.from_json(values)


def _from_list(entries: Sequence[Any], label: str) -> Estimate:
    scores, others = [], []
    for number, values in enumerate(entries, start=1):
        entry = _ListedScore.from_json(values, f"entry {number}", allow_unknown=True)
        mean = entry.score if entry.sensitivity is None else entry.sensitivity
        if mean is None:
            raise strict_json.BadJson(f"entry {number} has no score.")
        modules = _expand(entry.module)
        scores += [ModuleScore(module=module, mean=mean) for module in modules]
        if not modules:
            others.append(entry.module)
    if others and scores:
        log.warning("%s has %d module(s) that adapters do not support, such as %s; they are left out.", label,
                    len(others), others[0])
    if others and not scores:
        raise ConfigError(f"{label} has no module of the decoder's attentions and MLPs, only such as {others[0]!r}. "
                          "Estimate the gradients again.")
    return Estimate(scores=tuple(scores), score=IMPORTED)


def _expand(name: str) -> list[str]:
    """Return official names: one for a projection, all of an attention or MLP (granularity layer), else none."""
    found = official(name)
    if found is not None:
        return [found] if _MODULE.fullmatch(found) else []
    short = name.removeprefix("decoder.")
    match = _BLOCK.fullmatch(short)
    return [f"{short}.{projection}" for projection in _PROJECTIONS[match[1]]] if match else []
