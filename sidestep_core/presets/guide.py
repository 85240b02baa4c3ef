"""Proposal of settings for a first training, from the songs, the model and the graphics card.

The rules, which docs/guide/training.md gives in words:

- The preset is the one for the card's memory; with fewer than MANY songs never one above rank 64, which learns them
  by heart, and with fewer than FEW never above 16.  Without a card it is quick_test.
- Crops of one minute save memory and time; XL on a card below ROOMY_GIB gets 30 seconds.
- The length lets the music be heard as often as the preset says, with a crop counting for its share of a song, within
  MIN_STEPS and MAX_STEPS; quick_test takes QUICK_STEPS at most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..adapters.lora import LoraConfig
from ..errors import ConfigError
from ..sentence import Sentence
from ..training.config import TrainConfig
from .preset import load_built_in

QUICK, THOROUGH, USUAL, SMALL = "quick_test", "high_quality", "recommended", "vram_8gb"
BY_CARD = ((9.5, SMALL), (15.5, "vram_12gb"), (23.5, USUAL))
"""Memory of a card in GiB below which a preset is for it; cards have a little less than their name says."""
LARGEST = "vram_24gb_plus"
ROOMY_GIB = 23.5
XL_GIB = 15.5
"""Least memory of a card for XL in bf16."""
FEW, MANY = 4, 50
CROP, SMALL_CROP = 60.0, 30.0
MIN_STEPS, MAX_STEPS, QUICK_STEPS, ROUNDING = 200, 10_000, 100, 50
GIB = 2**30
TAKEN = ("learning_rate", "optimizer", "batch_size", "gradient_accumulation", "weight_decay", "schedule")
"""Settings of a training that a preset decides here; saving, logging and recomputation stay automatic."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts that a proposal depends on."""

    songs: int
    seconds: float
    """Length of all songs together."""
    size: str
    """Size of the model: "2B", "XL" or other."""
    memory: int | None
    """Memory of the graphics card in bytes; None without one."""
    has_8bit: bool
    """True where the optimizer with 8-bit state can be used."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Settings for these facts, with the reason."""

    preset: str
    reason: Sentence
    adapter: LoraConfig
    train: TrainConfig
    passes: int
    """Number of times that all the music is heard, crop by crop."""
    warnings: tuple[Sentence, ...] = ()


def propose(facts: Facts, preset: str = "") -> Proposal:
    """Choose settings, of the given preset or of the one that fits best.  ConfigError without songs."""
    if facts.songs < 1 or not facts.seconds > 0:
        raise ConfigError("There are no songs to train on. Choose a folder with songs.")
    chosen = preset or best_preset(facts)
    base = load_built_in(chosen)
    rank = _rank(base.adapter.rank, facts) if isinstance(base.adapter, LoraConfig) else LoraConfig.rank
    adapter = replace(LoraConfig(), rank=rank, alpha=2.0 * rank, dropout=base.adapter.dropout)
    values = {name: getattr(base.train, name) for name in TAKEN}
    if values["optimizer"] == "adamw8bit" and not facts.has_8bit:
        values["optimizer"] = "adamw"
    train = TrainConfig(**values, chunk_duration=_crop(facts))
    train = replace(train, max_steps=_steps(base.train.epochs, train, facts, chosen))
    drawn = train.max_steps * train.samples_per_step * min(train.chunk_duration, facts.seconds / facts.songs)
    return Proposal(preset=chosen, adapter=adapter, train=train, passes=max(1, round(drawn / facts.seconds)),
                    reason=_reason(facts, chosen, train, rank), warnings=_warnings(facts, chosen))


def best_preset(facts: Facts) -> str:
    """Preset for the card and the number of songs."""
    if facts.memory is None:
        return QUICK
    fitting = next((name for limit, name in BY_CARD if facts.memory / GIB < limit), LARGEST)
    return USUAL if fitting == LARGEST and facts.songs < MANY else fitting


def _rank(rank: int, facts: Facts) -> int:
    return min(rank, 16) if facts.songs < FEW else rank


def _crop(facts: Facts) -> float:
    tight = facts.size == "XL" and facts.memory is not None and facts.memory / GIB < ROOMY_GIB
    return SMALL_CROP if tight else CROP


def _steps(epochs: int, train: TrainConfig, facts: Facts, preset: str) -> int:
    """Steps in which the music is heard `epochs` times."""
    share = max(1.0, facts.seconds / facts.songs / train.chunk_duration)
    steps = epochs * facts.songs * share / train.samples_per_step
    if preset == QUICK:
        return max(1, round(min(steps, QUICK_STEPS)))
    return round(min(max(steps, MIN_STEPS), MAX_STEPS) / ROUNDING) * ROUNDING


def _reason(facts: Facts, preset: str, train: TrainConfig, rank: int) -> Sentence:
    """Sentence on the songs and the card, and what follows from them."""
    songs = Sentence("{n} songs", one="{n} song", n=facts.songs)
    if facts.memory is None:
        card = Sentence("no graphics card that trains fast")
    else:
        card = Sentence("{size} GB on the graphics card", size=round(facts.memory / GIB))
    crop = train.chunk_duration
    if preset == QUICK:
        why = Sentence("a short try that shows that everything works, far too short to learn the style.")
    elif preset == THOROUGH:
        why = Sentence("much time and room: rank {rank}. Listen to the adapters on the way.", rank=rank)
    elif facts.songs < FEW:
        why = Sentence("rank {rank}, low because few songs are soon learned by heart, and random crops of {crop} "
                       "seconds.", rank=rank, crop=crop)
    else:
        why = Sentence("rank {rank}, and random crops of {crop} seconds.", rank=rank, crop=crop)
    return Sentence("{songs}, {card}: {why}", songs=songs, card=card, why=why)


def _warnings(facts: Facts, preset: str) -> tuple[Sentence, ...]:
    """Sentences on what may go wrong."""
    found = []
    gib = None if facts.memory is None else facts.memory / GIB
    if facts.size == "XL" and gib is not None and gib < XL_GIB:
        found.append(Sentence("XL models fit a card of 16 GB, this one has {size}: some layers may wait in the "
                              "computer's memory, which is slower. A 2B model is faster, and so is base_precision "
                              "int8.", size=round(gib)))
    if gib is not None and preset == THOROUGH and gib < XL_GIB:
        found.append(Sentence("Rank 128 may not fit this card. If memory runs out, choose the proposed settings."))
    if facts.songs < FEW:
        found.append(Sentence("With so few songs the adapter may copy them. 5 to 20 songs of one style are better."))
    return tuple(found)
