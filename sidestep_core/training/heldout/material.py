"""Material that is never trained on, for the held-out loss: songs, or below ten of them the ends of long songs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ... import rng
from ...dataset.sample_info import SampleInfo
from ...errors import DatasetError
from ...model.flow_matching import FRAMES_PER_SECOND
from ..config import ResolvedConfig, TrainConfig

FEW_SONGS = 10
"""Number of songs below which sections are held out instead of songs."""
MOST_SONGS = 32
"""Most songs that are held out automatically: a measurement has no time for more."""
SECTION_SHARE = 0.1
"""Share of a song that is held out as a section, at its end."""
SHORTEST = 20 * FRAMES_PER_SECOND
"""Frames of a song below which all of it is trained on."""


def asks(config: TrainConfig) -> list[str]:
    """List the settings that judge by what is not trained on."""
    asked = [f"early_stopping {config.early_stopping}"] if config.early_stopping else []
    asked += [f"target_loss {config.target_loss:g}"] if config.target_loss else []
    return asked + (["publish best"] if config.publish == "best" else [])


def by_song(samples: Sequence[SampleInfo]) -> list[list[SampleInfo]]:
    """Group the samples by song: sections and copies of one audio file are one song."""
    songs: dict[str, list[SampleInfo]] = {}
    for sample in samples:
        songs.setdefault(sample.audio or sample.name, []).append(sample)
    return list(songs.values())


def resolved(config: TrainConfig, samples: Sequence[SampleInfo]) -> dict[str, int | bool]:
    """Settle heldout_songs and heldout_sections.  DatasetError if no song would be left to train on."""
    songs, count, sections = len(by_song(samples)), config.heldout_songs, False
    if count is None:
        count = 0 if songs < FEW_SONGS else min(songs // 10, MOST_SONGS)
        sections = songs < FEW_SONGS and _worth_it(config, samples)
    if count >= songs:
        raise DatasetError(f"heldout_songs is {count} but the dataset has {songs} song(s); "
                           "none would be left to train on. Lower heldout_songs or add songs.")
    return {"heldout_songs": count, "heldout_sections": sections}


def split(samples: Sequence[SampleInfo], config: ResolvedConfig
          ) -> tuple[tuple[SampleInfo, ...], tuple[SampleInfo, ...]]:
    """Split into (trained on, held out): by song, or with heldout_sections each long song into its body and its end.

    Songs are chosen by seed and name, so that a new one does not reshuffle the others.  All samples of a song are on
    the same side: one in training would give the others away.
    """
    if config.heldout_sections:
        lengths = section_lengths(samples)
        trained = (sample.part(0, sample.frames - lengths.get(sample.name, 0)) for sample in samples)
        ends = (sample.part(sample.frames - lengths[sample.name], lengths[sample.name])
                for sample in samples if sample.name in lengths)
        return tuple(trained), tuple(ends)
    ranked = sorted(by_song(samples), key=lambda song: rng.seed(
        config.seed, "heldout", min(sample.name for sample in song)))
    chosen = {sample.name for song in ranked[:config.heldout_songs] for sample in song}
    return (tuple(sample for sample in samples if sample.name not in chosen),
            tuple(sample for sample in samples if sample.name in chosen))


def section_lengths(samples: Sequence[SampleInfo]) -> Mapping[str, int]:
    """Frames of the held-out end of each song that can spare it, by the sample's name.

    Sections of one file may overlap, so of such a song all is trained on.
    """
    return {sample.name: round(SECTION_SHARE * sample.frames) for song in by_song(samples) for sample in song
            if sample.frames >= SHORTEST and len({one.latents for one in song}) == 1}


def _worth_it(config: TrainConfig, samples: Sequence[SampleInfo]) -> bool:
    """Return True if settings ask for it, or if crops are trained, which still fit into what is left of a song."""
    lengths = section_lengths(samples)
    rests = [sample.frames - lengths[sample.name] for sample in samples if sample.name in lengths]
    return bool(rests) and (bool(asks(config)) or 0 < config.chunk_frames <= max(rests))
