"""Songs of a training that is planned: of the encoded dataset if it is up to date, else of their files."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from ....sidestep_core.audio import container
from ....sidestep_core.dataset.config import PreprocessConfig
from ....sidestep_core.dataset.manifest import Dataset, open_dataset
from ....sidestep_core.dataset.sample_info import SampleInfo
from ....sidestep_core.errors import DatasetError
from ....sidestep_core.model.checkpoint import Checkpoint
from ....sidestep_core.model.flow_matching import FRAMES_PER_SECOND
from ....sidestep_core.model.prompts import COMFYUI
from ....sidestep_core.sentence import Sentence
from ....sidestep_core.songs.scan import find_songs
from ....sidestep_core.songs.song import Problem, Song, SongFolder
from ...widgets import words
from .. import folders, readable_folders
from ..wording import sentence
from .prompts import MAX_LINKS, Node, NotKnown

FOLDER_NODES = ("SideStepBuildDataset", "SideStepPreprocessAudioFolder")
SPLIT = "SideStepSplitSongs"
MAX_LENGTHS = 10_000

_lengths: OrderedDict[tuple[str, int, int], float] = OrderedDict()
"""Seconds of an audio file by path, size and time."""


@dataclass(frozen=True, kw_only=True)
class PlannedSongs:
    """Songs of a plan."""

    dataset: Dataset
    encoded: bool
    """True if the dataset is on the disk as it will be trained on."""
    problems: tuple[Problem, ...]
    """Files that are left out, and songs without a length."""
    notes: tuple[Sentence, ...]


def planned(node: Node, checkpoint: Checkpoint) -> PlannedSongs:
    """Find the songs that the dataset of Train LoRA will have.  NotKnown, or DatasetError in words."""
    if node.kind != "SideStepPreprocessAudioFolder":
        return _existing(node)
    target = folders.dataset_folder(node.text("dataset_name"))
    made = _opened(target)
    songs, is_split = _folder_of(node)
    found = find_songs(folders.given_folder(songs), may_read=readable_folders.may_read)
    if made is not None and made.checkpoint == checkpoint.fingerprint and (is_split or _is_current(made, found)):
        return PlannedSongs(dataset=made, encoded=not is_split, problems=found.problems, notes=())
    limit = words.parsed(PreprocessConfig, {"max_seconds": node.value("max_seconds")})["max_seconds"]
    config = PreprocessConfig.from_json({} if limit is None else {"max_seconds": limit})
    dataset, problems = _imagined(found, target, checkpoint, config.max_seconds)
    notes = (Sentence("Split Songs makes more of them."),) if is_split else ()
    return PlannedSongs(dataset=dataset, encoded=False, problems=(*found.problems, *problems), notes=notes)


def _existing(node: Node) -> PlannedSongs:
    """Dataset of another node, if it was made before."""
    name = node.text("dataset_name")
    made = _opened(folders.dataset_folder(name)) if name else None
    if made is None:
        raise NotKnown(Sentence("The songs are known once the workflow has run."))
    return PlannedSongs(dataset=made, encoded=True, problems=(), notes=())


def _opened(folder: Path) -> Dataset | None:
    try:
        return open_dataset(folder)
    except DatasetError:
        return None  # not prepared yet, or to be prepared again


def _folder_of(node: Node) -> tuple[str, bool]:
    """Folder that the songs come from, and whether they are split on the way."""
    is_split = False
    for _ in range(MAX_LINKS):
        source = node.source("songs")
        if source is None:
            if node.kind in FOLDER_NODES:
                return node.text("folder"), is_split
            break
        node = source
        is_split = is_split or node.kind == SPLIT
    raise NotKnown(Sentence("The songs come from a node that has not run: they are known once the workflow runs."))


def _is_current(made: Dataset, found: SongFolder) -> bool:
    """True if the dataset has the songs of the folder, as their files are now."""
    known = {sample.name: sample for sample in made.samples}
    if known.keys() != {song.name for song in found.songs}:
        return False
    files = ((known[song.name], song.path.stat()) for song in found.songs)
    return all((sample.size, sample.modified) == (facts.st_size, facts.st_mtime_ns) for sample, facts in files)


def _imagined(found: SongFolder, target: Path, checkpoint: Checkpoint,
              limit: float) -> tuple[Dataset, tuple[Problem, ...]]:
    """Make the dataset that encoding would make, as far as headers of the audio files tell."""
    samples, problems = [], []
    for song in found.songs:
        try:
            seconds = _seconds(song)
        except DatasetError as error:
            problems.append(Problem(name=song.name, reason=sentence(error)))
            continue
        frames = round((min(seconds, limit) if limit else seconds) * FRAMES_PER_SECOND)
        samples.append(SampleInfo(
            name=song.name, latents="", frames=max(1, frames), caption=song.caption, captions=song.captions,
            genre=song.genre, lyrics=song.lyrics, language=song.language, bpm=song.bpm, key=song.key,
            signature=song.signature, audio=str(song.path), size=0, modified=0, repeats=song.repeats))
    if not samples:
        raise DatasetError(f"None of the songs can be used. {problems[0].name}: {problems[0].reason}")
    return Dataset(folder=target, checkpoint=checkpoint.fingerprint, style=COMFYUI, trigger_word="",
                   samples=tuple(samples), genre_ratio=found.genre_ratio), tuple(problems)


def _seconds(song: Song) -> float:
    """Length of a song or section, from the header of its file."""
    facts = song.path.stat()
    key = (str(song.path), facts.st_size, facts.st_mtime_ns)
    whole = _lengths.get(key)
    if whole is None:
        whole = _lengths[key] = container.facts(song.path).seconds
        if len(_lengths) > MAX_LENGTHS:
            _lengths.popitem(last=False)
    return max(0.0, (song.stop or whole) - song.start)
