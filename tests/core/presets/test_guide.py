"""Proposed settings fit the card, the model and the number of songs."""

from __future__ import annotations

import pytest

from sidestep_core.errors import ConfigError
from sidestep_core.presets.guide import GIB, MAX_STEPS, QUICK, QUICK_STEPS, THOROUGH, Facts, propose


def facts(songs: int = 12, *, memory: float | None = 24.0, size: str = "2B", minutes: float = 3.5,
          has_8bit: bool = True) -> Facts:
    return Facts(songs=songs, seconds=songs * minutes * 60, size=size, has_8bit=has_8bit,
                 memory=None if memory is None else round(memory * GIB - 20_000_000))


@pytest.mark.parametrize(("memory", "songs", "preset", "rank"), [
    (8, 12, "vram_8gb", 16), (12, 12, "vram_12gb", 32), (16, 12, "recommended", 64), (24, 12, "recommended", 64),
    (24, 80, "vram_24gb_plus", 128), (24, 3, "recommended", 16), (None, 12, QUICK, 16)])
def test_preset_fits_card(memory: float | None, songs: int, preset: str, rank: int) -> None:
    found = propose(facts(songs, memory=memory))
    assert (found.preset, found.adapter.rank, found.adapter.alpha) == (preset, rank, 2 * rank)
    assert found.reason.startswith(f"{songs} songs, ")
    assert ("no graphics card" if memory is None else f"{memory} GB") in found.reason


@pytest.mark.parametrize("memory", [8.0, 24.0])
def test_music_is_heard_as_preset_says(memory: float) -> None:
    """Crops of a minute of songs of 3.5 minutes count for their share, however many samples a step takes."""
    found = propose(facts(12, memory=memory))
    drawn = found.train.max_steps * found.train.samples_per_step * found.train.chunk_duration
    assert drawn / (12 * 210) == pytest.approx(100, rel=0.06)
    assert found.passes == pytest.approx(100, abs=6)


def test_length_has_bounds() -> None:
    assert propose(facts(2, minutes=0.5)).train.max_steps == 200
    assert propose(facts(5000), THOROUGH).train.max_steps == MAX_STEPS
    assert propose(facts(5000), QUICK).train.max_steps == QUICK_STEPS


def test_missing_package_is_not_proposed() -> None:
    assert propose(facts(memory=8)).train.optimizer == "adamw8bit"
    assert propose(facts(memory=8, has_8bit=False)).train.optimizer == "adamw"


def test_xl_warns_small_cards() -> None:
    assert "XL models fit a card of 16 GB, this one has 12: some layers" in " ".join(
        propose(facts(memory=12, size="XL")).warnings)
    assert propose(facts(memory=16, size="XL")).warnings == ()
    assert propose(facts(memory=16, size="XL")).train.chunk_duration == 30


def test_no_songs_are_refused() -> None:
    with pytest.raises(ConfigError, match="no songs"):
        propose(facts(0))
